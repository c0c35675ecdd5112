"""Power laws of losses: what is fitted, how sure it is, and what cannot be fitted."""

import numpy as np
import pytest

from renaissance.commands.study import main
from renaissance.studies.results import entries_in
from renaissance.studies.scaling import PowerLaw, fit, points
from renaissance.tasks.run_record import MetricValue, RunRecord


ONE = np.array([[3.0**power] for power in range(9)])
NAMES = ["samples", "parameters", "FLOPs"]
TWO = np.array([[width, rows] for width in (1e5, 4e5, 2e6) for rows in (8e3, 2e4, 1e5)])


def middles(sizes: np.ndarray) -> tuple[float, ...]:
    return tuple(np.exp(np.log(sizes).mean(axis=0)))


@pytest.mark.parametrize(
    ("sizes", "law", "offset"),
    [
        (ONE, PowerLaw(0.5, (1.0,), (0.3,), middles(ONE)), None),
        (ONE, PowerLaw(0.0, (2.0,), (0.07,), middles(ONE)), 0.0),
        (ONE, PowerLaw(1.7, (0.4,), (1.2,), middles(ONE)), 1.7),
        (TWO, PowerLaw(1.69, (0.3, 0.5), (0.34, 0.28), middles(TWO)), None),
    ],
)
def test_a_law_without_noise_is_found(sizes, law, offset):
    fitted = fit(sizes, law.at(sizes), NAMES[: sizes.shape[1]], offset, draws=3)
    assert fitted.law.numbers == pytest.approx(law.numbers, rel=2e-3, abs=2e-3) and fitted.error < 1e-4
    assert fitted.low == pytest.approx(fitted.high, rel=0.02, abs=0.02)


def test_a_pure_law_is_the_line_in_logarithms():
    """Least squares of logarithms without an offset are those of a straight line."""
    values = 3.0 * ONE[:, 0] ** -0.2 * np.exp(0.1 * np.random.default_rng(0).standard_normal(9))
    slope, at_zero = np.polyfit(np.log(ONE[:, 0]), np.log(values), 1)
    law = fit(ONE, values, ["samples"], 0.0, draws=3).law
    assert law.exponents[0] == pytest.approx(-slope, rel=1e-4)
    assert law.at(np.array([[1.0]])) == pytest.approx(np.exp(at_zero), rel=1e-4)


def test_the_interval_holds_the_exponent_of_data_with_noise():
    """Of a line, whose interval by Student's t is known, it has about the width; more runs make it narrower."""
    rng, widths = np.random.default_rng(4), []
    for times in (2, 8):
        sizes = np.repeat(ONE, times, axis=0)
        values = 3.0 * sizes[:, 0] ** -0.2 * np.exp(0.05 * rng.standard_normal(len(sizes)))
        fitted = fit(sizes, values, ["samples"], 0.0, draws=100)
        assert fitted.low[2] < 0.2 < fitted.high[2] and fitted.error == pytest.approx(0.05, rel=0.4)
        spread = np.sqrt(np.sum((np.log(sizes) - np.log(sizes).mean()) ** 2))
        widths.append(fitted.high[2] - fitted.low[2])
        assert widths[-1] == pytest.approx(2 * 1.96 * 0.05 / spread, rel=0.5)
    assert widths[1] < 0.8 * widths[0]


@pytest.mark.slow
@pytest.mark.parametrize("offset", [None, 0.5])
def test_intervals_hold_what_they_say(offset):
    """Of 60 experiments of 27 runs each, about 95 % have an interval with the exponent in it."""
    rng, sizes = np.random.default_rng(2), np.repeat(ONE, 3, axis=0)
    law, hits = PowerLaw(0.5, (1.0,), (0.3,), middles(sizes)), 0
    for _ in range(60):
        values = law.at(sizes) * np.exp(0.02 * rng.standard_normal(len(sizes)))
        fitted = fit(sizes, values, ["samples"], offset, draws=100)
        hits += fitted.low[2] <= 0.3 <= fitted.high[2]
    assert hits >= 50


@pytest.mark.parametrize(
    ("sizes", "values", "message"),
    [
        (ONE[:3], [3.0, 2.0, 1.0], "3 runs do not say what 3 numbers of a law are; expected more than 3"),
        (ONE, [0.0] * 9, "above 0"),
        (ONE, [np.nan] * 9, "above 0"),
        (ONE * 0, [1.0] * 9, "above 0"),
        (np.ones((9, 1)), [1.0] * 9, "by: samples has 1 value in these runs; expected 3 or more"),
        (np.c_[TWO[:, 0], np.ones(9)], [1.0] * 9, "by: parameters has 1 value in these runs; expected 2 or more"),
        (np.c_[ONE, 7 * ONE**2], [1.0] * 9, "by: samples rises with parameters in these runs"),
        (np.c_[TWO, TWO.prod(axis=1)], [1.0] * 9, "by: samples rises with parameters and FLOPs in these runs"),
    ],
)
def test_what_cannot_be_fitted(sizes, values, message):
    with pytest.raises(ValueError, match=message):
        fit(sizes, np.array(values), NAMES[: sizes.shape[1]], draws=3)


@pytest.fixture
def runs(tmp_path):
    """Runs of three widths and three sizes of data, two seeds each, of a known law; of each, an accuracy of a tenth of the loss below 1."""
    law = PowerLaw(1.0, (0.5, 0.25), (0.3, 0.4), middles(TWO))
    for number, (sizes, loss) in enumerate(zip(np.repeat(TWO, 2, axis=0), np.repeat(law.at(TWO), 2), strict=True)):
        metrics = [
            MetricValue("eval_loss", "validation", "loss", loss, 200, lower_is_better=True),
            MetricValue("eval_accuracy", "validation", "accuracy", 1 - loss / 10, 200, 0.5, "majority"),
        ]
        RunRecord(
            name=str(number), task="Pretraining", status="finished", did=["train", "eval"], seed=number % 2, metrics=metrics,
            options={"seed": number % 2, "number": number // 2}, parameters=int(sizes[0]), samples=int(sizes[1]),
        ).write(tmp_path / f"run{number:02}")  # fmt: skip
    return tmp_path


@pytest.mark.slow
def test_the_law_of_a_folder_of_runs(runs, tmp_path, capsys):
    for metric, share in (("eval_loss", 1.0), ("Pretraining.eval_accuracy", 0.1)):
        with pytest.raises(SystemExit) as end:
            main(["scaling", str(runs), "--metric", metric, "--by", "parameters", "samples"])
        lines = capsys.readouterr().out.splitlines()
        assert end.value.code == 0 and lines[0].startswith("1 - " * (share < 1) + f"{metric} = {share:.4g} + ")
        numbers = {line.split(" | ")[0].lstrip("| "): float(line.split(" | ")[1]) for line in lines if " to " in line}
        expected = {
            "offset": share, "scale of parameters": 0.5 * share, "scale of samples": 0.25 * share,
            "exponent of parameters": 0.3, "exponent of samples": 0.4,
        }  # fmt: skip
        assert numbers == pytest.approx(expected, rel=0.01)
        assert "18 runs" in lines[-1] and len([line for line in lines if line.startswith("| run")]) == 18


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--metric", "eval_los", "--by", "samples"], "metric: no run has eval_los; expected any of Pretraining.eval_accuracy"),
        (["--metric", "eval_loss", "--by", "sample"], "by: no size sample; expected any of parameters"),
        (["--metric", "eval_loss", "--by", "peak MB"], "has no peak MB"),
        (["--metric", "other.eval_loss", "--by", "samples"], "metric: no run has other.eval_loss"),
        (["--metric", "eval_loss", "--by", "samples", "--offset", "9"], "offset 9"),
        (["--metric", "eval_loss", "--by", "samples", "--offset", "-1"], "--offset"),
    ],
)  # fmt: skip
def test_mistakes_of_the_command(runs, refused, argv, message):
    assert message in refused(main, ["scaling", str(runs), *argv])


def test_runs_that_diverged_are_left_out_and_named(runs, caplog):
    record = RunRecord.read(runs / "run03")
    record.metrics[0].value = None
    record.write(runs / "run03")
    entries, _ = entries_in(runs)
    assert len(list(points(entries, "eval_loss", ["samples"]))) == 17
    assert caplog.messages == [f"{runs / 'run03'} is left out: its eval_loss is not finite (diverged?)"]


def test_a_metric_of_two_stages_needs_the_name_of_one(runs, refused):
    record = RunRecord.read(runs / "run00")
    record.task = "NLVR2"
    record.write(runs / "other")
    assert "expected one, as in NLVR2.eval_loss" in refused(
        main, ["scaling", str(runs), "--metric", "eval_loss", "--by", "samples"]
    )

"""Tables of runs: intervals, baselines, costs, and what a reader must be warned of."""

import csv
import io
import logging
import math
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import TWO_TOWER

from renaissance.commands.study import main
from renaissance.studies.intervals import interval_of
from renaissance.studies.notes import DONE, Note
from renaissance.studies.paired import compare
from renaissance.studies.plan import runs_of
from renaissance.studies.results import columns_of, entries_in
from renaissance.studies.spec import Study
from renaissance.studies.tables import as_csv, costs_of, latex, markdown, write_parquet
from renaissance.tasks.nlvr2 import NLVR2
from renaissance.tasks.run_record import DataSplit, MetricValue, RunRecord
from renaissance.tasks.runner import run_task


def accuracy(value: float, rows: int = 200) -> MetricValue:
    return MetricValue("eval_accuracy", "validation", "accuracy", value, rows, 0.5, "majority", False, value > 0.5)


def write_run(folder: Path, value: float, seed: int, fingerprint: str = "same", **options) -> None:
    loss = MetricValue("eval_loss", "validation", "loss", 1 - value, 200, lower_is_better=True)
    RunRecord(
        name=folder.name,
        task="NLVR2",
        status="finished",
        did=["train", "eval"],
        seed=seed,
        options={"seed": seed, **options},
        parameters=1000,
        trainable_parameters=600,
        samples=64,
        flops=2.5e12,
        energy_joules=7200.0,
        train_seconds=36.0,
        num_processes=2,
        peak_memory_bytes=5_000_000,
        data=[DataSplit("validation", ["./data"], 200, fingerprint)],
        metrics=[accuracy(value), loss],
    ).write(folder)


@pytest.fixture
def runs(tmp_path) -> Path:
    for seed, value in enumerate((0.6, 0.7, 0.8)):
        write_run(tmp_path / f"frozen_{seed}", value, seed, freeze=["text"])
    write_run(tmp_path / "free & easy|", 0.75, 0)
    return tmp_path


def test_the_interval_over_seeds_is_that_of_students_t():
    """Of 0.6, 0.7 and 0.8: the mean 0.7, and 4.3027 (two degrees of freedom) times 0.1 over the root of 3 to each side."""
    found = interval_of([accuracy(value) for value in (0.6, 0.7, 0.8)])
    assert found.kind == "seeds" and found.mean == pytest.approx(0.7)
    assert (found.low, found.high) == pytest.approx((0.7 - 0.248414, 0.7 + 0.248414), abs=1e-5)


@pytest.mark.parametrize(("right", "rows"), [(150, 200), (3, 7), (0, 20), (20, 20)])
def test_the_interval_of_one_seed_is_that_of_the_bootstrap_over_rows(right, rows):
    found = interval_of([accuracy(right / rows, rows)])
    scores = np.arange(rows) < right
    draws = scores[np.random.default_rng(0).integers(0, rows, (20_000, rows))].mean(axis=1)
    assert found.kind == "rows"
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=1.01 / rows)


def test_a_loss_of_one_seed_has_no_interval():
    found = interval_of([MetricValue("eval_loss", "validation", "loss", 0.3, 200)])
    assert (found.mean, found.low, found.kind) == (0.3, None, "")


def test_runs_that_differ_in_their_seed_alone_are_one_variant(runs):
    entries, _ = entries_in(runs)
    (column,) = columns_of(entries)
    assert column.title == "NLVR2 validation accuracy" and column.baseline == 0.5
    assert {name: len(each.values) for name, each in column.values.items()} == {"free & easy|": 1, "frozen_0": 3}
    lines = markdown(entries, [column]).splitlines()
    assert lines[2].startswith(r"| free & easy\| | 0.75 [0.69, 0.81] | 1,000 | 600 | 64 | 2.5e+12 | 0.020 | 5 | 2 |")
    assert lines[3].startswith("| frozen_0 | 0.7 [0.4516, 0.9484] | 1,000 | 600 | 64 | 2.5e+12 | 0.020 | 5 | 2 |")
    assert lines[4].startswith("| (majority) | 0.5 |")
    assert lines[-1].startswith("In brackets, over several seeds") and "bootstrap over rows" in lines[-1]
    table = latex(entries, [column])
    assert r"free \& easy| & 0.75 [0.69, 0.81]" in table and r"frozen\_0 &" in table and table.count(r"\\") == 4


def test_runs_without_an_input_are_the_last_rows(runs):
    """Also if a run that sees all comes after them; those of other seeds are one row, and evaluations are none with trainings."""
    for seed, value in enumerate((0.4, 0.5, 0.6)):
        write_run(runs / f"blind_{seed}", value, seed, remove_input="image")
    write_run(runs / "evaluated", 0.55, 0, remove_input="image")
    record = RunRecord.read(runs / "evaluated")
    record.did, record.samples, record.train_seconds = ["eval"], None, 0.0
    record.flops = record.energy_joules = None
    record.write(runs / "evaluated")
    entries, _ = entries_in(runs)
    (column,) = columns_of(entries)
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in markdown(entries, [column]).splitlines()
    ]
    assert [line[0] for line in lines[3:7]] == [
        "frozen_0",
        "blind_0 (trained without image)",
        "evaluated (image removed)",
        "(majority)",
    ]
    assert lines[4][1].startswith("0.5 [0.25") and lines[4][2:] == ["1,000", "600", "64", "2.5e+12", "0.020", "5", "2"]
    assert lines[5][1].startswith("0.55 [0.4") and lines[5][2:] == ["1,000", "600", "", "", "", "5", ""]
    rows = list(csv.DictReader(io.StringIO(as_csv(entries, [column]))))
    assert {row["variant"]: row["input_removed"] for row in rows} == {
        "blind_0 (trained without image)": "trained without image",
        "evaluated (image removed)": "image removed",
        "free & easy|": "",
        "frozen_0": "",
    }


def test_baselines_of_a_study_stand_in_the_columns_of_their_stage(tmp_path, capsys):
    """One row for each variant and kind, below all variants; what one of them cost is that of its own runs."""
    path = tmp_path / "study.yaml"
    path.write_text(
        f"""
output_dir: {tmp_path}/out
stages:
  pretraining: {{command: pretrain, recipe: pretrain_shapes_two_tower}}
  nlvr2: {{command: nlvr2, recipe: nlvr2_shapes, from: pretraining, baselines: [text_removed, trained_without_image]}}
axes:
  objectives: {{both: {{}}, mlm: {{pretraining: {{objectives: [mlm]}}}}}}
"""
    )
    for number, run in enumerate(runs_of(Study.read(str(path)))):
        write_run(run.folder, 0.5 + number / 100, 0)
        Note(DONE).write(run)
    with pytest.raises(SystemExit):
        main(["table", str(path)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(
        "| variant | pretraining validation accuracy | nlvr2 validation accuracy | parameters |"
    )
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:9]]
    assert [(row[0], row[1][:4], row[2][:4], row[5]) for row in cells] == [
        ("both", "0.5 ", "0.51", "128"),
        ("mlm", "0.54", "0.55", "128"),
        ("both (text removed)", "", "0.52", "64"),
        ("both (trained without image)", "", "0.53", "64"),
        ("mlm (text removed)", "", "0.56", "64"),
        ("mlm (trained without image)", "", "0.57", "64"),
        ("(majority)", "0.5", "0.5", ""),
    ]


def test_a_sum_of_costs_is_not_told_if_one_of_its_parts_is_not_known(runs):
    """A mean over seeds of what some seeds know would be as well another sum; what is the largest is told."""
    record = RunRecord.read(runs / "frozen_1")
    record.flops = record.energy_joules = record.peak_memory_bytes = None
    record.write(runs / "frozen_1")
    found = costs_of(entries_in(runs)[0], "frozen_0")
    assert found["FLOPs"] is found["Wh"] is None
    assert found["peak MB"] == 5 and found["samples"] == 64 and found["device-hours"] == pytest.approx(0.02)


def test_rows_for_programs(runs, tmp_path):
    entries, _ = entries_in(runs)
    columns = columns_of(entries, ["eval_loss", "NLVR2.eval_accuracy"])
    rows = list(csv.DictReader(io.StringIO(as_csv(entries, columns))))
    assert [(row["variant"], row["metric"], float(row["mean"])) for row in rows] == [
        ("free & easy|", "accuracy", 0.75),
        ("frozen_0", "accuracy", pytest.approx(0.7)),
        ("free & easy|", "loss", 0.25),
        ("frozen_0", "loss", pytest.approx(0.3)),
    ]
    write_parquet(entries, columns, tmp_path / "table.parquet")
    assert [row["mean"] for row in pq.read_table(tmp_path / "table.parquet").to_pylist()] == [
        float(row["mean"]) for row in rows
    ]


def test_the_main_metrics_are_columns_and_patterns_choose_others(tmp_path):
    """Of each split, and of each objective, the one that is reported first; not those that say more of the same."""
    found = {
        "eval_loss": None,
        "eval_mlm_accuracy": 0.2,
        "eval_itm_accuracy": 0.5,
        "eval_accuracy": 0.3,
        "eval_auroc": 0.5,
    }
    found |= {"eval_itm_auroc": 0.5, "test_testA_accuracy": 0.3, "test_testB_accuracy": 0.3, "train_loss": None}
    splits = {"eval": "validation", "test": "test", "train": "train"}
    write_run(tmp_path / "run", 0.5, 0)
    record = RunRecord.read(tmp_path / "run")
    record.objectives = ["mlm", "itm"]
    record.metrics = [
        MetricValue(name, split, name.partition("_")[2], 0.7, 100, baseline)
        for name, baseline in found.items()
        for split in [name.split("_")[1] if "_test" in name else splits[name.partition("_")[0]]]
    ]
    record.write(tmp_path / "run")
    entries, _ = entries_in(tmp_path)
    main = ["eval_mlm_accuracy", "eval_itm_accuracy", "eval_accuracy", "test_testA_accuracy", "test_testB_accuracy"]
    assert [column.metric.name for column in columns_of(entries)] == main
    assert [column.metric.name for column in columns_of(entries, ["*_auroc"])] == ["eval_auroc", "eval_itm_auroc"]
    assert len(columns_of(entries, ["NLVR2.*"])) == len(found)
    with pytest.raises(ValueError, match="no run has GLUE"):
        columns_of(entries, ["eval_loss", "GLUE.*"])


def test_runs_of_other_data_in_one_column_are_warned_of(runs, caplog):
    write_run(runs / "elsewhere", 0.9, 0, "other", freeze=["vision"])
    with caplog.at_level(logging.WARNING):
        columns_of(entries_in(runs)[0])
    (message,) = caplog.messages
    assert "NLVR2: runs of different data (split validation)" in message
    assert str(runs / "elsewhere") in message and "frozen_1" not in message


def test_a_metric_without_a_value_is_one_that_no_run_has(tmp_path):
    write_run(tmp_path / "run", 0.5, 0)
    record = RunRecord.read(tmp_path / "run")
    record.metrics[0].value = None
    record.write(tmp_path / "run")
    with pytest.raises(ValueError, match=r"no run has eval_accuracy; expected any of eval_loss$"):
        columns_of(entries_in(tmp_path)[0], ["eval_accuracy"])


@pytest.mark.parametrize(
    ("place", "more", "message"),
    [
        ("{runs}", ["--metrics", "eval_f1"], "no run has eval_f1; expected any of eval_accuracy, eval_loss"),
        ("{runs}/empty", [], "empty: there is no run in it or below it"),
        ("{runs}/broken", [], "run.json"),
        ("{runs}", ["--format", "parquet"], "format: parquet needs --output"),
        ("{runs}", ["--format", "excel"], "invalid choice: 'excel'"),
        ("{runs}/nothing", [], "no such file"),
    ],
)
def test_mistakes(runs, capsys, place, more, message):
    (runs / "empty").mkdir()
    broken = runs.parent / f"{runs.name}_broken"
    broken.mkdir()
    (broken / "run.json").write_text('{"format": 1, "metrics": 7}')
    place = place.replace("{runs}/broken", str(broken)).format(runs=runs)
    with pytest.raises(SystemExit) as end:
        main(["table", place, *more])
    errors = capsys.readouterr().err
    assert end.value.code == 2 and message in errors and errors.count("\n") == 1


def test_the_table_is_printed_or_written(runs, capsys):
    with pytest.raises(SystemExit) as end:
        main(["table", str(runs)])
    printed = capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["table", str(runs), "--output", str(runs / "table.md")])
    assert end.value.code == 0 and (runs / "table.md").read_text() == printed and "frozen_0" in printed


def right(only_first: int, only_other: int, both: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows that two runs get right, in a drawn order."""
    kinds = np.repeat([[1, 0], [0, 1], [1, 1], [0, 0]], [only_first, only_other, both, neither], axis=0).astype(bool)
    kinds = np.random.default_rng(0).permutation(kinds)
    return kinds[:, 0], kinds[:, 1]


def flip(line: str) -> str:
    """A line of predictions with the other answer."""
    return line.replace("True", "-").replace("False", "True").replace("-\n", "False\n")


def test_runs_are_compared_row_by_row():
    """15 and 5 rows that one alone gets right: 15 or more of 20 throws of a coin, or as few, have a chance of 0.0414."""
    found = compare(*right(15, 5, 45, 35))
    assert (found.rows, found.only_first, found.only_other) == (100, 15, 5) and found.difference == pytest.approx(0.1)
    assert found.p == pytest.approx(2 * sum(math.comb(20, k) for k in range(6)) / 2**20)
    # Of differences of 1, -1 and 0 with the variance 0.2 - 0.01.
    half = 1.96 * (0.19 / 100) ** 0.5
    assert (found.low, found.high) == pytest.approx((0.1 - half, 0.1 + half), abs=0.011)


def test_runs_that_agree_do_not_differ():
    found = compare(*right(0, 0, 7, 3))
    assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)


@pytest.mark.parametrize("rows", [0, 9])
def test_runs_of_other_rows_are_not_compared(rows):
    with pytest.raises(ValueError, match=rf"runs of {rows} and {10 * bool(rows)} rows"):
        compare(np.ones(rows, bool), np.ones(10 * bool(rows), bool))


def test_variants_are_compared_on_what_they_predicted(shapes, options, tmp_path, capsys, caplog):
    """A model and a damaged copy of it, whose answers differ where their files do."""
    whole, other = tmp_path / "runs" / "whole", tmp_path / "runs" / "other"
    argv = ["--dataset", str(shapes / "nlvr2"), "--do_train", "--max_steps", "1", "--do_predict"]
    run_task(NLVR2, "", [*TWO_TOWER, *options, *argv, "--output_dir", str(whole)])
    shutil.copytree(whole, other)
    record = RunRecord.read(other)
    record.options["freeze"] = ["text"]
    record.write(other)
    lines = (whole / "predictions.csv").read_text().splitlines(keepends=True)
    flipped = [flip(line) if number < 3 else line for number, line in enumerate(lines)]
    (other / "predictions.csv").write_text("".join(flipped))
    assert lines[3:] == flipped[3:] and lines[:3] != flipped[:3]
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(["compare", str(tmp_path / "runs"), "--against", "whole"])
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "| other |" in line]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert end.value.code == 0 and cells[:3] == ["NLVR2", "test", "other"] and int(cells[4]) == len(lines)
    assert int(cells[6]) + int(cells[7]) == 3
    # As many rows of other data are no reason to compare.
    record.of_split("test").fingerprint = "other"
    record.write(other)
    with pytest.raises(SystemExit) as end, caplog.at_level(logging.WARNING):
        main(["compare", str(tmp_path / "runs")])
    assert end.value.code == 2 and "no two variants have predictions for the same rows" in capsys.readouterr().err
    assert f"{other}: not compared, for their 'test' are different data" in caplog.text
    record.of_split("test").fingerprint = RunRecord.read(whole).of_split("test").fingerprint
    record.write(other)
    with pytest.raises(SystemExit) as end:
        main(["compare", str(tmp_path / "runs"), "--against", "nobody"])
    assert end.value.code == 2 and "no variant nobody; expected one of" in capsys.readouterr().err
    # Of three runs, one file of predictions is cut: the other two are compared.
    shutil.copytree(other, tmp_path / "runs" / "third")
    record.options["freeze"] = ["vision"]
    record.write(tmp_path / "runs" / "third")
    (other / "predictions.csv").write_text("".join(flipped[1:]))
    caplog.clear()
    with pytest.raises(SystemExit) as end, caplog.at_level(logging.WARNING):
        main(["compare", str(tmp_path / "runs"), "--against", "whole"])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| NLVR2")]
    assert end.value.code == 0 and len(rows) == 1 and "| third |" in rows[0]
    (message,) = [line for line in caplog.messages if "not compared" in line]
    assert str(other / "predictions.csv") in message

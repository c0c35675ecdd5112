"""The output of a run: progress bar, log, summary, paths of its files, and the end by Ctrl-C."""

import contextlib
import json
import logging
import os
import pty
import re
import select
import shlex
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from conftest import TWO_TOWER
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from renaissance.tasks.logs import run_handler, shorten_loading_report
from renaissance.tasks.nlvr2 import NLVR2
from renaissance.tasks.preparation import prepare
from renaissance.tasks.pretraining import Pretraining
from renaissance.tasks.progress import BAR, BarHandler, track
from renaissance.tasks.runner import run_task


SCRIPT = str(Path(__file__).parents[1] / "run_scripts" / "run_nlvr2.py")


@pytest.fixture(autouse=True)
def script(monkeypatch):
    """Runs here are those of a script, as the next command repeats it."""
    monkeypatch.setattr(sys, "argv", [SCRIPT])


@pytest.fixture
def log(monkeypatch):
    """The handler of a run's log, on the root logger, as in a script."""
    handler = run_handler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logging.getLogger().addHandler(handler)
    yield
    logging.getLogger().removeHandler(handler)


@pytest.fixture
def argv(shapes, options) -> list[str]:
    """A training of a tiny model: 8 steps, an epoch of 4 steps."""
    named = [*TWO_TOWER, *options, "--dataset", str(shapes / "nlvr2"), "--disable_tqdm", "false"]
    return [*named, "--do_train", "--do_eval", "--num_train_epochs", "2"]


def facts(printed: str) -> dict[str, str]:
    """The facts of a summary, by their names."""
    return dict(re.findall(r"^([a-z ]+): +(.*)$", printed, flags=re.MULTILINE))


def test_a_run_from_its_log_to_its_next_command(argv, log, tmp_path, capsys):
    steps = ["--eval_strategy", "epoch", "--save_strategy", "epoch", "--load_best_model_at_end", "--do_predict"]
    metrics = run_task(NLVR2, "", [*argv, *steps, "--report_to", "tensorboard"])
    folder, (out, err) = tmp_path / "run", capsys.readouterr()

    # In a file there is no bar, and each line says the step.
    assert "\r" not in err and "%|" not in err and "{" not in err
    steps = re.findall(r"^step (\d)/8, epoch ([\d.]+): loss ([\d.]+), .*, \d\d:\d\d left$", err, flags=re.MULTILINE)
    assert [step for step, *_ in steps] == ["2", "4", "6", "8"]
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert [float(loss) for *_, loss in steps] == pytest.approx(losses, rel=1e-3)
    accuracies = re.findall(
        r"^step [48]/8, epoch [12]: .*eval_accuracy ([\d.]+) \(majority 0.5000\), 10 rows", err, re.M
    )
    expected = [entry["eval_accuracy"] for entry in history if "eval_accuracy" in entry]
    assert len(accuracies) == 2 and [float(found) for found in accuracies] == pytest.approx(expected, abs=1e-4)

    found = facts(out)
    assert (
        "TwoTowerForImagesAndTextClassification, 0.11M parameters; 32 rows, 8 steps of 8, 2 epochs" in found["trained"]
    )
    assert found["trained"].endswith("float32")
    assert re.fullmatch(r"that of step [48] of 8, with the highest eval_accuracy, [\d.]+", found["the model is"])
    assert float(re.search(r"at most ([\d.]+) GB", found["memory"])[1]) > 0.1
    for name, place in {"saved in": folder, "card": folder / "README.md", "options": folder / "run.yaml"}.items():
        assert found[name] == str(place) and place.exists()
    assert (
        found["predictions"] == str(folder / "predictions.csv")
        and len(Path(found["predictions"]).read_text().split()) == 10
    )
    for split in ("eval", "test"):
        baseline = metrics[f"{split}_majority_accuracy"]
        line = rf"^{split}_accuracy +{metrics[f'{split}_accuracy']:.4f} +{baseline:.4f} \(majority\) +10$"
        assert re.search(line, out, flags=re.MULTILINE)
    assert "runtime" not in out and "per_second" not in out

    events = EventAccumulator(str(next((folder / "runs").iterdir()))).Reload()
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(losses)
    assert [event.step for event in events.Scalars("train/loss")] == [2, 4, 6, 8]
    assert [event.value for event in events.Scalars("eval/accuracy")][:2] == pytest.approx(expected)


def test_all_files_of_a_run_are_readable_alike(argv, tmp_path):
    before = os.umask(0o027)
    try:
        run_task(NLVR2, "", [*argv, "--max_steps", "1", "--save_steps", "1"])
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert "model.safetensors" in modes and set(modes.values()) == {0o640}, modes


@pytest.mark.slow
def test_the_next_commands_run(argv, shapes, options, tmp_path, capsys):
    """After a training without evaluation: that; after one with it: a prediction; after pretraining: finetuning."""
    trained = [part for part in argv if part != "--do_eval"]
    run_task(NLVR2, "", trained)
    python, script, *rest = shlex.split(facts(capsys.readouterr().out)["next"])
    assert (python, script) == ("python", SCRIPT)
    # The recipe of a new model follows the trained one.
    metrics = run_task(NLVR2, "", rest)
    out = capsys.readouterr().out
    folder = f"{tmp_path / 'run'}-evaluation"
    assert metrics["eval_rows"] == 10 and str(tmp_path / "run") in facts(out)["evaluated"]
    assert facts(out)["options"] == f"{folder}/run.yaml" and Path(folder, "run.yaml").is_file()
    assert not {"saved in", "card", "trained"} & facts(out).keys()
    *_, rest = facts(out)["next"].split(SCRIPT)
    rest = rest.replace("FILE", str(next((shapes / "nlvr2").glob("test-*"))))
    metrics = run_task(NLVR2, "", [*shlex.split(rest), *options[2:-2]])
    assert metrics["test_rows"] == 10 and Path(facts(capsys.readouterr().out)["predictions"]).is_file()

    pretrained = [
        *TWO_TOWER,
        *options,
        "--output_dir",
        str(tmp_path / "pre"),
        "--train_datasets",
        str(shapes / "captions"),
    ]
    run_task(
        Pretraining,
        "",
        [*pretrained, "--do_train", "--do_eval", "--eval_datasets", str(shapes / "captions"), "--max_steps", "1"],
    )
    python, script, *rest = shlex.split(facts(capsys.readouterr().out)["next"])
    assert Path(script).is_file() and Path(rest[0]).is_file()
    prepare(NLVR2, "", [*rest, "--dataset", str(shapes / "nlvr2"), "--image_size", "32", "--use_cpu"])


def test_an_evaluation_leaves_its_options_and_those_of_the_training(argv, tmp_path):
    run_task(NLVR2, "", [*(part for part in argv if part != "--do_eval"), "--max_steps", "1"])
    folder = tmp_path / "run"
    options = (folder / "run.yaml").read_bytes()
    evaluation = [str(folder / "run.yaml"), "--model_name_or_path", str(folder), "--do_train", "false", "--do_eval"]
    for _ in range(2):
        run_task(NLVR2, "", [*evaluation, "--eval_accumulation_steps", "3"])
        assert (folder / "run.yaml").read_bytes() == options
        saved = yaml.safe_load((folder / "run_evaluation.yaml").read_text())
        assert saved["do_train"] is False and saved["eval_accumulation_steps"] == 3
    other = tmp_path / "other"
    for rows in (3, 4):
        run_task(NLVR2, "", [*evaluation, "--output_dir", str(other), "--max_eval_samples", str(rows)])
        assert yaml.safe_load((other / "run.yaml").read_text())["max_eval_samples"] == rows
    assert not (other / "run_evaluation.yaml").exists()


@pytest.fixture
def heeded():
    """Ctrl-C is heeded, also where the tests run in the background, in which it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Interrupt(logging.Handler):
    """Sends Ctrl-C when a line is logged."""

    def __init__(self, line: str):
        super().__init__()
        self.line = line

    def emit(self, record):
        if re.match(self.line, record.getMessage()):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
    ("line", "extra", "said"),
    [
        ("evaluation: ", [], "after training: the model is saved in {run}; the same command evaluates it"),
        (
            "evaluation: ",
            ["--do_train", "false"],
            "in evaluation: nothing of it is saved; the same command does it again",
        ),
        ("TwoTower", [], "before the run began: nothing of it is saved; the same command starts it again"),
    ],
    ids=["after training", "in evaluation", "before training"],
)
def test_ctrl_c_ends_in_one_line(heeded, line, extra, said, argv, tmp_path, capsys):
    handler = Interrupt(line)
    logging.getLogger("renaissance").addHandler(handler)
    try:
        with pytest.raises(SystemExit) as stopped:
            run_task(NLVR2, "", [*argv, *extra])
    finally:
        logging.getLogger("renaissance").removeHandler(handler)
    assert stopped.value.code == 130
    err = capsys.readouterr().err
    assert err.count("stopped by Ctrl-C") == 1 and "Traceback" not in err
    assert said.replace("{run}", str(tmp_path / "run")) in err.splitlines()[-1]


@contextlib.contextmanager
def terminal(monkeypatch) -> Iterator[Callable[[], str]]:
    """A context with stderr on a terminal; gives a function that returns what the terminal has got since the last call."""
    reader, writer = pty.openpty()
    with monkeypatch.context() as patch, os.fdopen(writer, "w", buffering=1) as stream:
        patch.setattr(sys, "stderr", stream)
        yield lambda: b"".join(
            os.read(reader, 4096) for _ in iter(lambda: select.select([reader], [], [], 0.1)[0], [])
        ).decode()
    os.close(reader)


def test_a_terminal_has_one_bar(monkeypatch):
    """Also in a terminal that does not know its width; log lines are above the bar, and an evaluation is in it."""
    with terminal(monkeypatch) as shown:
        BAR.begin("training", 10, done=4)
        BAR.advance(1, loss="0.25")
        BarHandler().handle(logging.makeLogRecord({"msg": "a line"}))
        assert list(track(range(3), "scoring pairs", silent=False)) == [0, 1, 2]
        BAR.end()
        text = shown()
    assert "training:  40%|" in text and "5/10 [" in text and "steps/s" in text and "loss=0.25" in text
    assert re.search(r"\ra line\r?\n", text), text
    assert "scoring pairs 3/3:  50%|" in text and "scoring pairs: " not in text
    # Drawn again and again in one place: lines end only behind log lines and the bar.
    assert text.count("\n") == 2


def test_an_evaluation_alone_has_a_bar_of_its_own(monkeypatch):
    with terminal(monkeypatch) as shown:
        assert list(track("abc", "scoring pairs", silent=False)) == ["a", "b", "c"]
        text = shown()
        assert list(track("abc", "scoring pairs", silent=True)) == ["a", "b", "c"]
    assert "scoring pairs:   0%|" in text and "3/3 [" in text and BAR.shown is None


def test_a_loading_report_is_one_line():
    """As transformers writes it: a table of weights, most of which nobody can do anything about."""
    table = (
        "\033[1mTwoTowerForX LOAD REPORT\033[0m from: some/checkpoint\nKey | Status | \n----+----+-\n"
        "classifier.dense.weight | MISSING | \nclassifier.out.bias \t| MISSING | \nhead.{0, 1}.weight | UNEXPECTED | \n"
        "\nNotes:\n- MISSING:\tthose params were newly initialized."
    )
    record = logging.makeLogRecord({"msg": table})
    assert shorten_loading_report(record)
    assert record.getMessage() == "some/checkpoint: new, random weights for classifier; without use for head"
    other = logging.makeLogRecord({"msg": "anything %s", "args": ("else",)})
    assert shorten_loading_report(other) and other.getMessage() == "anything else"


@pytest.mark.slow
def test_a_script_makes_no_noise(argv, tmp_path):
    """A process of its own, with workers, that finetunes a checkpoint; and Ctrl-C, which its workers get as well."""
    run_task(NLVR2, "", argv)
    named = [*argv[argv.index("--dataset") :], "--model_name_or_path", str(tmp_path / "run")]
    command = [sys.executable, SCRIPT, *named, "--output_dir", str(tmp_path / "second"), "--logging_steps", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert all(re.match(r"\d\d:\d\d:\d\d ", line) for line in done.stderr.splitlines()), done.stderr
    assert done.stdout.startswith("\ntrained: ") and "WARNING" not in done.stdout + done.stderr

    command += ["--output_dir", str(tmp_path / "third"), "--max_steps", "100000", "--dataloader_num_workers", "2"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    lines = []
    for line in process.stdout:
        lines.append(line)
        if " step 3/" in line:
            os.killpg(process.pid, signal.SIGINT)
            break
    lines += process.stdout.readlines()
    assert process.wait() == 75 and "stopped by Ctrl-C at step" in lines[-1]
    assert not any("Traceback" in line for line in lines), lines


#: A training in a process that also finds the packages of a folder, behind all others.
WITH_PACKAGES = """
import sys
sys.path.append(sys.argv.pop(1))
from renaissance_cli.main import main
main()
"""


@pytest.mark.slow
def test_tensorboard_and_trackio_get_the_same_at_once(argv, tmp_path):
    """With trackio from the package index, in a folder of its own."""
    packages, home = tmp_path / "packages", tmp_path / "trackio"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(packages), "trackio"]
    subprocess.run(install, check=True, capture_output=True)
    options = [*argv, "--eval_strategy", "epoch", "--report_to", "tensorboard", "trackio", "--run_name", "first"]
    command = [sys.executable, "-c", WITH_PACKAGES, str(packages), "nlvr2", *options, "--project", "pairs"]
    environment = os.environ | {"TRACKIO_DIR": str(home), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    with contextlib.closing(sqlite3.connect(home / "pairs.db")) as database:
        logged = [
            json.loads(row) for (row,) in database.execute("SELECT metrics FROM metrics WHERE run_name = 'first'")
        ]
    history = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    (folder,) = (tmp_path / "run" / "runs").iterdir()
    events = EventAccumulator(str(folder)).Reload()
    for tag, key in (("train/loss", "loss"), ("eval/accuracy", "eval_accuracy")):
        expected = [(entry["step"], pytest.approx(entry[key])) for entry in history if key in entry]
        assert len(expected) >= 2
        assert [(row["train/global_step"], row[tag]) for row in logged if tag in row][: len(expected)] == expected
        assert [(event.step, event.value) for event in events.Scalars(tag)][: len(expected)] == expected

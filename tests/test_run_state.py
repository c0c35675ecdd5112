"""The same command does what a run still lacks; a finished run is extended or evaluated again; nobody else writes there."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from broken_runs import same_weights
from conftest import TWO_TOWER
from safetensors.torch import load_file

from renaissance.tasks.run_lock import exclusive
from renaissance.tasks.run_record import RunRecord
from renaissance.tasks.run_state import STATE_FILE, RunState
from renaissance.tasks.runner import run_task
from renaissance.tasks.snli_ve import SNLIVE


PARTS = ["--do_train", "--do_eval", "--do_predict"]
STEPS = ["--max_steps", "4", "--save_strategy", "steps", "--save_steps", "2", "--learning_rate", "1e-2"]


@pytest.fixture(scope="session")
def command(shapes, tokenizer_folder) -> list[str]:
    """Options of a run but for its folder and its parts."""
    argv = [*TWO_TOWER, "--dataset", str(shapes / "snli_ve"), "--report_to", "none", "--disable_tqdm", "true"]
    return [
        *argv,
        "--per_device_train_batch_size",
        "8",
        "--seed",
        "1",
        "--tokenizer",
        str(tokenizer_folder),
        "--use_cpu",
    ]


@pytest.fixture(scope="session")
def whole(command, tmp_path_factory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    run_task(SNLIVE, "", [*command, *STEPS, *PARTS, "--output_dir", str(folder)])
    return folder


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    """A copy of that folder."""
    shutil.copytree(whole, tmp_path / "run")
    return tmp_path / "run"


def fails(*args, **kwargs):
    raise OSError("the power went")


def results(folder: Path) -> dict:
    return json.loads((folder / "all_results.json").read_text())


@pytest.mark.parametrize("part", ["evaluate", "predict"])
def test_the_same_command_does_what_is_left(command, whole, tmp_path, monkeypatch, part):
    """A run that ends behind its training is evaluated, and predicts, with the weights that it has trained."""
    argv = [*command, *STEPS, *PARTS, "--output_dir", str(tmp_path / "run")]
    with monkeypatch.context() as broken, pytest.raises(OSError, match="the power went"):
        broken.setattr(f"renaissance.tasks.trainer.RenaissanceTrainer.{part}", fails)
        run_task(SNLIVE, "", argv)
    state = RunState.find(tmp_path / "run")
    assert (state.trained, state.evaluated, state.predicted) == (True, part == "predict", False)
    before = (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns
    run_task(SNLIVE, "", argv)
    assert same_weights(tmp_path / "run", whole)
    assert (tmp_path / "run" / "model.safetensors").stat().st_mtime_ns == before
    expected = {name: value for name, value in results(whole).items() if "accuracy" in name or "rows" in name}
    assert {name: results(tmp_path / "run")[name] for name in expected} == expected
    predictions = [(run / "predictions.csv").read_text() for run in (whole, tmp_path / "run")]
    assert predictions[0] == predictions[1]
    record = RunRecord.read(tmp_path / "run")
    assert record.did == ["train", "eval", "predict"] and record.status == "finished" and record.steps == 4
    assert "test_accuracy" in (tmp_path / "run" / "README.md").read_text()


@pytest.mark.parametrize("saved", [True, False])
def test_a_run_that_ends_before_its_model_is_saved(command, whole, tmp_path, monkeypatch, saved):
    """It goes on from its checkpoint, which may be that of the last step."""
    argv = [*command, *STEPS, *PARTS, "--output_dir", str(tmp_path / "run")]
    argv += [] if saved else ["--save_steps", "3"]
    with monkeypatch.context() as broken, pytest.raises(OSError, match="the power went"):
        broken.setattr("renaissance.tasks.trainer.RenaissanceTrainer.save_state", fails)
        run_task(SNLIVE, "", argv)
    assert not RunState.find(tmp_path / "run").trained
    run_task(SNLIVE, "", argv)
    assert same_weights(tmp_path / "run", whole) and RunState.find(tmp_path / "run").predicted


def test_a_finished_run_says_so(command, folder, capsys):
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    # A disk may have failed when it was deleted.
    (folder / ".saving").mkdir()
    metrics = run_task(SNLIVE, "", [*command, *STEPS, *PARTS, "--output_dir", str(folder)])
    assert not (folder / ".saving").exists()
    assert "holds the finished run of 4 steps" in capsys.readouterr().out
    assert metrics == results(folder)
    after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if not path.name.startswith(".lock")}
    assert {name: before[name] for name in after} == after
    # Fewer steps are in it, too.
    run_task(SNLIVE, "", [*command, *STEPS, *PARTS, "--output_dir", str(folder), "--max_steps", "3"])
    assert "holds the finished run of 4 steps" in capsys.readouterr().out


def test_a_finished_run_is_extended(command, folder, tmp_path):
    """And evaluated anew; it ends as one that was as long from the start."""
    constant = ["--lr_scheduler_type", "constant"]
    for name, steps in (("long", ["6"]), ("short", ["4", "6"])):
        for number in steps:
            argv = [*command, *STEPS, *PARTS, *constant, "--max_steps", number, "--output_dir", str(tmp_path / name)]
            run_task(SNLIVE, "", argv)
    assert same_weights(tmp_path / "long", tmp_path / "short")
    record = RunRecord.read(tmp_path / "short")
    assert record.steps == 6 and record.resumed_at == [4]
    assert record.changes == [{"step": 4, "option": "max_steps", "old": 4, "new": 6}]
    compared = [name for name in results(tmp_path / "long") if name.endswith("accuracy")]
    assert [results(tmp_path / "long")[name] for name in compared] == [
        results(tmp_path / "short")[name] for name in compared
    ]


@pytest.mark.parametrize(
    "more",
    [
        pytest.param(("--lr_scheduler_type", "linear"), marks=pytest.mark.slow),
        pytest.param(("--lr_scheduler_type", "cosine", "--warmup_steps", "1"), marks=pytest.mark.slow),
        ("--lr_scheduler_type", "cosine", "--learning_rate", "4e-3", "--override_run"),
    ],
    ids=["linear", "cosine", "other_rate_and_shape"],
)
def test_an_extended_run_trains_at_the_rates_of_its_new_schedule(command, tmp_path, more):
    """From the first step on: the saved rate is that of the end of the earlier schedule, zero."""
    first = more if "--override_run" not in more else ("--lr_scheduler_type", "linear")
    rates = []
    for name, parts in (("long", [(more, "6")]), ("short", [(first, "4"), (more, "6")])):
        for options, number in parts:
            argv = [*command, *STEPS, "--do_train", "--logging_steps", "1", *options, "--max_steps", number]
            run_task(SNLIVE, "", [*argv, "--output_dir", str(tmp_path / name)])
        history = json.loads((tmp_path / name / "trainer_state.json").read_text())["log_history"]
        rates.append([line["learning_rate"] for line in history if line["step"] > 4 and "learning_rate" in line])
        # Trainer logs that of the first group.
        state = torch.load(tmp_path / name / "checkpoint-6" / "scheduler.pt", weights_only=True)
        rates[-1].append((state["base_lrs"], state["last_epoch"]))
    assert len(rates[0]) == 3 and rates[0] == rates[1] and all(rates[0][:2])


def test_without_checkpoints_a_finished_run_cannot_be_extended(command, tmp_path, capsys):
    argv = [*command, "--do_train", "--save_strategy", "no", "--output_dir", str(tmp_path / "run"), "--max_steps"]
    run_task(SNLIVE, "", [*argv, "1"])
    with pytest.raises(SystemExit) as stopped:
        run_task(SNLIVE, "", [*argv, "2"])
    assert stopped.value.code == 2
    assert "finished run of 1 steps, which saved no checkpoints" in capsys.readouterr().err


def test_a_run_whose_data_have_changed_is_refused(command, folder, refused):
    """In the same place: the options of both commands are the same."""
    record = RunRecord.read(folder)
    record.of_split("train").rows, record.of_split("train").fingerprint = 7, "0123456789abcdef"
    record.write(folder)
    argv = [*command, *STEPS, *PARTS, "--max_steps", "6", "--output_dir", str(folder)]
    fault = refused(run_task, SNLIVE, "", argv)
    assert "the training data have changed since this run began (7 rows then, " in fault and "--override_run" in fault
    run_task(SNLIVE, "", [*argv, "--override_run"])
    assert RunRecord.read(folder).steps == 6 and RunRecord.read(folder).of_split("train").rows > 7


def test_evaluation_is_of_what_the_folder_holds(command, folder, capsys):
    """Not of a new model, whatever encoders the command names."""
    before = results(folder)
    (folder / "eval_results.json").unlink()
    run_task(SNLIVE, "", [*command, "--do_train", "false", "--do_eval", "--output_dir", str(folder)])
    evaluated = json.loads((folder / "eval_results.json").read_text())
    assert evaluated["eval_accuracy"] == before["eval_accuracy"] and evaluated["eval_loss"] == before["eval_loss"]
    assert RunRecord.read(folder).steps == 4


def test_the_evaluation_of_a_training_that_broke_off(command, folder, capsys, caplog):
    state = RunState.find(folder)
    state.trained = state.evaluated = state.predicted = False
    state.write(folder)
    argv = [*command, "--do_train", "false", "--do_eval", "--output_dir", str(folder)]
    run_task(SNLIVE, "", argv)
    assert any("has not ended" in line and "checkpoint-4 is evaluated" in line for line in caplog.messages)
    for step in (2, 4):
        os.truncate(folder / f"checkpoint-{step}" / "model.safetensors", 100)
    with pytest.raises(SystemExit):
        run_task(SNLIVE, "", argv)
    assert "left no whole checkpoint, and a new model would have random weights" in capsys.readouterr().err


def test_a_new_model_is_not_evaluated_silently(command, tmp_path, caplog):
    run_task(SNLIVE, "", [*command, "--do_eval", "--output_dir", str(tmp_path / "run")])
    assert any("a new model with random weights is evaluated" in line for line in caplog.messages)


def test_a_finished_run_with_other_options_is_refused(command, folder, capsys):
    weights = load_file(folder / "model.safetensors")
    with pytest.raises(SystemExit) as stopped:
        run_task(SNLIVE, "", [*command, *STEPS, *PARTS, "--output_dir", str(folder), "--seed", "3"])
    assert stopped.value.code == 2 and "was trained with other options: seed 3 for 1" in capsys.readouterr().err
    assert weights.keys() == load_file(folder / "model.safetensors").keys()


@pytest.mark.parametrize("option", ["activation_checkpointing", "gradient_checkpointing"])
def test_a_finished_run_may_save_memory_otherwise(command, folder, option):
    run_task(SNLIVE, "", [*command, *STEPS, *PARTS, "--output_dir", str(folder), f"--{option}"])
    assert RunState.find(folder).trained


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("", "not JSON"),
        ("[]", "expected entries with names, got list"),
        ('{"colour": 1}', "no entry colour is known"),
        ('{"trained": "yes"}', "the entry trained has a value of another type: yes"),
        ('{"step": 1e999}', "the entry step has a value of another type: inf"),
        ('{"step": true}', "the entry step has"),
        ('{"options": [1]}', "the entry options has"),
        ('{"processes": null}', "the entry processes has"),
        ("[" * 100_000, "not JSON"),
        ("\ufeff{}", "not JSON"),
    ],
)
def test_a_broken_state_is_told(tmp_path, content, fault):
    (tmp_path / STATE_FILE).write_text(content)
    with pytest.raises(ValueError, match=re.escape(fault)) as told:
        RunState.find(tmp_path)
    assert str(told.value).startswith(f"{tmp_path / STATE_FILE}: not the state of a run (")
    assert len(str(told.value)) < 500 and "\n" not in str(told.value)


@pytest.mark.parametrize("name", [STATE_FILE, "run.json", "run.yaml", "all_results.json", "trainer_state.json"])
@pytest.mark.parametrize("fault", ["cut", pytest.param("a_folder", marks=pytest.mark.slow)])
def test_a_broken_file_of_a_run_is_told_before_it_is_evaluated(command, folder, capsys, name, fault):
    """In one line, before any of its files changes."""
    path = folder / name
    content = path.read_bytes()
    path.unlink()
    path.mkdir() if fault == "a_folder" else path.write_bytes(content[: len(content) // 2] + b"\n[{")
    before = {each.name: each.stat().st_mtime_ns for each in folder.iterdir() if each.is_file()}
    with pytest.raises(SystemExit) as stopped:
        run_task(SNLIVE, "", [*command, "--do_train", "false", "--do_eval", "--output_dir", str(folder)])
    assert stopped.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    place = f"output_dir {folder}: {name} is a folder" if fault == "a_folder" else str(path)
    assert len(lines) == 1 and place in lines[0]
    assert all((folder / name).stat().st_mtime_ns == time for name, time in before.items())


def test_a_run_whose_model_is_gone_is_not_finished(command, folder, whole, tmp_path, capsys, caplog):
    """It is made again from the newest checkpoint; without one it is refused, and never trained anew silently."""
    argv = [*command, *STEPS, *PARTS, "--output_dir", str(folder)]
    shutil.copytree(folder, tmp_path / "bare")
    for name in ("model.safetensors", "checkpoint-2", "checkpoint-4"):
        path = tmp_path / "bare" / name
        path.unlink() if path.is_file() else shutil.rmtree(path)
    (folder / "model.safetensors").unlink()
    run_task(SNLIVE, "", [*argv, "--do_train", "false", "--do_predict", "false"])
    assert any("checkpoint-4 is evaluated" in line for line in caplog.messages)
    run_task(SNLIVE, "", argv)
    assert same_weights(folder, whole)
    for more in ([], ["--do_train", "false"], ["--max_steps", "6"]):
        with pytest.raises(SystemExit) as stopped:
            run_task(SNLIVE, "", [*argv[:-1], str(tmp_path / "bare"), *more])
        assert stopped.value.code == 2 and "whose model is gone, and no checkpoints" in capsys.readouterr().err


def test_a_model_that_was_copied_into_a_folder_is_evaluated_and_not_overwritten(command, folder, whole, capsys):
    for path in (folder / STATE_FILE, folder / "run.json"):
        path.unlink()
    for step in (2, 4):
        shutil.rmtree(folder / f"checkpoint-{step}")
    argv = [*command, *STEPS, "--do_eval", "--output_dir", f"{folder}/"]
    found = run_task(SNLIVE, "", [*argv, "--do_train", "false"])
    assert found["eval_loss"] == results(whole)["eval_loss"]
    # A slash at the end is no part of the folder's name.
    assert f"--output_dir {folder}-predictions" in capsys.readouterr().out
    (folder / STATE_FILE).unlink()
    with pytest.raises(SystemExit) as stopped:
        run_task(SNLIVE, "", [*argv, "--do_train"])
    assert stopped.value.code == 2 and "a model that no run has trained there" in capsys.readouterr().err
    assert same_weights(folder, whole)


def test_a_name_that_no_folder_can_have_is_refused(tmp_path):
    for name in ("a" * 300, "a\0b"):
        with pytest.raises(ValueError, match="cannot be made a folder"), exclusive(tmp_path / name):
            pass


def test_a_second_process_is_kept_out(command, tmp_path, capsys):
    holder = (
        "import sys, time; from pathlib import Path; from renaissance.tasks.run_lock import exclusive\n"
        "with exclusive(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(600)"
    )
    folder = tmp_path / "run"
    process = subprocess.Popen([sys.executable, "-c", holder, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(SystemExit) as stopped:
            run_task(SNLIVE, "", [*command, "--do_eval", "--output_dir", str(folder)])
        error = capsys.readouterr().err
        assert stopped.value.code == 2 and f"is in use by process {process.pid} on " in error
        process.kill()
        process.wait()
        # The lock of a process that died is free.
        with exclusive(folder):
            pass
    finally:
        process.kill()
        process.wait()

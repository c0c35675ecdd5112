"""What a run that goes on repeats exactly: its last step, its log, its evaluations, its best checkpoint."""

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from broken_runs import same_weights, stopped_at
from conftest import TWO_TOWER
from faults.endings import differences

from renaissance.tasks import checkpoints
from renaissance.tasks.checkpoints import delete_older, fault_of, newest_first
from renaissance.tasks.run_record import RunRecord
from renaissance.tasks.run_state import RunState
from renaissance.tasks.runner import run_task
from renaissance.tasks.snli_ve import SNLIVE


#: Steps with an evaluation each second step, of which the best checkpoint is kept.
EVALUATED = [
    "--max_steps", "6", "--save_strategy", "steps", "--save_steps", "2", "--eval_strategy", "steps", "--eval_steps", "2",
    "--logging_steps", "3", "--load_best_model_at_end", "--metric_for_best_model", "loss", "--save_total_limit", "1",
]  # fmt: skip


@pytest.fixture(scope="module")
def argv(shapes, tokenizer_folder) -> list[str]:
    argv = [*TWO_TOWER, "--dataset", str(shapes / "snli_ve"), "--tokenizer", str(tokenizer_folder), "--use_cpu"]
    argv += ["--do_train", "--per_device_train_batch_size", "4", "--learning_rate", "1e-2", "--seed", "1"]
    return [*argv, "--report_to", "none", "--disable_tqdm", "true"]


@pytest.fixture(scope="module")
def evaluated(argv, tmp_path_factory) -> Path:
    """The folder of an unbroken run with evaluations."""
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    run_task(SNLIVE, "", [*argv, *EVALUATED, "--output_dir", str(folder)])
    return folder


def test_a_run_at_its_last_step_trains_no_further(argv, tmp_path, monkeypatch):
    """Its last checkpoint is whole, in the middle of an epoch, and its model is not saved yet."""
    folder = tmp_path / "run"
    steps = [*argv, "--max_steps", "3", "--save_steps", "3", "--output_dir", str(folder)]
    run_task(SNLIVE, "", steps)
    whole = tmp_path / "whole"
    shutil.copytree(folder, whole)
    for path in folder.iterdir():
        if path.name != "checkpoint-3":
            path.unlink()
    run_task(SNLIVE, "", steps)
    assert differences(folder, whole) == []
    assert [path.name for path in newest_first(folder)] == ["checkpoint-3"] and RunState.find(folder).step == 3


def test_a_record_that_was_cut_off_is_finished(argv, tmp_path):
    """The process dies behind the last part of the run, before the record says that it is finished."""
    folder = tmp_path / "run"
    steps = [*argv, "--max_steps", "1", "--output_dir", str(folder)]
    run_task(SNLIVE, "", steps)
    state, record = RunState.find(folder), RunRecord.read(folder)
    assert state.recorded and record.status == "finished"
    state.recorded, record.status, record.finished = False, "running", None
    state.write(folder), record.write(folder)
    before = (folder / "model.safetensors").stat().st_mtime_ns
    run_task(SNLIVE, "", steps)
    assert RunRecord.read(folder).status == "finished" and RunState.find(folder).recorded
    assert (folder / "model.safetensors").stat().st_mtime_ns == before and not (folder / ".lock").exists()


def test_a_stop_leaves_the_evaluation_that_is_due_to_the_run_that_goes_on(argv, evaluated, tmp_path, caplog):
    """Which ends with the same weights, of the same best step, and has the same log, with the loss of all steps since the last line."""
    folder = tmp_path / "run"
    command = [*argv, *EVALUATED, "--output_dir", str(folder)]
    # With a log at step 3 the signal comes before step 4, which is to be evaluated.
    with stopped_at("step 3/", signal.SIGTERM) as stopped:
        run_task(SNLIVE, "", command)
    assert stopped.value.code == 75
    last = newest_first(folder)[0]
    assert last.name == "checkpoint-4" and fault_of(last) is None
    history = json.loads((last / "trainer_state.json").read_text())["log_history"]
    assert [line["step"] for line in history if "eval_loss" in line] == [2]
    run_task(SNLIVE, "", command)
    assert differences(folder, evaluated, ignore=("checkpoint-4/trainer_state.json",)) == []


@pytest.mark.parametrize("damage", ["broken", "gone"])
def test_without_the_best_checkpoint_a_run_goes_on_only_if_that_is_asked_for(
    argv, evaluated, tmp_path, refused, damage
):
    folder = tmp_path / "run"
    shutil.copytree(evaluated, folder)
    last = newest_first(folder)[0]
    state = json.loads((last / "trainer_state.json").read_text())
    best = folder / f"checkpoint-{state['best_global_step']}"
    assert best != last and best.is_dir()
    (folder / "run_state.json").unlink()
    shutil.rmtree(best) if damage == "gone" else os.truncate(best / "model.safetensors", 100)
    command = [*argv, *EVALUATED, "--max_steps", "7", "--output_dir", str(folder)]
    line = refused(run_task, SNLIVE, "", command)
    assert f"{best} is the best checkpoint so far, and is not whole: " in line
    assert ("there is no such folder" if damage == "gone" else "has 100 bytes") in line
    if damage == "gone":
        run_task(SNLIVE, "", [*command, "--load_best_model_at_end", "false"])
        assert RunRecord.read(folder).checkpoint == "that of the last step, 7"


def test_another_measure_of_the_best_is_refused(argv, evaluated, tmp_path, refused):
    folder = tmp_path / "run"
    shutil.copytree(evaluated, folder)
    (folder / "run_state.json").unlink()
    command = [*argv, *EVALUATED, "--metric_for_best_model", "accuracy", "--output_dir", str(folder)]
    assert "metric_for_best_model accuracy for loss" in refused(run_task, SNLIVE, "", command)


@pytest.mark.slow
def test_a_run_whose_folder_moved_ends_with_its_best_weights(argv, evaluated, tmp_path):
    folder = tmp_path / "moved"
    shutil.copytree(evaluated, folder)
    for name in ("run_state.json", "model.safetensors"):
        (folder / name).unlink()
    for state in folder.glob("checkpoint-*/trainer_state.json"):
        state.write_text(state.read_text().replace(str(evaluated), str(tmp_path / "gone")))
        checkpoints.renew_manifest(state.parent)
    run_task(SNLIVE, "", [*argv, *EVALUATED, "--output_dir", str(folder)])
    assert same_weights(folder, evaluated)


@pytest.mark.parametrize(
    ("names", "newest", "limit", "kept", "left"),
    [
        ("2 4 6", 6, 1, None, "6"),
        ("2 4 6", 6, 2, None, "4 6"),
        ("2 4 6", 6, 1, 2, "2 6"),
        ("2 4 6", 6, 2, 2, "2 6"),
        ("2 4 6", 6, 2, 6, "4 6"),
        # An earlier attempt came to step 9.
        ("2 4 5 9", 5, 1, None, "5"),
        ("2 4 5 9", 5, 2, None, "4 5"),
        ("2 4 5 9", 5, 3, None, "2 4 5"),
        ("2 4", 4, None, None, "2 4"),
        # The best one is gone.
        ("4 6", 6, 2, 2, "4 6"),
    ],
)
def test_which_checkpoints_are_deleted(tmp_path, names, newest, limit, kept, left):
    """By their steps, whatever the clock says of them."""
    for age, step in enumerate(names.split()):
        (tmp_path / f"checkpoint-{step}").mkdir()
        os.utime(tmp_path / f"checkpoint-{step}", (1e9 - 1e6 * age,) * 2)
    delete_older(tmp_path / f"checkpoint-{newest}", limit, kept and tmp_path / f"checkpoint-{kept}")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"checkpoint-{step}" for step in left.split()]


def test_a_checkpoint_has_no_name_when_its_files_are_deleted(tmp_path, monkeypatch):
    for step in (2, 4):
        (tmp_path / f"checkpoint-{step}").mkdir()
    monkeypatch.setattr(checkpoints, "clear_staging", lambda output: None)
    delete_older(tmp_path / "checkpoint-4", 1)
    assert [path.name for path in newest_first(tmp_path)] == ["checkpoint-4"]


def test_what_is_a_checkpoint_by_its_name(tmp_path):
    names = ["checkpoint-5", "checkpoint-10", "checkpoint-abc", "checkpoint-5-old", "checkpoint-old-7", "checkpoint-²"]
    for name in [*names, "checkpoint-07", "checkpoint-", "checkpoint--3"]:
        (tmp_path / name).mkdir()
    (tmp_path / "checkpoint-20").write_text("a file")
    (tmp_path / "checkpoint-30").symlink_to(tmp_path / "checkpoint-10", target_is_directory=True)
    assert [path.name for path in newest_first(tmp_path)] == ["checkpoint-30", "checkpoint-10", "checkpoint-5"]


@pytest.mark.parametrize("kind", ["file", "link to nowhere"])
def test_a_name_that_a_checkpoint_may_get_is_free(argv, tmp_path, refused, kind):
    path = tmp_path / "run" / "checkpoint-2"
    path.parent.mkdir()
    path.write_text("mine") if kind == "file" else path.symlink_to(tmp_path / "nowhere")
    line = refused(run_task, SNLIVE, "", [*argv, "--max_steps", "2", "--output_dir", str(path.parent)])
    assert "checkpoint-2 is no folder, and has a name that a checkpoint may get; move it elsewhere" in line
    assert path.is_symlink() or path.read_text() == "mine"


def test_a_deleted_checkpoint_that_is_a_link_leaves_its_target(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_text("kept")
    folder = tmp_path / "run"
    (folder / "checkpoint-4").mkdir(parents=True)
    (folder / "checkpoint-2").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    delete_older(folder / "checkpoint-4", 1)
    assert [path.name for path in folder.iterdir()] == ["checkpoint-4"]
    assert (tmp_path / "elsewhere" / "file").read_text() == "kept"


def test_a_signal_before_training_says_that_nothing_is_lost(argv, tmp_path, capsys):
    with stopped_at("precision: ", signal.SIGTERM) as stopped:
        run_task(SNLIVE, "", [*argv, "--max_steps", "2", "--output_dir", str(tmp_path / "run")])
    assert stopped.value.code == 75
    assert "stopped by SIGTERM before the run began: nothing of it is saved" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()

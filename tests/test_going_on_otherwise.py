"""Runs that save only the best checkpoint, or only weights, or push to the Hub: they break off, and the same command does the rest."""

import json
import shutil
import signal
from pathlib import Path

import pytest
from broken_runs import same_weights, stopped_at, weights_of
from conftest import TWO_TOWER
from faults.endings import differences
from hub import pretrain_and_push
from safetensors.torch import load

from renaissance.tasks.checkpoints import fault_of, newest_first
from renaissance.tasks.run_record import RunRecord
from renaissance.tasks.run_state import RunState
from renaissance.tasks.runner import run_task
from renaissance.tasks.snli_ve import SNLIVE


@pytest.fixture(scope="module")
def argv(shapes, tokenizer_folder) -> list[str]:
    argv = [*TWO_TOWER, "--dataset", str(shapes / "snli_ve"), "--tokenizer", str(tokenizer_folder), "--use_cpu"]
    argv += [
        "--do_train",
        "--per_device_train_batch_size",
        "4",
        "--learning_rate",
        "1e-2",
        "--seed",
        "1",
        "--max_steps",
        "8",
    ]
    return [*argv, "--report_to", "none", "--disable_tqdm", "true", "--logging_steps", "1"]


#: Evaluations each second step; what is best is saved, and in the end is the model.
BEST = [
    "--save_strategy", "best", "--eval_strategy", "steps", "--eval_steps", "2", "--metric_for_best_model", "loss",
    "--load_best_model_at_end",
]  # fmt: skip


def state_of(checkpoint: Path) -> dict:
    return json.loads((checkpoint / "trainer_state.json").read_text())


@pytest.fixture(scope="module")
def best(argv, tmp_path_factory) -> Path:
    """The folder of an unbroken run that saves the best checkpoints."""
    folder = tmp_path_factory.mktemp("best") / "run"
    run_task(SNLIVE, "", [*argv, *BEST, "--output_dir", str(folder)])
    return folder


@pytest.mark.slow
def test_a_run_that_saves_the_best_goes_on_after_a_signal(argv, best, tmp_path):
    """From the step at which it was stopped, which was not the best. That checkpoint alone is there besides."""
    folder, command = tmp_path / "run", [*argv, *BEST]
    with stopped_at("step 5/", signal.SIGTERM) as stopped:
        run_task(SNLIVE, "", [*command, "--output_dir", str(folder)])
    kept = newest_first(best)
    assert stopped.value.code == 75 and len(kept) < 4
    (last,) = {path.name for path in newest_first(folder)} - {path.name for path in kept}
    assert last in ("checkpoint-5", "checkpoint-6") and fault_of(folder / last) is None
    run_task(SNLIVE, "", [*command, "--output_dir", str(folder)])
    assert RunRecord.read(folder).resumed_at == [int(last.rpartition("-")[2])]
    shutil.rmtree(folder / last)
    assert differences(folder, best) == []


@pytest.mark.slow
def test_a_run_that_saves_the_best_goes_on_after_a_kill(argv, best, tmp_path):
    """From the best checkpoint, the only one there is, and comes to the same choice."""
    folder = tmp_path / "run"
    shutil.copytree(best, folder)
    for name in (
        "run_state.json",
        "model.safetensors",
        "trainer_state.json",
        "all_results.json",
        "train_results.json",
    ):
        (folder / name).unlink()
    run_task(SNLIVE, "", [*argv, *BEST, "--output_dir", str(folder)])
    assert differences(folder, best) == [] and RunRecord.read(folder).resumed_at
    said = RunRecord.read(folder).checkpoint
    assert said == RunRecord.read(best).checkpoint and said.startswith(
        f"that of step {state_of(best)['best_global_step']} of 8"
    )


def test_a_run_that_saves_only_weights_goes_on_after_a_signal(argv, tmp_path):
    """The checkpoint of the stop is whole, for the same command goes on from it; the others are not."""
    plain, folder = tmp_path / "plain", tmp_path / "run"
    command = [*argv, "--save_only_model", "true", "--save_steps", "2"]
    run_task(SNLIVE, "", [*argv, "--save_strategy", "no", "--output_dir", str(plain)])
    with stopped_at("step 5/", signal.SIGTERM) as stopped:
        run_task(SNLIVE, "", [*command, "--output_dir", str(folder)])
    assert stopped.value.code == 75
    last, *others = newest_first(folder)
    assert (last / "optimizer.pt").is_file() and not [path for path in others if (path / "optimizer.pt").exists()]
    run_task(SNLIVE, "", [*command, "--output_dir", str(folder)])
    assert same_weights(folder, plain) and not (newest_first(folder)[0] / "optimizer.pt").exists()


@pytest.mark.slow
def test_a_run_that_saved_only_weights_does_not_pretend_to_go_on(argv, tmp_path, refused):
    """After a kill there are weights alone. What is done with them is said, and a finished run says that it is."""
    folder = tmp_path / "run"
    command = [*argv, "--save_only_model", "true", "--save_steps", "2", "--output_dir", str(folder)]
    run_task(SNLIVE, "", command)
    whole = weights_of(folder)
    assert run_task(SNLIVE, "", command)["train_loss"] and "eval_loss" in run_task(SNLIVE, "", [*command, "--do_eval"])
    assert all(values.equal(whole[name]) for name, values in weights_of(folder).items())
    (
        shutil.rmtree(folder / "checkpoint-8"),
        (folder / "run_state.json").unlink(),
        (folder / "model.safetensors").unlink(),
    )
    line = refused(run_task, SNLIVE, "", command)
    assert "checkpoint-6 lacks all but the weights (it was saved with save_only_model)" in line
    run_task(SNLIVE, "", [*command, "--resume_partial"])
    assert RunState.find(folder).trained and RunState.find(folder).step == 8


PUSHED = ["--hub_strategy", "every_save", "--hub_always_push", "true", "--save_steps", "2", "--logging_steps", "1"]


@pytest.mark.slow
def test_a_push_goes_on_with_the_run(hub, shapes, tokenizer_folder, tmp_path):
    """What is pushed in the end is what the unbroken run would have pushed."""
    with stopped_at("step 3/", signal.SIGTERM) as stopped:
        pretrain_and_push(tmp_path, shapes, tokenizer_folder, *PUSHED)
    before = [commit.title for commit in hub.model("author/run").branches["main"]]
    assert stopped.value.code == 75 and "End of training" not in before
    pretrain_and_push(tmp_path, shapes, tokenizer_folder, *PUSHED)
    commits = hub.model("author/run").branches["main"]
    titles = [commit.title for commit in commits]
    assert titles[: len(before)] == before and titles[-1] == "End of training"
    assert len(set(titles)) == len(titles), "nothing is pushed twice"
    pushed, own = load(commits[-1].files["model.safetensors"]), weights_of(tmp_path / "run")
    assert all(values.equal(own[name]) for name, values in pushed.items())
    state = RunState.find(tmp_path / "run")
    assert state.trained and state.pushed
    # A finished run pushes nothing again.
    pretrain_and_push(tmp_path, shapes, tokenizer_folder, *PUSHED)
    assert len(hub.model("author/run").branches["main"]) == len(commits)


@pytest.mark.slow
def test_a_run_whose_last_push_failed_does_that_alone(hub, shapes, tokenizer_folder, tmp_path):
    """With the weights that are saved, which are those of the unbroken run."""
    words = ["--hub_strategy", "end", "--save_strategy", "no"]
    pretrain_and_push(tmp_path, shapes, tokenizer_folder, *words)
    folder, state = tmp_path / "run", RunState.find(tmp_path / "run")
    first, weights = len(hub.model("author/run").branches["main"]), (folder / "model.safetensors").read_bytes()
    state.pushed = False
    state.write(folder)
    pretrain_and_push(tmp_path, shapes, tokenizer_folder, *words)
    commits = hub.model("author/run").branches["main"]
    assert len(commits) > first and commits[-1].files["model.safetensors"] == weights
    assert (folder / "model.safetensors").read_bytes() == weights and RunState.find(folder).pushed

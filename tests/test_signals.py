"""A run that is asked to stop saves a checkpoint, says how to go on, and ends as one that was never stopped."""

import os
import signal
from pathlib import Path

import pytest
from broken_runs import same_weights, stopped_at
from launching import torchrun

from renaissance.tasks.checkpoints import fault_of, newest_first
from renaissance.tasks.run_state import RunState
from renaissance.tasks.runner import run_task
from renaissance.tasks.signals import GO_ON
from renaissance.tasks.snli_ve import SNLIVE


SCRIPT = Path(__file__).parents[1] / "run_scripts" / "run_snli_ve.py"


@pytest.fixture(autouse=True)
def heeded():
    """Ctrl-C is heeded, also where the tests run in the background, in which it is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def stopped(argv: list[str], capsys, line: str, *signals: int) -> tuple[int, str]:
    """Run until a line is logged, and send signals; return the exit code and the last line."""
    with stopped_at(line, *signals) as end:
        run_task(SNLIVE, "", argv)
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    return end.value.code, errors.splitlines()[-1]


@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGUSR1, "SIGUSR1"), (signal.SIGINT, "Ctrl-C")]
)
def test_training_ends_behind_its_step_and_goes_on(finished, tmp_path, capsys, number, name):
    """Between two checkpoints of the run; handlers are as before."""
    folder, before = tmp_path / "run", [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGUSR1)]
    argv = [*finished[1], "--logging_steps", "1", "--output_dir", str(folder)]
    code, line = stopped(argv, capsys, "step 3/", number)
    assert code == GO_ON == 75
    last = newest_first(folder)[0]
    step = int(last.name.rpartition("-")[2])
    assert step in (3, 4) and fault_of(last) is None
    assert line == f"stopped by {name} at step {step} of 6: {last} is saved; the same command goes on from there"
    assert not RunState.find(folder).trained and not (folder / "model.safetensors").exists()
    assert [signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGUSR1)] == before
    run_task(SNLIVE, "", argv)
    assert same_weights(folder, finished[0])


def test_the_last_step_is_saved_as_the_model(finished, tmp_path, capsys):
    argv = [*finished[1], "--logging_steps", "1", "--do_eval", "--output_dir", str(tmp_path / "run")]
    code, line = stopped(argv, capsys, "step 6/", signal.SIGTERM)
    assert code == GO_ON and "after training: the model is saved in" in line
    state = RunState.find(tmp_path / "run")
    assert state.trained and not state.evaluated and same_weights(tmp_path / "run", finished[0])
    assert "eval_accuracy" in run_task(SNLIVE, "", argv)


def test_a_second_ctrl_c_ends_at_once(finished, tmp_path, capsys):
    argv = [*finished[1], "--logging_steps", "1", "--save_strategy", "no", "--output_dir", str(tmp_path / "run")]
    code, line = stopped(argv, capsys, "step 3/", signal.SIGINT, signal.SIGINT)
    assert code == 130 and line.startswith("stopped by Ctrl-C at step") and "nothing is saved" in line
    assert not newest_first(tmp_path / "run")


def test_evaluation_ends_at_once(finished, tmp_path, capsys):
    argv = [*finished[1], "--do_train", "false", "--do_eval", "--model_name_or_path", str(finished[0])]
    first = argv.index("--text_encoder")
    argv = [*argv[:first], *argv[argv.index("--dataset") :], "--output_dir", str(tmp_path / "run")]
    argv = [word for number, word in enumerate(argv) if "tokenizer" not in argv[number - 1] and word != "--tokenizer"]
    code, line = stopped(argv, capsys, "evaluation: ", signal.SIGTERM)
    assert code == GO_ON and "stopped by SIGTERM in evaluation" in line


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_job_that_is_stopped_time_and_again_ends_as_one_that_was_not(finished, launch, tmp_path, processes):
    """Processes of their own, all of which a scheduler signals, workers too; two stop after the same step."""
    argv = [SCRIPT, *finished[1], "--max_steps", "40", "--dataloader_num_workers", "1"]
    argv += ["--logging_steps", "1", "--save_strategy", "no"]
    launch(processes, *argv, "--output_dir", tmp_path / "whole")
    broken, codes = [*torchrun(processes), *argv, "--output_dir", tmp_path / "broken"], []
    for step in (5, 17, 29, None):
        with launch.start(broken) as job:
            if step is not None:
                job.wait_for(f" step {step}/")
                os.killpg(job.process.pid, signal.SIGTERM)
            codes.append(job.wait())
        assert step is None or "stopped by SIGTERM at step" in job.errors, job.errors
    # torchrun ends with 1, whatever its processes end with.
    assert codes == [GO_ON if processes == 1 else 1] * 3 + [0]
    assert same_weights(tmp_path / "whole", tmp_path / "broken")

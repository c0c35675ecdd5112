"""A run that is stopped by signals at any moment, or whose checkpoint is damaged, ends, with the same command, as if it had not been."""

import contextlib
import os
import random
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import TWO_TOWER
from test_checkpoints import DAMAGES
from test_pretraining_data import copy_captions

from faults.conftest import Job
from faults.endings import differences
from faults.shim import Fault
from faults.warm import Warm
from renaissance.tasks.checkpoints import MANIFEST
from renaissance.tasks.run_state import RunState


#: Numbers of signals that are tried.
MOMENTS = int(os.environ.get("FAULT_MOMENTS", 20))


@pytest.fixture(scope="module")
def watched(job, warm, tmp_path_factory) -> tuple[Job, float]:
    """A job with workers, an evaluation each step, and the best weights at the end; and the seconds that it takes."""
    folder = tmp_path_factory.mktemp("watched")
    more = ["--dataloader_num_workers", "1", "--eval_strategy", "steps", "--eval_steps", "1", "--save_steps", "1"]
    more += ["--load_best_model_at_end", "--metric_for_best_model", "loss", "--save_total_limit", "2"]
    made = Job(warm, [*job.argv, *more], folder / "run", folder / "whole", [])
    ended = made.run()
    assert ended.code == 0, ended.output
    shutil.copytree(made.folder, made.whole)
    # The first run has more to set up, and another may wait for other processes.
    return made, min(seconds_of(made) for _ in range(3))


def seconds_of(job: Job) -> float:
    """How long a whole run takes."""
    job.begin_anew()
    begun = time.monotonic()
    assert job.run().code == 0
    return time.monotonic() - begun


def send(process: int, number: int) -> None:
    """Send a signal to a process and its workers, unless they have ended."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, number)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_signals_at_any_moment(watched, number):
    """To the process and its workers: while it loads, trains, saves, evaluates and predicts."""
    (job, seconds), draw, codes = watched, random.Random(int(number)), []
    for _ in range(MOMENTS):
        job.begin_anew()
        for _ in range(3):
            process = job.start()
            time.sleep(draw.random() * seconds)
            send(process, number)
            ended = job.warm.end()
            codes.append(ended.code)
            assert "Traceback" not in ended.output, ended.output
            allowed = {75, 0, 130 if number == signal.SIGINT else 75}
            state = RunState.find(job.folder)
            if not job.folder.exists() or (state is not None and state.recorded):
                # Before and after `run_task`, the signal does what it does to any process.
                allowed.add(-number)
            assert ended.code in allowed, ended.output
        ended = job.run()
        assert ended.code == 0, ended.output
        assert differences(job.folder, job.whole) == []
    assert 75 in codes


@pytest.mark.slow
def test_a_second_ctrl_c_ends_at_once(watched):
    job, _ = watched
    job.begin_anew()
    process = job.start()
    while not list(job.folder.glob("checkpoint-1")):
        time.sleep(0.01)
    os.killpg(process, signal.SIGINT)
    time.sleep(0.01)
    os.killpg(process, signal.SIGINT)
    ended = job.warm.end()
    assert ended.code == 130 and "Traceback" not in ended.output, ended.output
    assert job.run().code == 0 and differences(job.folder, job.whole) == []


@pytest.mark.slow
def test_a_kill_at_any_moment(watched):
    (job, seconds), draw = watched, random.Random(9)
    for _ in range(MOMENTS):
        job.begin_anew()
        for _ in range(3):
            process = job.start()
            time.sleep(draw.random() * seconds)
            send(process, signal.SIGKILL)
            job.warm.end()
        ended = job.run()
        assert ended.code == 0, ended.output
        assert differences(job.folder, job.whole) == []


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_each_file_of_the_last_checkpoint(job, tmp_path, damage):
    """Training goes on from the one before, and replaces the damaged one."""
    both = replace(job, argv=[*job.argv, "--save_total_limit", "2"], folder=tmp_path / "run", whole=tmp_path / "whole")
    assert both.run().code == 0
    shutil.copytree(both.folder, both.whole)
    files = sorted(path.name for path in (both.whole / "checkpoint-4").iterdir())
    files = [name for name in files if not name.endswith(".py") or name == "masks.py"]
    assert {"model.safetensors", "optimizer.pt", MANIFEST, "trainer_state.json", "run.yaml"} < set(files)
    for name in files:
        both.begin_anew()
        for checkpoint in ("checkpoint-2", "checkpoint-4"):
            shutil.copytree(both.whole / checkpoint, both.folder / checkpoint)
        DAMAGES[damage][0](both.folder / "checkpoint-4" / name)
        ended = both.run()
        assert ended.code == 0 and "checkpoint-4 is passed over: it" in ended.output, (name, ended.output)
        assert differences(both.folder, both.whole) == [], name


@pytest.mark.slow
def test_two_runs_that_start_at_once(job, library, warm_argv, tmp_path):
    """One trains, the other is refused in one line."""
    (tmp_path / "other").mkdir()
    other = Warm(tmp_path / "other", library, warm_argv)
    other.wait()
    pair = job, replace(job, warm=other)
    try:
        for _ in range(5):
            job.begin_anew()
            for each in pair:
                each.start()
            ended = [each.warm.end() for each in pair]
            assert sorted(each.code for each in ended) == [0, 2], [each.output for each in ended]
            assert [len(each.errors) for each in ended if each.code == 2] == [1]
            assert any("is in use by process" in line for each in ended for line in each.errors)
            assert differences(job.folder, job.whole) == []
    finally:
        other.close()


def test_the_lock_of_a_dead_process_is_free(job):
    """Also of one on another machine, of which the lock file is left."""
    job.begin_anew()
    shutil.copytree(job.whole, job.folder)
    (job.folder / ".lock").write_text("")
    (job.folder / ".lock.json").write_text('{"process": 1, "host": "another"}')
    assert "holds the finished run of 4 steps" in job.run().output
    assert not list(job.folder.glob(".lock*"))


def test_a_folder_that_cannot_be_written(job, tmp_path):
    """As on a file system that is read-only: one line, before anything is loaded."""
    for folder in (tmp_path / "there", tmp_path / "new"):
        if folder.name == "there":
            folder.mkdir()
        here = replace(job, folder=folder)
        ended = here.run(Fault(folder, 1, "EROFS"))
        assert ended.code == 2 and "Traceback" not in ended.output
        told = "nothing can be written there" if folder.name == "there" else "cannot be made a folder"
        assert ended.errors[-1].endswith(f"output_dir {folder}: {told} (Read-only file system); choose another")
        assert not Path(folder / "run.yaml").exists()


@pytest.mark.slow
@pytest.mark.parametrize("streaming", [True, False])
def test_pretraining_that_is_stopped_time_and_again(warm, shapes, tokenizer_folder, tmp_path, streaming):
    """Of a stream, the place in it is found again, with several workers, in any pass over it; the logged losses are the same."""
    source = copy_captions(shapes, tmp_path, shards=4) if streaming else str(shapes / "captions")
    argv = [*TWO_TOWER, "--tokenizer", str(tokenizer_folder), "--use_cpu", "--do_train", "--seed", "1"]
    argv += ["--train_datasets", source, "--max_steps", "14", "--per_device_train_batch_size", "8"]
    argv += [
        "--logging_steps",
        "3",
        "--save_strategy",
        "no",
        "--learning_rate",
        "1e-2",
        "--dataloader_num_workers",
        "2",
    ]
    argv += ["--report_to", "none", "--disable_tqdm", "true", *(["--streaming"] if streaming else [])]
    whole, folder = tmp_path / "whole", tmp_path / "run"
    assert warm.run([*argv, "--output_dir", str(whole)], task="pretraining").code == 0
    for step in (3, 6, 9, 12):
        process = warm.start([*argv, "--output_dir", str(folder)], task="pretraining")
        while f" step {step}/" not in warm.output:
            time.sleep(0.01)
        send(process, signal.SIGTERM)
        ended = warm.end()
        assert ended.code == 75, ended.output
    ended = warm.run([*argv, "--output_dir", str(folder)], task="pretraining")
    assert ended.code == 0, ended.output
    for checkpoint in folder.glob("checkpoint-*"):
        # Those of the stops, which the unbroken run has not.
        shutil.rmtree(checkpoint)
    assert differences(folder, whole) == []

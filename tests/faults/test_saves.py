"""A run that is killed, or whose disk is full or fails, at any file operation ends, with the same command, as if it had not."""

import os
import signal
from collections.abc import Iterator
from pathlib import PurePath

import pytest

from faults.conftest import Job
from faults.endings import differences
from faults.shim import Fault


#: Every how many operations one is tried.
STRIDE = int(os.environ.get("FAULT_STRIDE", 1))

#: What the disk can do to an operation, by the kind of the fault.
MEETS = {
    "KILL": {"open", "write", "rename", "mkdir", "unlink", "rmdir", "fsync"},
    "ENOSPC": {"open", "write", "rename", "mkdir", "fsync"},
    "EROFS": {"open", "write", "rename", "mkdir", "unlink", "rmdir", "fsync"},
    "EIO": {"open", "write", "rename", "mkdir", "unlink", "rmdir", "fsync"},
    "EACCES": {"open", "rename", "mkdir", "unlink", "rmdir"},
}


def chosen(operations: list[tuple[str, str]]) -> Iterator[int]:
    """
    Yield the numbers of the operations that are tried: of those on a checkpoint in the making, or on its way out, one of each kind for
    each file, whose name in the code that goes along stands for all such files; else each one.
    """
    met = set()
    for number, (operation, name) in enumerate(operations, start=1):
        path = PurePath(name)
        if operation == "mkdir" and name == "." and number > 1:
            # Of a folder that is there.
            continue
        if len(path.parts) > 1:
            file = "*.py" if path.suffix == ".py" else ".tmp" if path.name.startswith(".tmp") else path.name
            key = operation, path.parent, file
            if key in met:
                continue
            met.add(key)
        yield number


def faults_of(job: Job, number: int, kind: str) -> list[str]:
    """Break the job at an operation, let it go on, and return in words what is not as it should be."""
    job.begin_anew()
    ended = job.run(Fault(job.folder, number, kind))
    found = []
    if kind == "KILL":
        found += [] if ended.code == -signal.SIGKILL else [f"exit code {ended.code}"]
    elif ended.code != 0 and (ended.code not in (1, 2) or len(ended.errors) != 1 or "Traceback" in ended.output):
        found.append(f"exit code {ended.code}: {ended.output[-3000:]}")
    again = job.run()
    found += differences(job.folder, job.whole) if again.code == 0 else [f"going on: {again.output[-3000:]}"]
    place = f"{kind} at operation {number}, {' '.join(job.operations[number - 1])}"
    return [f"{place}: {each}" for each in found]


def test_operations_that_matter_are_seen(job):
    """All that is saved: the checkpoints, the model, and what is in the folder beside it."""
    renamed = [path for operation, path in job.operations if operation == "rename"]
    assert {"checkpoint-2", "checkpoint-4", "model.safetensors", "config.json", "predictions.csv"} <= set(renamed)
    assert {"run.json", "run.yaml", "run_state.json", "README.md", "eval_results.json"} <= set(renamed)
    assert renamed.index("checkpoint-4") < renamed.index(".saving/deleted-checkpoint-2")
    # Nothing is written where it is found, but what says who holds the lock.
    written = {path for operation, path in job.operations if operation == "write"}
    assert {path for path in written if not path.startswith(".saving/") and not path.endswith(".new")} == {
        ".lock.json"
    }


def test_a_kill_behind_the_last_checkpoint(job):
    """Training is at its end in the middle of an epoch, the model is not saved, and the older checkpoint is still there."""
    number = job.operations.index(("rename", "checkpoint-4")) + 2
    assert faults_of(job, number, "KILL") == []


def test_a_kill_behind_the_state_of_a_training_that_has_ended(job):
    """Training is noted as ended; nothing that tells of it may be left to do, for it is not done again."""
    _, trained = [
        each for each, operation in enumerate(job.operations, start=1) if operation == ("rename", "run_state.json")
    ][:2]
    assert faults_of(job, trained + 1, "KILL") == []


def test_a_disk_that_fails_before_training_is_told(job):
    """Files of an earlier run are deleted before anything is written."""
    number = job.operations.index(("unlink", "bad_rows.jsonl")) + 1
    assert faults_of(job, number, "EIO") == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [
        "optimizer.pt",
        "scheduler.pt",
        "rng_state.pth",
        "tokenizer.json",
        ".tmp",
        "trainer_state.json",
        "config.json",
        "masks.py",
    ],
)
def test_a_full_disk_is_told_whoever_writes(job, path):
    """torch, safetensors and tokenizers raise errors of their own."""
    start = f".saving/checkpoint-4/{path}"
    for operation in ("open", "write"):
        numbers = [
            number
            for number, (name, place) in enumerate(job.operations, start=1)
            if name == operation and place.startswith(start)
        ]
        for number in {numbers[0], numbers[-1]}:
            assert faults_of(job, number, "ENOSPC") == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", MEETS)
def test_each_operation(job, kind):
    numbers = [each for each in chosen(job.operations) if job.operations[each - 1][0] in MEETS[kind]]
    assert len(numbers) > 100
    numbers = numbers[::STRIDE]
    found = [fault for number in numbers for fault in faults_of(job, number, kind)]
    assert not found, f"{len(found)} faults in {len(numbers)} cases:\n" + "\n".join(found)

"""Of two processes that train together one is killed, at any step or in a save; the same command ends as if it had not been."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.endings import differences
from faults.shim import Fault, operations


SCRIPT = Path(__file__).parents[2] / "run_scripts" / "run_snli_ve.py"
LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone", str(SCRIPT)]

pytestmark = pytest.mark.slow


def launch(argv: list[str], folder: Path, fault: Fault, library: Path) -> subprocess.Popen:
    """Start two processes, one of which may meet a fault."""
    environment = fault.preload(library) | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*LAUNCHER, *argv, "--output_dir", str(folder)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def unbroken(warm_argv, library, tmp_path_factory) -> tuple[Path, list[tuple[str, str]]]:
    """The folder of an unbroken run, and the file operations of its main process."""
    folder = tmp_path_factory.mktemp("two")
    fault = Fault(folder / "run", log=folder / "log", rank=0)
    process = launch(warm_argv, folder / "run", fault, library)
    errors = process.communicate(timeout=300)[1]
    assert process.returncode == 0, errors[-4000:]
    return folder / "run", operations(fault.log)


@pytest.fixture
def goes_on(warm_argv, unbroken, library, tmp_path) -> Iterator:
    """A function that checks that the same command ends as the unbroken run did."""

    def check() -> None:
        process = launch(warm_argv, tmp_path / "run", Fault(tmp_path / "none"), library)
        errors = process.communicate(timeout=300)[1]
        assert process.returncode == 0, errors[-4000:]
        assert differences(tmp_path / "run", unbroken[0]) == []

    return check


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("draw", range(2))
def test_a_rank_that_is_killed_ends_the_other(warm_argv, unbroken, library, goes_on, tmp_path, rank, draw):
    """At a moment after it has begun; nobody is left over."""
    process = launch(warm_argv, tmp_path / "run", Fault(tmp_path / "none"), library)
    while not (tmp_path / "run" / "run.json").exists():
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(random.Random(10 * draw + rank).random() * 2)
    children = ranks_of(process.pid)
    if rank in children:
        os.kill(children[rank], signal.SIGKILL)
    process.communicate(timeout=120)
    assert not ranks_of(process.pid)
    goes_on()


@pytest.mark.parametrize("place", [("rename", "checkpoint-2"), ("write", ".saving/checkpoint-4/optimizer.pt")])
def test_the_main_process_is_killed_in_a_save(warm_argv, unbroken, library, goes_on, tmp_path, place):
    fault = Fault(tmp_path / "run", unbroken[1].index(place) + 1, rank=0)
    process = launch(warm_argv, tmp_path / "run", fault, library)
    process.communicate(timeout=300)
    assert process.returncode != 0
    goes_on()


def ranks_of(launcher: int) -> dict[int, int]:
    """Return the numbers of the processes that a launcher has started, by their ranks."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            environment = (folder / "environ").read_bytes().split(b"\0")
        except (OSError, IndexError):
            continue
        ranks = [entry for entry in environment if entry.startswith(b"RANK=")]
        if parent == launcher and ranks:
            found[int(ranks[0].removeprefix(b"RANK="))] = int(folder.name)
    return found

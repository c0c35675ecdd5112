"""Scripts on several processes of this machine, started as users start them."""

import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

import psutil


#: Seconds until a job that has not ended is ended, and fails its test.
TIME_LIMIT = 600


def torchrun(processes: int) -> list[str]:
    """The words that start a script on several processes, which meet at a free port; on one, without a launcher."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return [sys.executable, *(launcher if processes > 1 else [])]


def free_port() -> int:
    """A port that nobody listens at, for launchers that are told where to meet."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Job:
    """Processes that were started, whose output is kept in two files. At the end of a `with` block all of them are ended."""

    def __init__(self, command: list, folder: Path, env: dict[str, str], cwd: Path | None):
        folder.mkdir(parents=True, exist_ok=True)
        self._files = folder / "stdout", folder / "stderr"
        # Of one thread each, for two processes share what there is, and on the CPU, so that they meet through gloo.
        environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | env
        with self._files[0].open("w") as out, self._files[1].open("w") as errors:
            self.process = subprocess.Popen(
                [*map(str, command)], stdout=out, stderr=errors, env=environment, cwd=cwd, start_new_session=True
            )

    @property
    def output(self) -> str:
        return self._files[0].read_text()

    @property
    def errors(self) -> str:
        return self._files[1].read_text()

    def wait_for(self, line: str, seconds: float = TIME_LIMIT) -> None:
        """Wait until a line of the log fits a pattern; fail if the job ends before, or that takes too long."""
        limit = time.monotonic() + seconds
        while not re.search(line, self.errors):
            assert self.process.poll() is None and time.monotonic() < limit, f"no {line!r}:\n{self.errors[-6000:]}"
            time.sleep(0.05)

    def wait(self, seconds: float = TIME_LIMIT) -> int:
        """Wait for the end; return the exit code. Fail if it takes too long."""
        try:
            return self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"not ended after {seconds} s:\n{self.errors[-6000:]}") from None

    def rank(self, number: int) -> psutil.Process:
        """The process that the launcher has given a rank."""
        return next(each for each in self.family() if rank_of(each) == str(number))

    def family(self) -> list[psutil.Process]:
        """All processes of the job; those of a launcher that has ended are on their own."""
        try:
            first = psutil.Process(self.process.pid)
            return [first, *first.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception) -> None:
        for each in reversed(self.family()):
            try:
                each.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait()


def rank_of(process: psutil.Process) -> str | None:
    """The rank that a launcher has given a process itself, whose loaders' workers have it too."""
    try:
        parent = process.parent()
        own, above = (each.environ().get("RANK") for each in (process, parent))
        return own if own != above else None
    except psutil.Error:
        return None


class Launcher:
    """Starts scripts on several processes; the fixture `launch`."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._jobs = 0

    def start(self, command: list, env: dict[str, str] | None = None, cwd: Path | None = None) -> Job:
        """Start a whole command, for a `with` block."""
        self._jobs += 1
        return Job(command, self._folder / str(self._jobs), env or {}, cwd)

    def __call__(
        self,
        processes: int,
        *words,
        code: int = 0,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
        seconds: float = TIME_LIMIT,
    ) -> Job:
        """Run a script with its options on several processes to its end, which has the exit code `code`."""
        with self.start([*torchrun(processes), *words], env, cwd) as job:
            found = job.wait(seconds)
        assert found == code, f"exit code {found}:\n{job.errors[-6000:]}"
        return job

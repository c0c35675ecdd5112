"""Runs a study: each run in a process of its own, several at a time, those that others start from first."""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from renaissance_cli.mistakes import visible

from ..reports.markup import duration
from ..tasks.run_lock import is_held
from ..tasks.run_record import RunRecord
from ..tasks.signals import GO_ON
from .notes import BROKEN, DONE, FAILED, RUNNING, STOPPED, Note, is_done, log_of
from .plan import Run, is_task


#: Seconds between two looks at a run that another process has.
PAUSE = 2.0
#: Signals that ask a study to stop, as they ask its runs.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
#: How the line of a command about a mistake begins.
MISTAKE = re.compile(r"renaissance[\w -]*: error: ")


@dataclass
class Running:
    """
    The running of a study.

    Attributes:
        runs: Its runs, those first that others start from.
        jobs: How many are run at a time.
        failed: Those that failed, or whose predecessors did, with the reason.
        stopping: Set when a signal asked it to stop: runs save a checkpoint, and none is begun any more.
        processes: Those of the runs that are under way.
        ended: Number of runs that have ended.
    """

    runs: list[Run]
    jobs: int = 1
    failed: dict[str, str] = field(default_factory=dict)
    stopping: threading.Event = field(default_factory=threading.Event)
    processes: set[subprocess.Popen] = field(default_factory=set)
    ended: int = 0

    def run(self) -> int:
        """Run what is not done. Return the exit code: 0 if all is done, 1 if a run failed, 75 if it was stopped."""
        done = {run.key for run in self.runs if is_done(run)}
        left = [run for run in self.runs if run.key not in done]
        self.ended = len(done)
        if done:
            tell(f"{len(done)} of {len(self.runs)} runs are done")
        with self.heeding(), ThreadPoolExecutor(self.jobs) as pool:
            under_way: dict[Future, Run] = {}
            while left or under_way:
                for run in [*left]:
                    if lost := [each.title for each in run.before if each.key in self.failed]:
                        left.remove(run)
                        self.failed[run.key] = f"not run, for {lost[0]} failed"
                ready = [run for run in left if all(each.key in done for each in run.before)]
                for run in [] if self.stopping.is_set() else ready[: self.jobs - len(under_way)]:
                    left.remove(run)
                    under_way[pool.submit(self.one, run)] = run
                if not under_way:
                    break
                for future in wait(under_way, return_when=FIRST_COMPLETED).done:
                    run = under_way.pop(future)
                    note = future.result()
                    if note.status == DONE:
                        done.add(run.key)
                    elif note.status == FAILED:
                        self.failed[run.key] = note.error
        if self.stopping.is_set():
            tell(f"stopped; {len(done)} of {len(self.runs)} runs are done, and the same command does the rest")
            return GO_ON
        for run in self.runs:
            if run.key in self.failed:
                tell(f"failed: {run.title}: {self.failed[run.key]}")
        return 1 if self.failed else 0

    def one(self, run: Run) -> Note:
        """
        Run one, unless another process does so, which is waited for: one of a study, or a run that was left behind by a study that was
        killed. Return what is noted of it.
        """
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(run.folder.with_name(f".{run.folder.name}.lock"))
        try:
            free = self.wait_while(run, lambda: not acquired(lock))
            return self.alone(run) if free else Note(STOPPED)
        finally:
            lock.release()

    def alone(self, run: Run) -> Note:
        """Run one that no other study runs, if it is not done; return what is noted of it."""
        found = Note.find(run)
        if found is not None and found.status == BROKEN:
            # It may be of a run that is done, or of another version, and is not overwritten.
            return Note(FAILED, error=found.error)
        while not is_done(run) and self.wait_while(run, lambda: is_held(run.folder)):
            begun = time.monotonic()
            note = self.process(run)
            # One that was left behind before it had its lock may have come first.
            if note.status != FAILED or not is_held(run.folder):
                self.ended += 1
                took = duration(time.monotonic() - begun)
                tell(f"[{self.ended}/{len(self.runs)}] {run.title}: {note.status} in {took}")
                return note
        return Note(DONE if is_done(run) else STOPPED)

    def wait_while(self, run: Run, is_taken: Callable[[], bool]) -> bool:
        """Wait while another process has a run; return whether it is free, and no signal came before that."""
        told = False
        while not self.stopping.is_set() and is_taken():
            if not told:
                tell(f"{run.title}: another process runs it, which is waited for")
            told = True
            self.stopping.wait(PAUSE)
        return not self.stopping.is_set()

    def process(self, run: Run) -> Note:
        """Run one in a process, with its output in its log; return what is noted of it."""
        earlier, begun = Note.find(run), time.monotonic()
        note = Note(RUNNING, shlex.join(["renaissance", *run.argv]), seconds=earlier.seconds if earlier else 0.0)
        if earlier is not None and earlier.status == RUNNING and ended_alone(run):
            note.status, note.exit_code = DONE, 0
            note.write(run)
            return note
        note.write(run)
        before, log = note.seconds, log_of(run)
        with log.open("ab") as output:
            start = output.tell()
            process = subprocess.Popen(
                [sys.executable, "-m", "renaissance_cli", *run.argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self.processes.add(process)
            if self.stopping.is_set():
                # The signal came before the process was known.
                send(process, signal.SIGTERM)
            note.exit_code = process.wait()
            self.processes.discard(process)
        note.seconds = round(before + time.monotonic() - begun, 1)
        stopped = note.exit_code == GO_ON or self.stopping.is_set()
        note.status = DONE if note.exit_code == 0 else STOPPED if stopped else FAILED
        if note.status == FAILED:
            note.error = f"{reason_in(log, start)} (exit code {note.exit_code}; {log})"
        elif note.exit_code == GO_ON:
            # A scheduler signals all processes of a job.
            self.stopping.set()
        note.write(run)
        return note

    @contextlib.contextmanager
    def heeding(self) -> Iterator[None]:
        """Pass signals on to the runs, which save a checkpoint and end. A second Ctrl-C ends them at once."""

        def stop(number: int, frame: object) -> None:
            again = self.stopping.is_set()
            self.stopping.set()
            if not again:
                tell("stopping: each run saves a checkpoint")
            for process in list(self.processes):
                send(process, number if again or number != signal.SIGINT else signal.SIGTERM)

        before = {number: signal.signal(number, stop) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def send(process: subprocess.Popen, number: int) -> None:
    """Send a signal to a process, unless it has ended."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)


def ended_alone(run: Run) -> bool:
    """
    Return whether a run has come to its end, though nobody noted it: an encoder, whose command refuses to write it again. The same
    command of a task or a preparation finds out by itself what is left of it.
    """
    try:
        record = None if is_task(run) else RunRecord.find(run.folder)
    except ValueError:
        # Its command says what is wrong with the folder.
        return False
    return record is not None and record.status == "finished"


def acquired(lock: FileLock) -> bool:
    """Take a lock, if it is free; return whether it was."""
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True


def reason_in(log: Path, start: int) -> str:
    """Return why a run failed, by its log from a place on: the last line of a command about a mistake, else the last that is not empty."""
    with log.open("rb") as file:
        file.seek(max(start, os.path.getsize(log) - 65_536))
        text = file.read().decode("utf-8", errors="replace")
    lines = [line.rpartition("\r")[2].strip() for line in text.rstrip().split("\n")]
    told = [line for line in lines if MISTAKE.match(line)] or [line for line in lines if line]
    return told[-1] if told else "no output"


def tell(line: str) -> None:
    """Print a line with the time."""
    print(f"{time.strftime('%H:%M:%S')} {visible(line)}", flush=True)


def share_of(runs: list[Run], index: int, jobs: int) -> list[Run]:
    """
    Return the runs of one of several jobs: each `jobs`-th of those that no other starts from, counted from `index`, and what these
    start from, which the jobs share.
    """
    needed = {run.key for each in runs for run in each.before}
    last = [run for run in runs if run.key not in needed]
    own = {run.key for leaf in last[index::jobs] for run in (*leaf.ancestors(), leaf)}
    return [run for run in runs if run.key in own]

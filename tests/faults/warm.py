"""
Runs of tasks in children of one process that has imported everything, so that a run takes a second instead of ten.

`python warm.py` is that process: for each line of JSON on its standard input, a request as `Warm.start` writes it, it forks a child,
and answers with the child's number and, when that has ended, with its exit code (negative: the signal that killed it).
"""

import gc
import importlib
import json
import os
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

from faults.shim import Fault


#: The module and the class of the tasks that are run.
TASKS = {"snli_ve": "SNLIVE", "pretraining": "Pretraining"}


@dataclass
class Ended:
    """A run that has ended: its exit code (negative: the signal that killed it), and the text of its two outputs together."""

    code: int
    output: str

    @property
    def errors(self) -> list[str]:
        """The lines with errors."""
        return [line for line in self.output.splitlines() if "error: " in line]


class Warm:
    """
    The process, as a test sees it. One run at a time.

    Args:
        folder: A folder for its files.
        library: The compiled shim.
        argv: The options of a first run, which it does itself, into the folder `first`.

    Attributes:
        first: The folder of the first run.
        log: The file with the operations of the first run.
    """

    def __init__(self, folder: Path, library: Path, argv: list[str]):
        self.folder, self.first, self.log = folder, folder / "first", folder / "log"
        self.running = False
        argv = [*argv, "--output_dir", str(self.first)]
        environment = Fault(self.first, log=self.log).preload(library) | {"OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = str(Path(__file__).parents[1])
        self.process = subprocess.Popen(
            [sys.executable, __file__], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.process.stdin.write(json.dumps(argv) + "\n")
        self.process.stdin.flush()

    def answer(self, kind: str) -> int:
        """Wait for an answer of a kind; return its number."""
        line = self.process.stdout.readline()
        if not line.startswith(kind):
            raise RuntimeError(f"expected an answer {kind!r} of the warm process, got {line!r}")
        return int(line.removeprefix(kind))

    def wait(self) -> None:
        """Wait until the first run has ended."""
        self.answer("warm")

    def start(self, argv: list[str], fault: Fault | None = None, task: str = "snli_ve", before: str = "") -> int:
        """Start a run; return the number of its process. `before` is Python code that the process executes first."""
        environment = (fault or Fault(self.folder / "none")).environment()
        request = {"argv": argv, "task": task, "environment": environment, "before": before}
        request["output"] = str(self.folder / "output")
        (self.folder / "output").write_text("")
        if self.running:
            # That of a test that failed.
            self.end()
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        self.running = True
        return self.answer("started")

    @property
    def output(self) -> str:
        """The text of both outputs of the last run, so far."""
        return (self.folder / "output").read_text(encoding="utf-8", errors="replace")

    def end(self) -> Ended:
        """Wait for the run that was started."""
        code = self.answer("ended")
        self.running = False
        return Ended(code, self.output)

    def run(self, argv: list[str], fault: Fault | None = None, task: str = "snli_ve", before: str = "") -> Ended:
        """Run a task to its end."""
        self.start(argv, fault, task, before)
        return self.end()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def answer(request: dict) -> None:
    """What a child does: the run of a request."""
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = [f"run_{request['task']}.py"]
    module = importlib.import_module(f"renaissance.tasks.{request['task']}")
    task = getattr(module, TASKS[request["task"]])
    code = 0
    try:
        exec(request["before"], {})
        os.environ.update(request["environment"])
        Fault.arm_from_environment()
        importlib.import_module("renaissance.tasks.runner").run_task(task, "", request["argv"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    # As a process ends: the functions of atexit stop the workers of loaders.
    raise SystemExit(code)


def warm_up(argv: list[str]) -> None:
    """Import all, run once, and keep the garbage collector from what the children share."""
    for name in TASKS:
        importlib.import_module(f"renaissance.tasks.{name}")
    sys.argv = ["run_snli_ve.py"]
    runner = importlib.import_module("renaissance.tasks.runner")
    runner.run_task(sys.modules["renaissance.tasks.snli_ve"].SNLIVE, "", argv)
    gc.collect()
    gc.freeze()


def serve() -> None:
    """Do the first run, so that the children find all warm, and answer requests until there are no more."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    warm_up(json.loads(sys.stdin.readline()))
    print("warm 0", file=answers, flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            answers.close()
            answer(json.loads(line))
        # The group of its own, to which tests send signals, before anybody knows its number.
        os.setpgid(child, child)
        print("started", child, file=answers, flush=True)
        print("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)


if __name__ == "__main__":
    serve()

"""What a study knows of each of its runs: a small file beside the run's folder, written when the run begins and when it ends."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ..tasks.checkpoints import replace_file
from ..tasks.folder_files import made_of, read_mapping
from .plan import Run


#: How a run stands; broken is one whose note cannot be read.
RUNNING, DONE, FAILED, STOPPED, BROKEN = "running", "done", "failed", "stopped", "broken"


@dataclass
class Note:
    """
    What is known of a run.

    Attributes:
        status: running, done, failed, stopped (the same command goes on), or broken: what stood there cannot be read.
        command: Its command.
        exit_code: That of its process, when it has ended.
        seconds: How long its processes ran, all together.
        error: Why, if it failed or is broken.
    """

    status: str = RUNNING
    command: str = ""
    exit_code: int | None = None
    seconds: float = 0.0
    error: str = ""

    @classmethod
    def find(cls, run: Run) -> "Note | None":
        """Return the note of a run, a broken one if it cannot be read; `None` if the run never began."""
        path = place_of(run)
        try:
            return made_of(cls, read_mapping(path))
        except FileNotFoundError:
            return None
        except ValueError as error:
            fault = f"{path}: not what a study noted of a run ({error}); delete it, and the same command goes on with the run"
            return cls(BROKEN, error=fault)

    def write(self, run: Run) -> None:
        """Write the note, whole or not at all."""
        replace_file(place_of(run), json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")


def place_of(run: Run) -> Path:
    """Return the file of a run's note."""
    return run.folder.with_name(f"{run.folder.name}.json")


def log_of(run: Run) -> Path:
    """Return the file with the output of a run."""
    return run.folder.with_name(f"{run.folder.name}.log")


def is_done(run: Run) -> bool:
    """Return whether a run is done, and what it made is there."""
    note = Note.find(run)
    return note is not None and note.status == DONE and run.folder.is_dir()

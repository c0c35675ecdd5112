"""How far a run has come, so that the same command does the rest, and a lock that keeps a second process out of its folder."""

import json
import logging
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from transformers import TrainingArguments

from .checkpoints import replace_file


logger = logging.getLogger(__name__)

#: The name of the state in the folder of a run.
STATE_FILE = "run_state.json"
LOCK_FILE, OWNER_FILE = ".lock", ".lock.json"


@dataclass
class RunState:
    """
    How far the run in a folder has come.

    Attributes:
        options: Its options, as run.yaml has them.
        processes: The number of processes that trained it.
        step: Steps of the training that has ended; 0 before that.
        trained: Whether training has come to its end, and the model is in the folder.
        evaluated, predicted, pushed: Whether that model was evaluated, whether it predicted, and whether it was pushed.
    """

    options: dict[str, Any] = field(default_factory=dict)
    processes: int = 1
    step: int = 0
    trained: bool = False
    evaluated: bool = False
    predicted: bool = False
    pushed: bool = False

    @classmethod
    def find(cls, folder: str | Path) -> "RunState | None":
        """Return the state of the run in a folder; `None` if there is none. Raise `ValueError` if it cannot be read."""
        path = Path(folder) / STATE_FILE
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(f"{path}: not the state of a run ({error}); delete it to train anew") from error

    def write(self, folder: str | Path) -> None:
        """Write the state, whole or not at all."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        replace_file(Path(folder) / STATE_FILE, json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")

    def note(self, args: TrainingArguments, **changes: int | bool) -> None:
        """Change some attributes; the main process writes the state."""
        for name, value in changes.items():
            setattr(self, name, value)
        if args.process_index == 0:
            self.write(args.output_dir)

    def reaches(self, options: dict[str, Any]) -> bool:
        """Return whether training has come as far as `options` ask: it has ended, and they ask for no more than it did."""
        if not self.trained:
            return False
        steps, asked = (each.get("max_steps", -1) for each in (self.options, options))
        if steps > 0 and asked > 0:
            return asked <= self.step
        epochs, asked_epochs = (each.get("num_train_epochs", 0) for each in (self.options, options))
        return steps <= 0 and asked <= 0 and asked_epochs <= epochs


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """
    Keep other processes out of the folder of a run. The lock of a process that died is free again.

    Raises:
        ValueError: If another process has the folder; it says which. If nothing can be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        fault = "it is a file" if folder.is_file() else getattr(error, "strerror", None) or error
        raise ValueError(f"output_dir {folder}: cannot be made a folder ({fault}); choose another") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"output_dir {folder}: may not be written to; choose another")
    lock = FileLock(folder / LOCK_FILE, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"output_dir {folder} is in use{owner_of(folder)}; wait for it, or choose another") from None
    except (NotImplementedError, OSError) as error:
        logger.warning(f"output_dir {folder} cannot be locked ({error}): start no second run in it")
        yield
        return
    try:
        owner = {"process": os.getpid(), "host": platform.node()}
        (folder / OWNER_FILE).write_text(json.dumps(owner), encoding="utf-8")
        yield
    finally:
        (folder / OWNER_FILE).unlink(missing_ok=True)
        lock.release()
        if [path.name for path in folder.iterdir()] == [LOCK_FILE]:
            # Nothing came of the run.
            shutil.rmtree(folder)


def owner_of(folder: Path) -> str:
    """Return a phrase on the process that has a folder; an empty one if it is not known."""
    try:
        owner = json.loads((folder / OWNER_FILE).read_text(encoding="utf-8"))
        return f" by process {owner['process']} on {owner['host']}"
    except (OSError, ValueError, KeyError):
        return ""

"""How far a run has come, so that the same command does the rest."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from .checkpoints import replace_file
from .folder_files import made_of, read_mapping


#: The name of the state in the folder of a run.
STATE_FILE = "run_state.json"


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
        recorded: Whether the record and the card tell all of that.
    """

    options: dict[str, Any] = field(default_factory=dict)
    processes: int = 1
    step: int = 0
    trained: bool = False
    evaluated: bool = False
    predicted: bool = False
    pushed: bool = False
    recorded: bool = False

    @classmethod
    def find(cls, folder: str | Path) -> "RunState | None":
        """Return the state of the run in a folder; `None` if there is none. Raise `ValueError` if it cannot be read."""
        path = Path(folder) / STATE_FILE
        try:
            return made_of(cls, read_mapping(path))
        except FileNotFoundError:
            return None
        except ValueError as error:
            remedy = "delete it, and the same command goes on from the newest checkpoint, or begins if there is none"
            raise ValueError(f"{path}: not the state of a run ({error}); {remedy}") from error

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
        flops, asked_flops = (each.get("max_flops") for each in (self.options, options))
        if flops or asked_flops:
            return bool(flops and asked_flops) and asked_flops <= flops
        steps, asked = (each.get("max_steps", -1) for each in (self.options, options))
        if steps > 0 and asked > 0:
            return asked <= self.step
        epochs, asked_epochs = (each.get("num_train_epochs", 0) for each in (self.options, options))
        return steps <= 0 and asked <= 0 and asked_epochs <= epochs

"""Reads what runs have left in their folders: the record, the log of training, the files of predictions."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..tasks.checkpoints import newest_first
from ..tasks.folder_files import read_mapping
from ..tasks.run_record import FILE_NAME, MetricValue, RunRecord
from .pictures import LARGEST, can_be_drawn


STATE_FILE = "trainer_state.json"
#: What no curve is drawn of: times, speeds and counts.
NO_CURVE = ("_runtime", "_per_second", "_preparation_time", "_rows", "_labels", "_images", "_captions")
#: The baselines in a log, by what stands before the name of a metric.
BASELINES = ("majority", "chance", "constant")

Point = tuple[float, float]


@dataclass
class Run:
    """
    A run, as its folder tells of it.

    Attributes:
        name: Its name on the page.
        folder: Its folder.
        record: Its record.
        log: The lines of its log, each with a `step`.
        flops_a_step: Floating-point operations of a step of training, forward and backward; `None` if they are not known.
        faults: What could not be read, a line each.
    """

    name: str
    folder: Path
    record: RunRecord
    log: list[dict[str, Any]] = field(default_factory=list)
    flops_a_step: float | None = None
    faults: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path, name: str = "") -> "Run":
        """Return the run in a folder; raise `ValueError` if it has no record, or a broken one. A broken log is one of its `faults`."""
        record = RunRecord.read(folder)
        run = cls(name or record.name or folder.resolve().name, folder, record)
        run.read_log()
        return run

    def read_log(self) -> None:
        """Read the log of training, that of the newest checkpoint if training has not ended."""
        places = [self.folder, *newest_first(self.folder)[:1]]
        path = next((place / STATE_FILE for place in places if (place / STATE_FILE).is_file()), None)
        if path is None:
            return
        try:
            state = read_mapping(path)
        except (ValueError, OSError) as error:
            self.faults.append(f"{path.relative_to(self.folder)} cannot be read, so that there are no curves: {error}")
            return
        lines = state.get("log_history")
        self.log = [line for line in lines if is_line(line)] if isinstance(lines, list) else []
        if not isinstance(lines, list) or len(self.log) < len(lines):
            self.faults.append(f"{path.relative_to(self.folder)}: lines of the log without a step are left out")
        self.flops_a_step = flops_a_step(state)

    @property
    def flops(self) -> float | None:
        """Floating-point operations of its training; `None` if they are not known."""
        return self.flops_a_step * self.record.steps if self.flops_a_step and self.record.steps else None

    @property
    def is_finished(self) -> bool:
        """Whether it has come to its end."""
        return self.record.status == "finished"

    def curve(self, name: str) -> list[Point]:
        """Return the values of a name in the log, by step."""
        points = ((line["step"], line.get(name)) for line in self.log)
        return [(step, float(value)) for step, value in points if is_number(value)]

    def names(self) -> list[str]:
        """Return the names in the log that curves can be drawn of, in their order; neither baselines nor what has no finite value."""
        found = dict.fromkeys(name for line in self.log for name in line if isinstance(name, str))
        return [
            name
            for name in found
            if name not in ("step", "epoch", "total_flos", "skipped_steps", "samples_per_second")
            and not name.startswith("train_")
            and not name.endswith(NO_CURVE)
            and not any(f"_{kind}_" in name for kind in BASELINES)
            and any(can_be_drawn(value) for _, value in self.curve(name))
        ]

    def baseline(self, name: str) -> tuple[str, float] | None:
        """Return the kind and the last value of the baseline of a metric in the log; `None` if it has none."""
        words = name.split("_")
        for kind in BASELINES:
            for place in range(1, len(words)):
                marked = "_".join([*words[:place], kind, *words[place:]])
                if points := self.curve(marked):
                    return kind, points[-1][1]
        return None

    def best_scores(self) -> list[MetricValue]:
        """Return the metrics that have a baseline, those of tests first; without any, the losses of evaluation."""
        known = [each for each in self.record.metrics if each.value is not None and each.split != "train"]
        scores = [each for each in known if each.baseline is not None] or known
        return sorted(scores, key=lambda each: not each.name.startswith("test"))

    def prediction_files(self) -> list[Path]:
        """Return its files of predictions: those of all tasks, and those for GLUE's evaluation server."""
        found = [*self.folder.glob("predictions*"), *self.folder.glob("*.tsv")]
        return sorted(path for path in found if path.is_file() and path.suffix in (".csv", ".json", ".jsonl", ".tsv"))


def flops_a_step(state: dict[str, Any]) -> float | None:
    """Return the floating-point operations of a step, forward and backward, by the state of a training; `None` if they are not known."""
    flops, steps = state.get("total_flos"), state.get("global_step")
    known = is_number(flops) and is_number(steps) and flops > 0 and steps > 0
    return flops / steps if known else None


def is_number(value: Any) -> bool:
    """Return whether this is a number, finite or not, that a float can hold."""
    if isinstance(value, int) and not isinstance(value, bool):
        return abs(value) < LARGEST
    return isinstance(value, float)


def is_line(line: Any) -> bool:
    """Return whether this is a line of a log."""
    return isinstance(line, dict) and is_number(line.get("step")) and math.isfinite(line["step"])


def folders_of_runs(folder: Path) -> Iterator[Path]:
    """Yield the folders of runs in and below a folder, in order; those of checkpoints are none. Links are not followed."""
    for place, below, names in os.walk(folder):
        below[:] = sorted(name for name in below if not name.startswith((".", "checkpoint-", "last-checkpoint")))
        if FILE_NAME in names:
            yield Path(place)

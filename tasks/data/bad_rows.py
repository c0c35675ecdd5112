"""Bad rows of training data: an error, or skipped, listed in a report, and replaced by others that depend on the seed alone."""

import contextlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from datasets import Dataset
from filelock import FileLock

from ...processing.decoding import UnusableRow
from .faults import Faults, RowPlace
from .keyed_rows import KeyedRows
from .mixing import span_of


logger = logging.getLogger(__name__)

#: The name of the report in the folder of a run.
REPORT = "bad_rows.jsonl"

#: The largest share of rows that are skipped unless the user says otherwise: of indexed data, and of a stream.
MOST, MOST_OF_STREAM = 0.1, 0.5

#: Rows of a stream after which the share of bad ones is judged, if its pass has not ended before.
JUDGED_ROWS = 1000

#: Rows that are drawn to replace a bad one, at most.
DRAWN = 1000

#: Where in a run a bad row was found.
BEFORE, DURING = "before training", "in training"

#: What to do about a bad row.
ADVICE = "mend it, or go on without such rows by --on_bad_row skip"
ADVICE_IN_EVALUATION = "mend it, for no row of evaluation is skipped"
ADVICE_ON_ROW = "; mend it or, if it is one of the training data, go on without its row by --on_bad_row skip"


class BadRow(ValueError):
    """Training ends because of a bad row, or of too many."""


@dataclass
class BadRows:
    """
    The bad rows of the training data, and what becomes of them. Processes and loader processes that share a `report` know of each
    other's. That a row is known to be bad changes nothing but the time it takes to find that out.

    Attributes:
        skip: Whether they are skipped; else one is an error.
        max_fraction: Largest share of the rows of a data set that is skipped; more are an error.
        report: The file that lists them, a line of JSON each; `None` for none.
        for_training: Whether the rows are trained on. Those of evaluation are never skipped.
        totals: The number of rows of each data set, good or bad, if it is known.
    """

    skip: bool = False
    max_fraction: float = 0.0
    report: Path | None = None
    for_training: bool = True
    totals: dict[str, int] = field(default_factory=dict)
    _lines: dict[tuple[str, int | str], dict] = field(default_factory=dict)
    _counts: Counter = field(default_factory=Counter)
    #: How much of the report this process has read, in bytes.
    _read: int = 0

    def __contains__(self, place: Any) -> bool:
        """Return whether a row is known to be bad."""
        return isinstance(place, RowPlace) and (file_of(place.source), place.row) in self._lines

    def holds(self, row: dict) -> bool:
        """Return whether a row, or that of one of its images, is known to be bad."""
        if not self._lines:
            return False
        if row.get("place") in self:
            return True
        values = [value for each in row.values() for value in (each if isinstance(each, list) else [each])]
        return any(value.get("place") in self for value in values if isinstance(value, dict))

    def count(self) -> int:
        """Return the number of bad rows, those that other processes have found by now among them."""
        self.refresh()
        return len(self._lines)

    def leave_out(self, data: Dataset, faults: Faults) -> Dataset:
        """Return the data as `faults.leave_out` does, with the bad rows in the report; raise `ValueError`, and write the report, if
        they are too many to be skipped."""
        file = file_of(faults.source)
        self.totals[file] = len(data)
        if self.skip:
            for row, message in faults.all_rows():
                self._note({"file": file, "row": row, "image": None, "fault": message, "found": BEFORE})
        try:
            return faults.leave_out(data, self.max_fraction if self.skip else 0.0)
        except ValueError as error:
            if not self.skip or not self._lines:
                raise
            raise ValueError(f"{error}{self.write(keep=True)}") from error

    def write(self, keep: bool) -> str:
        """Write the report anew: the rows that were found before training and, with `keep`, those that an earlier part of the run
        found in it. Return where it is, as the end of a message."""
        if self.report is None or not PartialState().is_main_process:
            return ""
        own = dict(self._lines)
        if keep:
            self.refresh()
            self._lines = {key: line for key, line in self._lines.items() if line["found"] == DURING} | own
            self._counts = Counter(file for file, _ in self._lines)
        if not self._lines:
            self.report.unlink(missing_ok=True)
            return ""
        self.report.parent.mkdir(parents=True, exist_ok=True)
        part = self.report.with_suffix(".part")
        part.write_bytes(b"".join(map(as_line, self._lines.values())))
        self._read = part.stat().st_size
        part.replace(self.report)
        return f"; {self.report} lists them"

    def add(self, file: str, row: int | str, image: str | None, fault: str) -> int:
        """
        Add a row that was found to be bad in training, unless it is known. Return the number of bad rows of its data set.

        Raises:
            BadRow: If bad rows are an error, or there are too many now.
        """
        if not self.skip:
            raise BadRow(f"{file}, row {row}: {fault}; {ADVICE if self.for_training else ADVICE_IN_EVALUATION}")
        with self.locked():
            self.refresh()
            line = {"file": file, "row": row, "image": image, "fault": fault, "found": DURING}
            if self._note(line) and self.report is not None:
                with self.report.open("ab") as report:
                    report.write(as_line(line))
        count = self._counts[file]
        if file in self.totals:
            self.judge(file, count, self.totals[file])
        return count

    def judge(self, file: str, count: int, total: int, reader: str = "") -> None:
        """Raise `BadRow` if `count` bad rows of `total` are too many. A `reader` is the process that has read these rows of a stream, as
        messages name it."""
        if count > self.max_fraction * total:
            where = f"; {self.report} lists them" if self.report else ""
            limit = f"max_bad_fraction is {self.max_fraction:g}"
            read = f" that {reader} has read" if reader else ""
            raise BadRow(f"{file}: {count} of {total} rows{read} cannot be used ({limit}){where}")

    def refresh(self) -> None:
        """Read what other processes have added to the report."""
        if self.report is None or not self.report.is_file():
            return
        with self.report.open("rb") as report:
            report.seek(self._read)
            # A line may be half written.
            content = report.read().rpartition(b"\n")[0]
        self._read += len(content) + bool(content)
        for line in content.splitlines():
            with contextlib.suppress(ValueError, TypeError, KeyError):
                self._note(json.loads(line))

    def _note(self, line: dict) -> bool:
        """Keep a line of the report; return whether it is of a row that was not known."""
        if (key := (line["file"], line["row"])) in self._lines:
            return False
        self._lines[key] = line
        self._counts[key[0]] += 1
        return True

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from the report, on file systems that have locks."""
        if self.report is None:
            yield
            return
        self.report.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.report.with_name(f".{self.report.name}.lock"))
        with contextlib.suppress(NotImplementedError, OSError):
            lock.acquire()
        try:
            yield
        finally:
            lock.release()


def file_of(source: str) -> str:
    """Return the name of a data set of which `source` is the training split."""
    return source.removesuffix(", split 'train'")


def as_line(row: dict) -> bytes:
    """Return a bad row as a line of the report."""
    # Names of files may have bytes that are no text; JSON writes them as such an escape.
    return f"{json.dumps(row, ensure_ascii=False)}\n".encode(errors="backslashreplace")


@dataclass
class SkippingCollator:
    """
    Makes batches of training rows, of which those that cannot be used are replaced, such as one with an unreadable image or a box
    outside its image. The row that replaces one is drawn from the same data set by the seed, the epoch and the number of the bad row; if it is bad too, the next one is drawn. So a resumed run repeats it, whatever
    the numbers of processes and loader processes are.

    A row is found to be bad when the `collator` decodes its image, so that good batches take no time for it.
    """

    collator: Callable[[list[dict]], dict[str, Any]]
    data: KeyedRows
    bad_rows: BadRows
    seed: int

    def __call__(self, rows: list[dict]) -> dict[str, Any]:
        if not rows[0]["training"]:
            return self.collator(rows)
        self.bad_rows.refresh()
        while True:
            # From the rows of the sampler each time: what replaces a row must not depend on when it was found to be bad.
            usable = [self.usable(row) for row in rows]
            try:
                return self.collator(usable)
            except UnusableRow as error:
                place = error.place
                # Without a row, or if it was drawn although it is known, nothing would change.
                if not isinstance(place, RowPlace) or place in self.bad_rows:
                    raise
                count = self.bad_rows.add(file_of(place.source), place.row, error.path, error.reason)
                # Whenever the number has doubled.
                if count.bit_count() == 1:
                    logger.warning(f"bad rows that were skipped: {count}, now {place}: {error.reason}")

    def usable(self, row: dict) -> dict:
        """Return a row, or if it is known to be bad the one that replaces it."""
        if not self.bad_rows.holds(row):
            return row
        rng = np.random.default_rng((self.seed, row["epoch"], row["sample_id"]))
        # Of the same data set: another may serve other objectives, and batches may have fixed shares of each.
        for number in rng.integers(*span_of(self.data.data, row["sample_id"]), size=DRAWN).tolist():
            # The epoch is that of the row at hand: the loader may be ahead of the data's.
            drawn = self.data[number] | {"epoch": row["epoch"]}
            if not self.bad_rows.holds(drawn):
                return drawn
        raise BadRow(f"{self.data.source}: {DRAWN} rows drawn to replace a bad one are all bad")

"""Collects all that is wrong with a split, so that one message can name it before training starts."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset


logger = logging.getLogger(__name__)

#: The column that `Faults.leave_out` adds: the number of each row in its file, for messages about rows of a part of it.
FILE_ROW = "file_row"

#: Number of rows that a message shows of each kind of fault.
SHOWN = 5


class Faults:
    """
    The faults of a split, of its columns and of its rows by kind, and the rows that are skipped without being faults.

    Args:
        source: Name of the split in messages.
        columns: The user's name of each column of the task, for messages; the names of several columns are joined.
    """

    def __init__(self, source: str, columns: Mapping[str, str | list[str]] | None = None):
        self.source = source
        self._names: dict[str, list[str]] = {}
        self.name_columns(columns or {})
        self._of_columns: list[str] = []
        self._of_rows: dict[str, dict[int, str]] = {}
        self._skipped: dict[str, set[int]] = {}
        self._unreadable: set[int] = set()
        #: The names of rows besides their numbers, such as those of samples in an archive.
        self.name_of_row: Callable[[int], str] | None = None
        #: All columns that the task uses, by the user's names; `None` if that is not known.
        self.wanted: list[str] | None = None
        if columns is not None:
            self.wanted = [part for own in columns.values() for part in ([own] if isinstance(own, str) else own)]
        #: Columns of the file that cannot be read, by the user's names, with the reason: faults if the task needs them.
        self.unreadable_columns: dict[str, str] = {}

    def name_columns(self, columns: Mapping[str, str | list[str]]) -> None:
        """Take the user's names of columns of the task, also of some that were known otherwise before a look at the data."""
        self._names |= {name: [own] if isinstance(own, str) else list(own) for name, own in columns.items()}

    def called(self, column: str, place: int | None = None) -> str:
        """Return a column of the task as the user calls it: column 'picture'. If several columns make one, return all, or that
        at a `place` of a row's list."""
        names = self._names.get(column, [column])
        names = names[place : place + 1] if place is not None and len(names) > 1 else names
        return "column '{}'".format("', '".join(names))

    def add(self, message: str) -> None:
        """Add a fault of the whole split, such as a missing column."""
        if message not in self._of_columns:
            self._of_columns.append(message)

    def add_row(self, kind: str, row: int, message: str) -> None:
        """Add a fault of a row, by its number in the file from 0 on. Faults of one `kind` are counted together."""
        if row not in self._unreadable:
            self._of_rows.setdefault(kind, {}).setdefault(row, message)

    def add_unreadable(self, kind: str, row: int, message: str) -> None:
        """Add a fault of a row whose values cannot be trusted: no other fault of it is added."""
        self.add_row(kind, row, message)
        self._unreadable.add(row)

    def add_all(self, other: "Faults", start: int, place: str | None) -> None:
        """Add the faults of a file of several, whose rows are counted from `start` on; `place` names it in messages."""
        prefix = f"{place}: " if place else ""
        for kind, found in other._of_rows.items():
            for row, message in found.items():
                self.add_row(kind, start + row, f"{prefix}{message}")
        self._unreadable.update(start + row for row in other._unreadable)
        self.unreadable_columns |= other.unreadable_columns

    def skip(self, rows: Iterable[int], reason: str) -> None:
        """Leave rows out that have no fault but cannot be used; `reason` follows their number in the log."""
        self._skipped.setdefault(reason, set()).update(rows)

    @property
    def bad_rows(self) -> set[int]:
        """The rows with a fault."""
        return set().union(*self._of_rows.values())

    def all_rows(self) -> Iterator[tuple[int, str]]:
        """Yield the rows with a fault, in order, each with its first one."""
        first = {}
        for found in self._of_rows.values():
            first = found | first
        yield from sorted(first.items())

    def check_columns(self) -> None:
        """Raise `ValueError` with all faults if one is of the whole split, for then its rows cannot be used."""
        if self._of_columns:
            raise ValueError(f"{self.source}: {'; '.join([*self._of_columns, *self.describe_rows()])}")

    def describe_rows(self) -> list[str]:
        """Return a phrase for each kind of fault of rows: its first row, and the number of rows and the first of them."""
        phrases = []
        for found in self._of_rows.values():
            rows = sorted(found)
            others = "" if len(rows) == 1 else f" ({len(rows)} such rows: {', '.join(map(str, rows[:SHOWN]))}"
            others += f"{', ...' if len(rows) > SHOWN else ''})" if others else ""
            name = f" ({self.name_of_row(rows[0])})" if self.name_of_row else ""
            phrases.append(f"row {rows[0]}{name}: {found[rows[0]]}{others}")
        return phrases

    def leave_out(self, data: Dataset, max_bad_fraction: float = 0.0) -> Dataset:
        """
        Return the data without the rows that have a fault and those that are skipped; log how many and why. Rows
        without an `id` get their number in the file as one. Raise `ValueError` with all faults if more than
        `max_bad_fraction` of the rows have one, or no row is left. The column `FILE_ROW` keeps the numbers in the file.
        """
        self.check_columns()
        total, bad = len(data), self.bad_rows
        phrases = "; ".join(self.describe_rows())
        if len(bad) > max_bad_fraction * total:
            counts = f"{len(bad)} of {total} rows cannot be used"
            limit = f" (max_bad_fraction is {max_bad_fraction:g})" if max_bad_fraction else ""
            raise ValueError(f"{self.source}: {counts}{limit}: {phrases}")
        if bad:
            logger.warning(f"{self.source}: left out {len(bad)} of {total} rows that cannot be used: {phrases}")
        for reason, rows in self._skipped.items():
            if rows:
                logger.warning(f"{self.source}: skipped {len(rows)} of {total} rows, {reason}")
        left_out = bad.union(*self._skipped.values())
        if not left_out:
            return data.add_column(FILE_ROW, np.arange(total))
        if len(left_out) == total:
            raise ValueError(f"{self.source}: none of {total} rows can be used")
        if "id" not in data.column_names:
            data = data.add_column("id", [str(row) for row in range(total)])
        data = data.add_column(FILE_ROW, np.arange(total))
        return data.select([row for row in range(total) if row not in left_out])


class RowPlace(NamedTuple):
    """A row in messages: the name of its source, and its number there."""

    source: str
    row: int

    def __str__(self) -> str:
        return f"{self.source}, row {self.row}"


def place_of(source: str, row: Mapping[str, Any], index: int) -> RowPlace:
    """Return the place of a row of a table: its source, and its number in the file if it is known."""
    return RowPlace(source, row.get(FILE_ROW, index))

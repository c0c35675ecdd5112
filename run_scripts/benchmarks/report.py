"""Results as readable tables and as JSON, which is written as they come."""

import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .measure import Spread, environment


@dataclasses.dataclass
class Table:
    """
    A table with a title.

    Attributes:
        title: The title.
        rows: Each maps the names of all columns to what stands there: text, a number, a `Spread`, or `None`.
        changed: Called after each new row.
    """

    title: str
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    changed: Callable[[], None] = lambda: None

    def add(self, row: dict[str, Any]) -> None:
        """Add a row, and say so on standard error, for measuring takes long."""
        self.rows.append(row)
        print(f"{self.title}: " + ", ".join(f"{name} {cell(value)}" for name, value in row.items()), file=sys.stderr)
        self.changed()

    def __str__(self) -> str:
        lines = [list(self.rows[0]), *([cell(value) for value in row.values()] for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        header, *body = (
            "| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |"
            for line in lines
        )
        rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
        return "\n".join([f"\n{self.title}", "", header, rule, *body])


def cell(value: Any) -> str:
    """A value as a table shows it."""
    if value is None:
        return "-"
    if isinstance(value, Spread):
        median, least, largest = (cell(part) for part in (value.median, value.min, value.max))
        return f"{median} ({least} to {largest})"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


class Report:
    """
    The tables of a measurement. With a file, all of them are written to it after each row, so that nothing is lost if the measurement
    is cut off.

    Args:
        group: What is measured.
        options: How.
        path: The JSON file.
    """

    def __init__(self, group: str, options: dict[str, Any], path: Path | None = None):
        self.path = path
        self._tables: dict[str, Table] = {}
        self._about = {"benchmark": group, "options": options}

    def table(self, title: str) -> Table:
        """Return the table of that title, a new one if there is none yet."""
        return self._tables.setdefault(title, Table(title, changed=self.write))

    @property
    def tables(self) -> list[Table]:
        """The tables that have rows."""
        return [table for table in self._tables.values() if table.rows]

    def write(self) -> None:
        """Write the file, if there is one: what was measured, how, where, and the tables so far."""
        if self.path is None:
            return
        # Asked for only now: it begins to use the GPU that a measurement has chosen.
        found = {"environment": environment(), "results": {table.title: table.rows for table in self.tables}}
        # A reader never sees half of it.
        partial = self.path.with_name(f".{self.path.name}.partial")
        partial.write_text(json.dumps(self._about | found, indent=1, default=as_json), encoding="utf-8")
        os.replace(partial, self.path)


def as_json(value: Any) -> Any:
    """What JSON has for a `Spread` or a path."""
    return dataclasses.asdict(value) if isinstance(value, Spread) else str(value)

"""Results as JSON and as readable tables."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from .measure import Spread


@dataclasses.dataclass
class Table:
    """A table with a title. Each row maps the names of all columns to what stands there: text, a number, a `Spread`, or `None`."""

    title: str
    rows: list[dict[str, Any]]

    def add(self, row: dict[str, Any]) -> None:
        """Adds a row, and says so on standard error, for measuring takes long."""
        self.rows.append(row)
        print(f"{self.title}: " + ", ".join(f"{name} {cell(value)}" for name, value in row.items()), file=sys.stderr)

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


def write_json(path: Path, group: str, options: dict[str, Any], environment: dict[str, Any], tables: list[Table]):
    """Writes all there is to know of a run: what was measured, how, where, and what came out."""
    content = {
        "benchmark": group,
        "options": options,
        "environment": environment,
        "results": {table.title: table.rows for table in tables},
    }
    path.write_text(json.dumps(content, indent=1, default=as_json), encoding="utf-8")


def as_json(value: Any) -> Any:
    """What JSON has for a `Spread` or a path."""
    return dataclasses.asdict(value) if isinstance(value, Spread) else str(value)

"""
Write the tables of options, and of the fields of a run's record, into pages of the documentation, between their lines
`<!-- options: NAME -->` or `<!-- fields: NAME -->` and `<!-- end -->`.

    python -m renaissance.tasks.option_tables docs/options.md docs/runs.md
"""

import dataclasses
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from transformers import TrainingArguments

from ..processing.objectives import OBJECTIVE_DATA
from .arguments import (
    AUGMENTATION_OPTIONS,
    AugmentationArguments,
    CachingArguments,
    ModelArguments,
    RunArguments,
    merge,
    new_model_options,
)
from .data.downloading import Downloading
from .optimization import OptimizationArguments
from .option_fields import Option, options_of
from .own_data import OwnDataArguments
from .pretraining import PretrainingArguments
from .run_record import ROWS, RunRecord


def tables() -> dict[str, list[Option]]:
    """Return the options in each table, by its name."""
    model = {option.name: option for option in options_of(ModelArguments)}
    own = {option.name: option for option in options_of(AugmentationArguments)}
    # Those of downloads have their defaults in their own table.
    downloads = {option.name for option in options_of(Downloading, "download_")}
    files = [option for option in options_of(OwnDataArguments) if option.name not in downloads]
    return {
        "model": [option for name, option in model.items() if name != "freeze"],
        "architecture": [merge(versions) for versions in new_model_options().values()],
        "freezing": [model["freeze"]],
        "pushing": [option for option in options_of(RunArguments) if option.name == "push_revisions"],
        "optimization": options_of(OptimizationArguments, beyond=TrainingArguments),
        "own_data": [*files, *options_of(Downloading, "download_")],
        "pretraining": options_of(PretrainingArguments, beyond=OwnDataArguments),
        "objectives": [option for kind in OBJECTIVE_DATA.values() for option in options_of(kind)],
        "augmentation": [own["augmentation"], *(option for some in AUGMENTATION_OPTIONS.values() for option in some)],
        "caching": options_of(CachingArguments),
    }


def table(options: Iterable[Option]) -> str:
    """Return a table in Markdown, with a row for each option."""
    rows = [(f"`{option.name}`", option.default, option.help) for option in options]
    return in_markdown([("option", "default", "what it sets"), *rows])


def field_table(kind: type) -> str:
    """Return a table in Markdown, with a row for each field of a dataclass of the record."""
    rows = [(f"`{entry.name}`", entry.metadata["doc"]) for entry in dataclasses.fields(kind)]
    return in_markdown([("field", "meaning"), *rows])


def in_markdown(lines: list[tuple[str, ...]]) -> str:
    """Return a table in Markdown; its first line has the names of the columns."""
    lines = [lines[0], ("---",) * len(lines[0]), *lines[1:]]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def fill(page: str) -> str:
    """Return a page with its tables made anew; raise `ValueError` if it names a table that does not exist."""
    known = {("options", name): table(options) for name, options in tables().items()}
    known |= {("fields", name): field_table(kind) for name, kind in {"run": RunRecord, **ROWS}.items()}

    def replacement(match: re.Match) -> str:
        kind, name = match[2], match[3]
        if (kind, name) not in known:
            expected = ", ".join(other for of_kind, other in known if of_kind == kind)
            raise ValueError(f"{kind}: no table {name}, expected one of {expected}")
        return f"{match[1]}\n{known[kind, name]}\n<!-- end -->"

    return re.sub(r"(<!-- (options|fields): (\w+) -->)\n.*?<!-- end -->", replacement, page, flags=re.DOTALL)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        Path(name).write_text(fill(Path(name).read_text()))

"""
Write the tables of options into a page of the documentation, between its lines `<!-- options: NAME -->` and `<!-- end
-->`.

    python -m renaissance.tasks.option_tables docs/options.md
"""

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
    lines = [("option", "default", "what it sets"), ("---",) * 3, *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def fill(page: str) -> str:
    """Return a page with its tables made anew; raise `ValueError` if it names a table that does not exist."""
    known = tables()

    def replacement(match: re.Match) -> str:
        if match[2] not in known:
            raise ValueError(f"options: no table {match[2]}, expected one of {', '.join(known)}")
        return f"{match[1]}\n{table(known[match[2]])}\n<!-- end -->"

    return re.sub(r"(<!-- options: (\w+) -->)\n.*?<!-- end -->", replacement, page, flags=re.DOTALL)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        Path(name).write_text(fill(Path(name).read_text()))

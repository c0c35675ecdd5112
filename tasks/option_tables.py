"""
Write the tables that are made from the code: those of options and of the fields of a run's record into pages of the
documentation, between their lines `<!-- options: NAME -->` or `<!-- fields: NAME -->` and `<!-- end -->`, and that of the
command `renaissance`, from which it shows help and mistakes.

    python -m renaissance.tasks.option_tables docs/options.md docs/runs.md src/renaissance_cli/options.json
"""

import dataclasses
import importlib
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import transformers

from renaissance_cli.subcommands import SUBCOMMANDS
from renaissance_cli.table import table_of

from ..modeling.architectures import HEADS
from ..processing.objectives import OBJECTIVE_DATA
from .arguments import (
    AUGMENTATION_OPTIONS,
    AugmentationArguments,
    CachingArguments,
    ModelArguments,
    RunArguments,
    argument_classes,
    merge,
    new_model_options,
)
from .data.downloading import Downloading
from .optimization import OptimizationArguments
from .option_fields import Option, options_of
from .option_groups import grouped_table
from .own_data import OwnDataArguments
from .parsing import DataclassParser
from .pretraining_arguments import PretrainingArguments
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
        "run": own_options(RunArguments),
        "optimization": own_options(OptimizationArguments),
        "own_data": [*files, *options_of(Downloading, "download_")],
        "pretraining": options_of(PretrainingArguments, beyond=OwnDataArguments),
        "objectives": [option for kind in OBJECTIVE_DATA.values() for option in options_of(kind)],
        "augmentation": [own["augmentation"], *(option for some in AUGMENTATION_OPTIONS.values() for option in some)],
        "caching": options_of(CachingArguments),
    }


def own_options(kind: type) -> list[Option]:
    """Return the options that a dataclass has itself, or describes anew."""
    return [option for option in options_of(kind) if option.name in vars(kind)["__annotations__"]]


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


def command_tables() -> dict[str, Any]:
    """
    Return the tables of all subcommands with options, by name. An option that is the same in most tasks is among the
    `shared` ones, and its name stands for it.
    """
    found = {}
    for name, subcommand in SUBCOMMANDS.items():
        module, _, attribute = subcommand.target.partition(":")
        if subcommand.is_task:
            task = getattr(importlib.import_module(module), attribute)
            kinds = argument_classes(task)
            found[name] = grouped_table(DataclassParser(kinds), kinds, HEADS[task.kind])
        elif name != "recipes":
            found[name] = table_of(importlib.import_module(module).build_parser())
    tasks = [found[name] for name, subcommand in SUBCOMMANDS.items() if subcommand.is_task]
    seen = Counter(as_text(option) for table in tasks for group in table["groups"] for option in group["options"])
    shared = {}
    for text, number in seen.items():
        option = json.loads(text)
        if number > len(tasks) / 2 and not option.get("flag"):
            shared[option["name"]] = option
    for table in tasks:
        for group in table["groups"]:
            options = group["options"]
            group["options"] = [each["name"] if shared.get(each["name"]) == each else each for each in options]
    return {"transformers": transformers.__version__, "shared": shared, "subcommands": found}


def as_text(value: Any) -> str:
    """Return plain data as JSON."""
    return json.dumps(value, ensure_ascii=False)


def as_file(tables: dict[str, Any]) -> str:
    """Return tables as JSON, with a line for each option."""
    return re.sub(r'(\{"(?:name|title|summary)": )', r"\n\1", as_text(tables)) + "\n"


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        text = as_file(command_tables()) if path.suffix == ".json" else fill(path.read_text(encoding="utf-8"))
        path.write_text(text, encoding="utf-8")

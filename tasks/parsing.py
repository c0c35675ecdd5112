"""From a command line and a recipe to the dataclasses of a run's options, and from these to the recipe that repeats the run."""

import argparse
import dataclasses
import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml
from transformers import HfArgumentParser, TrainingArguments

from renaissance_cli.mistakes import refuse_unknown
from renaissance_cli.recipe_files import CommandLine
from renaissance_cli.table import flags_of, parser_of
from renaissance_cli.table import options_of as table_options

from ..hub import OF_THE_AUTHOR, take_token
from .arguments import fixed_by_checkpoint, new_model_options
from .checkpoints import replace_file
from .option_groups import grouped_table


def import_modules(argv: list[str]) -> list[ModuleType]:
    """
    Import the modules that `--import_module` names in a command line, with the options of its recipe: they may register
    further options. Search the current folder last. Raise `ValueError` if a module cannot be imported.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--import_module", "--import-module", nargs="+", default=[])
    names = parser.parse_known_args(argv)[0].import_module
    if names and (folder := str(Path.cwd())) not in sys.path:
        sys.path.append(folder)
    modules = []
    for name in names:
        try:
            modules.append(importlib.import_module(name))
        except Exception as error:  # whatever the user's module raises
            raise ValueError(f"import_module {name}: cannot be imported ({type(error).__name__}: {error})") from error
    return modules


class DataclassParser(HfArgumentParser):
    """Fills dataclasses from a command line; a mistake is a `ValueError`."""

    def __init__(self, dataclass_types: tuple[type, ...]):
        # `grouped_table` adds the defaults, in words.
        super().__init__(dataclass_types, allow_abbrev=False, formatter_class=argparse.HelpFormatter)

    def add_argument(self, *flags: str, within: str = "", **settings: Any) -> argparse.Action:
        """Do as `ArgumentParser.add_argument`. `within` is of a field's metadata: the dataclasses themselves check it."""
        return super().add_argument(*flags, **settings)

    def error(self, message: str):
        raise ValueError(message)


def parse_arguments(dataclass_types: tuple[type, ...], argv: list[str], description: str) -> tuple:
    """
    Fill dataclasses from a command line `argv`, whose first argument may be a recipe. Options of the command line win
    over those of the recipe. Show help, under `description`, and exit if the command line asks for it.

    Raises:
        ValueError: If an option is unknown or its value does not fit.
    """
    return fill_arguments(dataclass_types, CommandLine.read(argv), description)[0]


def fill_arguments(dataclass_types: tuple[type, ...], line: CommandLine, description: str) -> tuple[tuple, list[str]]:
    """Do as `parse_arguments`; return also the names of the recipe's options that a checkpoint stands in for."""
    parser = DataclassParser(dataclass_types)
    table = grouped_table(parser, dataclass_types)
    if {"-h", "--help"} & set(line.own):
        parser_of(table, Path(sys.argv[0]).name, description).parse_args(["--help"])
    line.check(table_options(table))
    line, left_out = following_checkpoint(line)
    found, unknown = parser.parse_known_args(line.words)
    refuse_unknown(unknown, flags_of(table))
    take_token(found)
    refuse_empty({name: value for name, value in vars(found).items() if value != parser.get_default(name)})
    return parser.parse_dict(vars(found)), left_out


def refuse_empty(values: dict[str, Any]) -> None:
    """
    Raise `ValueError` if an option has an empty value, as one from a shell variable that is not set: it would count as not given.
    `None` and empty lists are not meant, which recipes may have.
    """
    for name, value in values.items():
        if value == "" or (isinstance(value, list) and "" in value):
            raise ValueError(
                f"{name}: expected a value, got an empty one; leave the option out, or write what is meant"
            )


def following_checkpoint(line: CommandLine) -> tuple[CommandLine, list[str]]:
    """
    Leave out what a recipe says about a new model, if the command line names a checkpoint instead. Return the rest, and
    the names of the options that are left out.
    """
    if "model_name_or_path" not in map(option_name, line.own):
        return line, []
    fixed = fixed_by_checkpoint(new_model_options())
    kept = {name: value for name, value in line.recipe.items() if name not in fixed}
    return dataclasses.replace(line, recipe=kept), [name for name in line.recipe if name not in kept]


def option_name(word: str) -> str | None:
    """Return the name of the option that a word of a command line begins; `None` if it is a value."""
    return word[2:].partition("=")[0].replace("-", "_") if word.startswith("--") else None


def recipe_of(arguments: tuple) -> dict[str, Any]:
    """Return every option of a run that is given or has a default, as a recipe that repeats it."""
    values = {}
    for group in arguments:
        plain = group.to_dict() if isinstance(group, TrainingArguments) else dataclasses.asdict(group)
        # Who repeats the run pushes it elsewhere, or not at all, and starts from the beginning.
        left_out = {*OF_THE_AUTHOR, "resume_from_checkpoint"}
        if getattr(group, "total_batch_size", None):
            # It follows from the number of processes, which may change.
            left_out.add("gradient_accumulation_steps")
        names = {option.name for option in dataclasses.fields(group) if option.init} - left_out
        names -= getattr(group, "by_machine", set())
        if getattr(group, "finds_rows", False):
            plain["per_device_train_batch_size"] = "auto"
        values |= {name: value for name, value in plain.items() if name in names and value not in (None, [], {}, "")}
    # As it will be read: tuples become lists, and the like.
    return yaml.safe_load(yaml.safe_dump(values, allow_unicode=True))


def save_arguments(recipe: dict[str, Any], path: Path) -> None:
    """Write the options of a run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, yaml.safe_dump(recipe, sort_keys=True, allow_unicode=True))

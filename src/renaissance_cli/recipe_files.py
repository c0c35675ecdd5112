"""Recipes: YAML files of options, and the ones that ship with the package, which are found by their names."""

import json
import textwrap
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

from .mistakes import nearest
from .subcommands import SUBCOMMANDS
from .table import WIDTH


SUFFIXES = (".yaml", ".yml")


def shipped(folder: str, suffix: str) -> dict[str, Path]:
    """Return the files in a folder of the package, `"recipes"` or `"deepspeed"`, by name without the suffix."""
    # The folder deepspeed is no package of its own: beside the scripts it would hide the package of that name.
    root = Path(str(files(f"{__package__}.recipes"))).parent
    paths = (root / folder).glob(f"*{suffix}")
    return {path.stem: path for path in sorted(paths)}


def recipe_path(name: str) -> Path:
    """Return the recipe of a name or path: a file, or else one that ships; raise `ValueError` if there is none."""
    if Path(name).is_file():
        return Path(name)
    known = shipped("recipes", ".yaml")
    stem = name.removesuffix(".yaml")
    if stem not in known:
        raise ValueError(
            f"recipe {name}: no such file{nearest(stem, known)} `renaissance recipes` lists those that ship"
        )
    return known[stem]


@dataclass(frozen=True)
class CommandLine:
    """
    The command line of a task.

    Args:
        own: Its own options.
        recipe: Those of the recipe that it begins with, if it does, by name.
        path: The file of the recipe.
    """

    own: list[str]
    recipe: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None

    @classmethod
    def read(cls, argv: list[str]) -> "CommandLine":
        """Read a command line, which may begin with the name or path of a recipe; raise `ValueError` if that cannot be read."""
        if not argv or argv[0].startswith("-"):
            return cls(argv)
        path = recipe_path(argv[0])
        return cls(argv[1:], read_recipe(path), path)

    @property
    def words(self) -> list[str]:
        """All options, those of the recipe first, so that one parser reads and checks both and the others win."""
        argv = []
        for name, value in self.recipe.items():
            if value not in (None, []):
                values = value if isinstance(value, list) else [value]
                argv += [f"--{name}", *(json.dumps(v) if isinstance(v, dict) else str(v) for v in values)]
        return [*argv, *self.own]

    def refuse_unknown(self, known: set[str]) -> None:
        """Raise `ValueError` if the recipe has an option that is not in `known`."""
        if unknown := sorted(map(str, set(self.recipe) - known)):
            told = ", ".join(f"no option {name}{nearest(name, known)}" for name in unknown)
            raise ValueError(f"recipe {self.path}: {told} --help lists them")


def read_recipe(path: Path) -> dict[str, Any]:
    """Return the options of a YAML recipe by name; raise `ValueError` if the file is not a mapping."""
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"recipe {path}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"recipe {path}: expected `option: value` lines")
    return recipe


def task_of(recipe: str) -> str:
    """Return the subcommand that a shipped recipe is for."""
    return next(name for name, each in SUBCOMMANDS.items() if recipe.startswith(each.recipes))


def list_recipes(argv: list[str]) -> None:
    """Print the recipes that ship, and what each is for; or the text of the one that the command line names."""
    if argv:
        print(recipe_path(argv[0]).read_text(encoding="utf-8"), end="")
        return
    recipes = shipped("recipes", ".yaml")
    for task, subcommand in SUBCOMMANDS.items():
        if subcommand.is_task:
            print(f"renaissance {task}")
        for name in [name for name in recipes if task_of(name) == task]:
            print(f"  {name}")
            comment = " ".join(first_comment(recipes[name]))
            print(textwrap.fill(comment, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6))
    print(f"\nFor --deepspeed: {', '.join(shipped('deepspeed', '.json'))}")


def first_comment(path: Path) -> list[str]:
    """Return the lines of the comment that a recipe begins with."""
    return [
        line[1:].strip()
        for line in takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    ]

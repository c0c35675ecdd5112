"""Recipes: YAML files of options, and the ones that ship with the package, which are found by their names."""

import json
import textwrap
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

from .mistakes import nearest, one_line
from .subcommands import SUBCOMMANDS
from .table import WIDTH


SUFFIXES = (".yaml", ".yml")

#: Beginning of the tags of YAML itself, and two of them.
TAGS = "tag:yaml.org,2002:"
STRING, MERGE = f"{TAGS}str", f"{TAGS}merge"

#: The largest number of values in a recipe, with those of aliases.
MOST_VALUES = 100_000


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
    if Path(name).is_dir():
        raise ValueError(f"recipe {name}: a folder, expected a YAML file with a line `option: value` for each option")
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
            if isinstance(value, list) and value:
                argv += [f"--{name}", *map(as_word, value)]
            elif value not in (None, []):
                # In one word, because a value may begin with a dash.
                argv += [f"--{name}={as_word(value)}"]
        return [*argv, *self.own]

    def check(self, options: list[dict[str, Any]]) -> None:
        """Raise `ValueError` if the recipe has an option that is not among those of a table, or several values for one."""
        known = {option["name"]: option for option in options}
        if unknown := sorted(set(self.recipe) - set(known)):
            told = ", ".join(f"no option {name}{nearest(name, known)}" for name in unknown[:3])
            told += f" and {len(unknown) - 3} more;" if len(unknown) > 3 else ""
            if self.path in shipped("recipes", ".yaml").values():
                told += f" it is a recipe of `renaissance {task_of(self.path.stem)}`;"
            raise ValueError(f"recipe {self.path}: {told} --help lists them")
        for name, value in self.recipe.items():
            takes_several = known[name].get("nargs") in ("+", "*")
            fault = ""
            if isinstance(value, dict) and known[name].get("type"):
                fault = "expected one value, got a mapping"
            elif isinstance(value, list) and len(value) > 1 and not takes_several:
                fault = f"expected one value, got a list of {len(value)}"
            elif isinstance(value, list) and any(isinstance(each, list) or each is None for each in value):
                fault = "expected a list of values, got a list with lists or gaps in it"
            if fault:
                raise ValueError(f"recipe {self.path}: {name}: {fault}")


def as_word(value: Any) -> str:
    """Return a value of a recipe as a word of a command line."""
    return json.dumps(value, default=str) if isinstance(value, dict) else str(value)


class RecipeLoader(yaml.SafeLoader):
    """
    Reads recipes. Values of options are words of a command line: they stay as they are written, so that `no` is no false,
    and `010` is ten. Within mappings, which become JSON, they are what YAML makes of them.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """Do as `SafeLoader`. Refuse a key that is there twice, of which YAML would take the last."""
        seen: dict[Any, yaml.Node] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            # `1` and `0x1` are one key, and so is an alias.
            name = key.value if key.tag in (MERGE, STRING) else self.construct_object(key)
            if name in seen:
                lines = f"in lines {seen[name].start_mark.line + 1} and {key.start_mark.line + 1}"
                raise yaml.constructor.ConstructorError(problem=f"{key.value} is there twice, {lines}; leave out one")
            seen[name] = key
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Take in what `<<` refers to, as `SafeLoader`. A key of the mapping's own replaces it, so that a node can be read again."""
        super().flatten_mapping(node)
        last = {
            id(key) if not isinstance(key, yaml.ScalarNode) else (key.tag, key.value): (key, value)
            for key, value in node.value
        }
        node.value = list(last.values())

    def options(self, root: yaml.Node) -> dict[str, Any]:
        """Return the options of a document by name."""
        self.check(root, {}, ())
        # It checks the keys, and takes in what `<<` refers to.
        self.construct_mapping(root, deep=True)
        return {key.value: self.value_of(value) for key, value in root.value}

    def check(self, node: yaml.Node, sizes: dict[yaml.Node, int], above: tuple[yaml.Node, ...]) -> int:
        """
        Return the number of values in a node, where what it has several times counts each time; `sizes` has those that are known. Raise
        an error if there are more than a recipe needs, or one has a tag that makes it something else than it looks like.
        """
        if node in sizes or node in above:
            # Of one that holds itself, the constructor tells.
            return sizes.get(node, 1)
        mark, parts = node.start_mark, []
        if isinstance(node, yaml.ScalarNode):
            usual = self.resolve(yaml.ScalarNode, node.value, (node.style is None, node.style is not None))
        else:
            usual = self.resolve(type(node), None, True)
            parts = (
                node.value if isinstance(node, yaml.SequenceNode) else [each for pair in node.value for each in pair]
            )
        if node.tag != usual:
            fault = f"the tag {node.tag.replace(TAGS, '!!')} in line {mark.line + 1} has no use in a recipe"
            raise yaml.constructor.ConstructorError(problem=f"{fault}; leave it out")
        sizes[node] = 1 + sum(self.check(part, sizes, (*above, node)) for part in parts)
        if sizes[node] > MOST_VALUES:
            fault = (
                f"the aliases in line {mark.line + 1} repeat values so often that there are more than {MOST_VALUES:,}"
            )
            raise yaml.constructor.ConstructorError(problem=fault)
        return sizes[node]

    def value_of(self, node: yaml.Node) -> Any:
        """Return the value of an option: text as it is written, `None`, a list of such, or a mapping."""
        if isinstance(node, yaml.ScalarNode):
            return None if node.tag == "tag:yaml.org,2002:null" else node.value
        if isinstance(node, yaml.SequenceNode):
            return [[] if isinstance(each, yaml.SequenceNode) else self.value_of(each) for each in node.value]
        return self.construct_object(node, deep=True)


def read_recipe(path: Path) -> dict[str, Any]:
    """Return the options of a YAML recipe by name; raise `ValueError` if the file is not a mapping of options."""
    try:
        loader = RecipeLoader(path.read_text(encoding="utf-8"))
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            what = "an empty file" if root is None else "something else"
            problem = f"expected a line `option: value` for each option, got {what}"
            raise yaml.constructor.ConstructorError(problem=problem)
        recipe = loader.options(root)
    except UnicodeDecodeError as error:
        raise ValueError(f"recipe {path}: expected a text file of YAML in UTF-8 ({error})") from error
    except yaml.constructor.ConstructorError as error:
        raise ValueError(f"recipe {path}: {' '.join(str(error).split())}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"recipe {path}: not YAML ({' '.join(str(error).split())})") from error
    except OSError as error:
        raise ValueError(f"recipe {path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        # A number of too many digits.
        raise ValueError(f"recipe {path}: {one_line(error)}") from error
    for name, value in recipe.items():
        try:
            as_word(value).encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"recipe {path}: {name}: half a character, which no text can have ({error})") from error
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"recipe {path}: {name}: cannot be written as JSON ({error})") from error
        if options := [each for each in value if str(each).startswith("--")] if isinstance(value, list) else []:
            raise ValueError(f"recipe {path}: {name}: expected a list of values, got the option {options[0]} in it")
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

"""What the command `renaissance` does: shows help and mistakes at once, and then runs the subcommand."""

import importlib
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from .extras import require_training_packages
from .mistakes import nearest, one_line, refuse_unknown
from .recipe_files import CommandLine, list_recipes
from .subcommands import SUBCOMMANDS, Subcommand
from .table import flags_of, listing, options_of, parser_of, read_tables, with_shared


SUMMARY = """Pretrain, finetune, compare and share vision-language encoders.

    renaissance prepare shapes --output demo/shapes
    renaissance pretrain pretrain_shapes_two_tower
    renaissance nlvr2 nlvr2_shapes
    renaissance predict demo/nlvr2 --image left.png right.png --text "..."
"""


def dispatch(argv: list[str]) -> Callable[[], Any] | None:
    """
    Show help, or check the command line of a subcommand and import what it runs. Return that; `None` if there is nothing
    to run. A mistake ends in one line and exit code 2.
    """
    name, *rest = argv or ["--help"]
    if name in ("-h", "--help"):
        print(listing("renaissance", SUMMARY, "COMMAND", [(each, its.summary) for each, its in SUBCOMMANDS.items()]))
        return None
    if name == "help":
        return dispatch([*rest, "--help"])
    if name == "--version":
        print(f"renaissance {version('renaissance')}")
        return None
    prog = "renaissance"
    try:
        if name not in SUBCOMMANDS:
            known = [*SUBCOMMANDS, "help"]
            raise ValueError(f"no command {name}{nearest(name, known)} expected one of {', '.join(known)}")
        prog = f"renaissance {name}"
        if name == "recipes":
            show_recipes(prog, rest)
            return None
        check(name, rest)
        run = load(SUBCOMMANDS[name])
    except ValueError as error:
        if int(os.environ.get("RANK", 0)) > 0:
            # Processes of one launcher have the same command line: the first tells, and the launcher ends this one.
            time.sleep(10)
        else:
            print(f"{prog}: error: {one_line(error)}", file=sys.stderr)
        raise SystemExit(2) from error
    return lambda: run(rest)


def show_recipes(prog: str, argv: list[str]) -> None:
    """List or show recipes, or the help of that."""
    if argv[:1] in (["-h"], ["--help"]):
        print(f"usage: {prog} [NAME]\n\n{SUBCOMMANDS['recipes'].description}")
    elif any(argument.startswith("-") for argument in argv) or len(argv) > 1:
        raise ValueError(f"unexpected {' '.join(argv)!r}: expected nothing, or the name of one recipe")
    else:
        list_recipes(argv)


def check(name: str, argv: list[str]) -> None:
    """
    Show the help of a subcommand and exit, if the command line asks for it. Raise `ValueError` if the command line has a
    mistake that its table of options shows. Options of the user's own modules are not in the table.
    """
    tables, subcommand, prog = read_tables(), SUBCOMMANDS[name], f"renaissance {name}"
    table, complete = with_shared(tables["subcommands"][name], tables["shared"]), is_complete(tables)
    if subcommand.is_task:
        help_is_wanted = {"-h", "--help"} & set(argv) and not has_modules(argv)
        line = CommandLine(["--help"]) if help_is_wanted else CommandLine.read(argv)
        argv = line.words
    if has_modules(argv):
        return
    if subcommand.is_task and complete:
        line.check(options_of(table))
    while "subcommands" in table:
        table, prog, argv = descend(table, prog, argv)
    _, unknown = parser_of(table, prog, subcommand.description if subcommand.is_task else "").parse_known_args(argv)
    if complete:
        refuse_unknown(unknown, flags_of(table))


def is_complete(tables: dict[str, Any]) -> bool:
    """Return whether the tables have all options: another version of transformers may have others."""
    return tables["transformers"] == version("transformers")


def has_modules(argv: list[str]) -> bool:
    """Return whether a command line names modules of the user."""
    return any(argument.replace("-", "_").startswith("__import_module") for argument in argv)


def descend(table: dict[str, Any], prog: str, argv: list[str]) -> tuple[dict[str, Any], str, list[str]]:
    """
    Return the table of the subcommand that a command line begins with, its name and the rest of the command line; or show
    the subcommands and exit. Raise `ValueError` if there is none of this name.
    """
    known = table["subcommands"]
    if not argv or argv[0] in ("-h", "--help"):
        print(
            listing(
                prog, table["description"].strip(), table["metavar"], [(n, t["summary"]) for n, t in known.items()]
            )
        )
        raise SystemExit(0 if argv else 2)
    if argv[0] not in known:
        raise ValueError(
            f"no {table['metavar'].lower()} {argv[0]}{nearest(argv[0], known)} expected one of {', '.join(known)}"
        )
    return known[argv[0]], f"{prog} {argv[0]}", argv[1:]


def load(subcommand: Subcommand) -> Callable[[list[str]], Any]:
    """Return the function of a subcommand, which takes its command line; raise `ValueError` if a package is missing for it."""
    if subcommand.trains:
        require_training_packages()
    module, _, attribute = subcommand.target.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    if not subcommand.is_task:
        return found
    runner = importlib.import_module("renaissance.tasks.runner")
    return lambda argv: runner.run_task(found, subcommand.description, argv)

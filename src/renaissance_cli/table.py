"""
Tables of options: what a parser takes, as plain data, and a parser made from it.

The table of all subcommands is generated into `options.json` (see `renaissance.tasks.option_tables`), because the parsers
themselves need the dataclasses of options, and these need torch.
"""

import argparse
import json
import re
import textwrap
from collections.abc import Iterable
from importlib.resources import files
from typing import Any


#: Columns of help. No line is longer.
WIDTH = 79
#: The gap before a line's text, if it is indented, or between its columns.
COLUMNS = re.compile(r"(?:^|(?<=\S))\s{2,}(?=\S)")
TYPES = {"int": int, "float": float}
METAVARS = {"int": "N", "float": "X", "bool": "true|false"}
#: Words for true, then for false.
TRUTH = ("yes", "true", "t", "y", "1", "no", "false", "f", "n", "0")
#: Above this many characters, the values to choose from are in the help of an option, not beside its name.
MAX_CHOICES = 40


def read_tables() -> dict[str, Any]:
    """Return the tables of all subcommands that have one, by name, and the version of transformers that they are of."""
    return json.loads(files(__package__).joinpath("options.json").read_text(encoding="utf-8"))


def with_shared(table: dict[str, Any], shared: dict[str, dict]) -> dict[str, Any]:
    """Return a table in which names of shared options are replaced by these."""
    groups = [
        {
            "title": group["title"],
            "options": [shared[each] if isinstance(each, str) else each for each in group["options"]],
        }
        for group in table["groups"]
    ]
    return table | {"groups": groups}


def table_of(parser: argparse.ArgumentParser, summary: str = "") -> dict[str, Any]:
    """Return the table of a parser and of its subcommands, in the order of its groups of options."""
    found: dict[str, Any] = {"summary": summary, "description": fitted(parser.description or ""), "groups": []}
    for group in parser._action_groups:
        options = []
        for action in group._group_actions:
            if isinstance(action, argparse._SubParsersAction):
                summaries = {each.dest: each.help for each in action._choices_actions}
                found["metavar"] = action.metavar
                found["subcommands"] = {
                    name: table_of(each, summaries.get(name, "")) for name, each in action.choices.items()
                }
            elif not isinstance(action, argparse._HelpAction):
                options.append(option_of(action, parser._get_formatter()))
        if options:
            found["groups"].append({"title": group.title, "options": options})
    return found


def fitted(text: str) -> str:
    """
    Return a description in lines of at most `WIDTH` columns. Lines that fit stay as they are, with their examples and
    layouts; a paragraph with a longer one is wrapped anew, and an indented line goes on below its last column of text.
    """
    paragraphs = []
    for paragraph in text.strip().split("\n\n"):
        lines = paragraph.splitlines()
        if max(map(len, lines), default=0) <= WIDTH:
            paragraphs.append(paragraph)
            continue
        parts: list[str] = []
        for line in lines:
            # Prose goes on after prose; what is indented or has columns does not.
            if parts and not COLUMNS.search(line) and not COLUMNS.search(parts[-1]):
                parts[-1] += f" {line}"
            else:
                parts.append(line)
        paragraphs.append("\n".join(wrapped(part) for part in parts))
    return "\n\n".join(paragraphs)


def wrapped(line: str) -> str:
    """Return a line, wrapped below the text after its last gap of two spaces or more, if the words are short enough."""
    gaps = [gap.end() for gap in COLUMNS.finditer(line)]
    for indent in (gaps[-1] if gaps else 0, 4):
        options = {"subsequent_indent": " " * indent, "break_long_words": False, "break_on_hyphens": False}
        lines = textwrap.wrap(line, WIDTH, **options)
        if max(map(len, lines)) <= WIDTH:
            break
    return "\n".join(lines)


def option_of(action: argparse.Action, formatter: argparse.HelpFormatter) -> dict[str, Any]:
    """Return an option of a parser as plain data, without the entries that are usual."""
    kind = getattr(action.type, "__name__", "")
    kind = "bool" if kind == "string_to_bool" else kind if kind in TYPES else ""
    text = "" if action.help in (None, argparse.SUPPRESS) else formatter._expand_help(action)
    settings = {
        "flags": list(action.option_strings),
        "type": kind,
        "nargs": action.nargs,
        "flag": action.nargs == 0,
        "choices": [str(choice) for choice in action.choices] if action.choices else None,
        "required": action.required and bool(action.option_strings),
        "metavar": action.metavar,
        "help": " ".join(text.split()),
    }
    return {"name": action.dest} | {name: value for name, value in settings.items() if value}


class Parser(argparse.ArgumentParser):
    """Raises `ValueError` with the mistake in a command line, in one line."""

    def error(self, message: str):
        raise ValueError(message)


def parser_of(table: dict[str, Any], prog: str, description: str = "") -> Parser:
    """Return a parser that takes what a table says, and shows it as help in lines of at most `WIDTH` columns."""
    parser = Parser(prog, None, description or table["description"], formatter_class=HelpFormatter, add_help=False)
    parser.allow_abbrev = False
    for group in table["groups"]:
        titled = parser.add_argument_group(group["title"])
        for option in group["options"]:
            add_option(titled, option)
    parser.add_argument_group("help").add_argument("-h", "--help", action="help", help="Show this and exit.")
    required = [f"{option['flags'][0]} {metavar_of(option)}" for option in options_of(table) if option.get("required")]
    places = [
        f"[{metavar_of(option)}]" if "nargs" in option else metavar_of(option)
        for option in options_of(table)
        if "flags" not in option
    ]
    usage = table.get("usage") or " ".join([*places, *required, "[--option value ...]"])
    parser.usage = textwrap.fill(f"{prog} {usage}", WIDTH - len("usage: "), subsequent_indent=" " * 4)
    return parser


def options_of(table: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the options of all groups of a table."""
    return [option for group in table["groups"] for option in group["options"]]


def flags_of(table: dict[str, Any]) -> list[str]:
    """Return the options of a table as they are written, with their dashes, in all spellings."""
    return [flag for option in options_of(table) for flag in option.get("flags", ())]


def metavar_of(option: dict[str, Any]) -> str:
    """Return what stands for the value of an option in help."""
    listed = "|".join(option.get("choices", ()))
    usual = METAVARS.get(option.get("type", ""), "TEXT" if "flags" in option else option["name"].upper())
    return option.get("metavar") or (listed if 0 < len(listed) <= MAX_CHOICES else usual)


def add_option(group: argparse._ArgumentGroup, option: dict[str, Any]) -> None:
    """Add an option of a table to a parser's group."""
    text, choices = option.get("help", ""), option.get("choices")
    settings: dict[str, Any] = {"help": text.replace("%", "%%") or argparse.SUPPRESS, "default": argparse.SUPPRESS}
    if option.get("flag"):
        group.add_argument(*option["flags"], action="store_true", dest=option["name"], **settings)
        return
    settings |= {"nargs": option.get("nargs"), "metavar": metavar_of(option), "choices": choices}
    settings["type"] = {"int": int, "float": float, "bool": truth}.get(option.get("type", ""), str)
    if choices and settings["metavar"] == "TEXT":
        settings["help"] = f"{settings['help']} One of {', '.join(choices)}."
    if "flags" in option:
        group.add_argument(*option["flags"], dest=option["name"], required=option.get("required", False), **settings)
    else:
        group.add_argument(option["name"], **settings)


def truth(value: str) -> bool:
    """Return the truth value that a word means; raise `argparse.ArgumentTypeError` if it means none."""
    if value.lower() not in TRUTH:
        raise argparse.ArgumentTypeError(f"expected true or false, got {value!r}")
    return TRUTH.index(value.lower()) < len(TRUTH) // 2


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Help in lines of at most `WIDTH` columns, with examples as they are written and each option under one name."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=26, width=WIDTH)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        name = "-h, --help" if action.dest == "help" else action.option_strings[0]
        if action.nargs == 0:
            return name
        value = f"{action.metavar} ..." if action.nargs in ("+", "*") else action.metavar
        return f"{name} [{value}]" if action.nargs == "?" else f"{name} {value}"


def listing(prog: str, description: str, kind: str, summaries: Iterable[tuple[str, str]]) -> str:
    """Return the help of a command that has subcommands of some `kind`, each with its line."""
    lines = [f"usage: {prog} {kind} [...]", "", description, ""]
    for name, summary in summaries:
        first, *rest = textwrap.wrap(summary, WIDTH - 20) or [""]
        lines += [f"  {name:<16}  {first}".rstrip() if len(name) <= 16 else f"  {name}\n{'':20}{first}"]
        lines += [" " * 20 + line for line in rest]
    return "\n".join([*lines, "", f"`{prog} {kind} --help` says more."])

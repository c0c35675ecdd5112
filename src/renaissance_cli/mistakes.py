"""Messages about mistakes: in one line that is safe to show, and with the nearest name that exists."""

import difflib
import re
from collections.abc import Iterable


#: Characters that a terminal obeys, that change the order of what is shown, or that cannot be encoded. Tabs and line ends are not among them.
COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """
    Return a text whose `COMMANDS` are written as escapes, such as `\\x1b`. Names in data and checkpoints are of strangers, and must not
    recolour, hide or rewrite what a terminal shows.
    """
    return COMMANDS.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def one_line(message: object) -> str:
    """Return a message as one line that is safe to show."""
    return visible(" ".join(str(message).split()))


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the rest of a message about `name`: the name among `known` that is nearest, if one is near, and a mark."""
    # Hyphens and underscores mean the same in options; the first spelling is the usual one.
    plain = {each.replace("-", "_"): each for each in reversed(list(known))}
    found = difflib.get_close_matches(name.replace("-", "_"), plain, n=1)
    return f"; did you mean {plain[found[0]]}?" if found else ";"


def refuse_unknown(arguments: list[str], known: Iterable[str]) -> None:
    """
    Raise `ValueError` about what a parser did not take of a command line, if anything. `known` are its options, with
    their dashes.
    """
    unknown = [argument.partition("=")[0] for argument in arguments if argument.startswith("--")]
    if unknown:
        known = list(known)
        told = ", ".join(f"no option {name}{nearest(name, known)}" for name in unknown)
        raise ValueError(f"{told} --help lists all options")
    if arguments:
        given = " ".join(arguments)
        raise ValueError(f"unexpected {given!r}: expected options such as --output_dir; a recipe comes first")

"""Messages about names that do not exist, with the nearest one that does."""

import difflib
from collections.abc import Iterable


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

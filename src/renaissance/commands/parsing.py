"""What the options of subcommands take: numbers within bounds, places to write to, and mistakes in one line."""

import argparse
from collections.abc import Callable
from pathlib import Path

from renaissance_cli.mistakes import one_line

from ..modeling.fields import Interval


#: The seeds that all generators of random numbers take.
SEEDS = "[0, 4294967295]"
#: Numbers of things that are made or repeated in a benchmark, rows of a batch that has false pairs, and processes that load data.
COUNTS, ROWS, WORKERS = "[1, 1000000]", "[2, 65536]", "[0, 1024]"


class OneLineParser(argparse.ArgumentParser):
    """Reports a mistake in one line, without the usage text before it."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {one_line(message)}\n")


def number_in(kind: type[int] | type[float], within: str) -> Callable[[str], int | float]:
    """Return what reads an option as a number of a `kind`, `int` or `float`, within an interval such as `"[0, 1)"`."""
    interval = Interval.read(within)

    def read(text: str) -> int | float:
        value = kind(text)
        if value not in interval:
            raise argparse.ArgumentTypeError(f"expected {interval}, got {text}")
        return value

    # It is in argparse's message about what is no number, and in the table of options.
    read.__name__ = kind.__name__
    return read


def existing_folder(text: str) -> Path:
    """Return the folder that an option names; raise `argparse.ArgumentTypeError` if there is none."""
    if not text.strip() or not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"the folder {text} does not exist")
    return Path(text)


def existing_place(text: str) -> Path:
    """Return the file or folder that an option names; raise `argparse.ArgumentTypeError` if there is none."""
    if not text.strip() or not Path(text).exists():
        raise argparse.ArgumentTypeError(f"no such file or folder: {text!r}")
    return Path(text)


def new_folder(text: str) -> Path:
    """Return the folder that is to be written; raise `argparse.ArgumentTypeError` if it is or lies below a file, or has no name."""
    if not text.strip():
        raise argparse.ArgumentTypeError("expected a folder, got an empty name")
    path = Path(text)
    for place in (path, *path.absolute().parents):
        if place.exists():
            if not place.is_dir():
                raise argparse.ArgumentTypeError(f"{place} is a file, expected a folder")
            break
    return path


def new_file(text: str) -> Path:
    """Return the file that is to be written; raise `argparse.ArgumentTypeError` if it has no name, or its folder is not there."""
    if not text.strip():
        raise argparse.ArgumentTypeError("expected a file, got an empty name")
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder, expected a file")
    if not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: no such folder")
    return path

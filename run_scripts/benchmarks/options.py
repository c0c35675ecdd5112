"""Options that several groups of measurements have."""

import argparse

from renaissance.commands.parsing import COUNTS, ROWS, WORKERS, number_in


def add_count(parser: argparse.ArgumentParser, name: str, default: int, what: str = "", among: str = COUNTS) -> None:
    """Add the option `name`, a whole number in the interval `among`; `what` and the default are its help."""
    text = f"{what} (default: %(default)s)".strip()
    parser.add_argument(f"--{name}", type=number_in(int, among), default=default, help=text)


def add_batch_size(parser: argparse.ArgumentParser, default: int = 16, among: str = ROWS) -> None:
    """Add `--batch_size`, the pairs of a step."""
    add_count(parser, "batch_size", default, "image-text pairs a step", among)


def add_worker_numbers(parser: argparse.ArgumentParser) -> None:
    """Add `--workers`, the numbers of worker processes that loaders are measured with."""
    parser.add_argument(
        "--workers",
        nargs="+",
        type=number_in(int, WORKERS),
        default=[0, 1, 2],
        help="worker processes of the loader (default: 0 1 2)",
    )

"""
Write a page on a run, or on all runs below a folder.

    renaissance report outputs/nlvr2
    renaissance report outputs --output outputs.html --examples 12

The page is one HTML file that loads nothing: summary, metrics beside their
baselines, curves, right and wrong predictions with their images, a confusion
matrix, and the options. Below a folder with several runs it also compares them.
The images of examples are copied into the page; mind that when you share it.
"""

import argparse
import sys
from pathlib import Path

from transformers.utils import logging

from renaissance_cli.extras import require_report_packages

from .parsing import OneLineParser, existing_folder, new_file, number_in


ENDINGS = (".html", ".htm")


def main(arguments: list[str] | None = None) -> None:
    """Write the page of the folder that the command line names. Exit with code 2 and one line on a user's mistake."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    try:
        require_report_packages()
        logging.disable_progress_bar()
        # Not before it is known that the packages are there.
        from ..reports.folder_page import folder_page
        from ..tasks.checkpoints import replace_file

        output = args.output or args.folder / "report.html"
        replace_file(output, folder_page(args.folder, output, args.examples))
    except (ValueError, OSError, OverflowError) as error:
        parser.exit(2, f"{parser.prog}: error: {' '.join(str(error).split())}\n")
    print(f"report: {output}", file=sys.stderr)


def page_file(text: str) -> Path:
    """Return the file of the page; raise `argparse.ArgumentTypeError` if it is none of HTML, which might hold something else."""
    path = new_file(text)
    if path.suffix not in ENDINGS:
        raise argparse.ArgumentTypeError(f"expected a file that ends in {' or '.join(ENDINGS)}, got {text}")
    return path


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = OneLineParser("renaissance report", description=__doc__, formatter_class=raw)
    parser.add_argument("folder", type=existing_folder, help="folder of a run, or of several")
    parser.add_argument(
        "--output", type=page_file, metavar="FILE", help="the page to write (default: report.html in the folder)"
    )
    parser.add_argument(
        "--examples",
        type=number_in(int, "[0, 100]"),
        default=6,
        help="right and wrong predictions to show of each split; 0 reads no data (default: %(default)s)",
    )
    return parser

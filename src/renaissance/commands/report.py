"""
Write a page on a run, on all runs below a folder, or on a study.

    renaissance report outputs/nlvr2
    renaissance report outputs --output outputs.html --examples 12
    renaissance report experiment1_shapes --metrics eval_accuracy
    renaissance report experiment1_shapes --pictures figures

The page is one HTML file that loads nothing: summary, metrics beside their
baselines, curves, right and wrong predictions with their images, a confusion
matrix, and the options. Below a folder with several runs it also compares them.
That of a study compares its variants over seeds, and says what is missing.
The images of examples are copied into the page; mind that when you share it.
"""

import argparse
import sys
from pathlib import Path

from transformers.utils import logging

from renaissance_cli.extras import require_report_packages

from .parsing import OneLineParser, new_file, new_folder, number_in


ENDINGS = (".html", ".htm")


def main(arguments: list[str] | None = None) -> None:
    """Write the page of what the command line names. Exit with code 2 and one line on a user's mistake."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    try:
        require_report_packages()
        logging.disable_progress_bar()
        # Not before it is known that the packages are there.
        from ..reports.folder_page import folder_page
        from ..reports.picture_files import write_pictures
        from ..reports.study_page import study_page
        from ..studies.spec import Study, is_study_folder
        from ..tasks.checkpoints import replace_file

        folder = Path(args.place)
        if not args.place.strip():
            raise ValueError("place: expected a folder, a file or a name, got nothing")
        study = None if folder.is_dir() and not is_study_folder(folder) else Study.read(args.place)
        output = args.output or (study.output_dir if study else folder) / "report.html"
        if study:
            page = study_page(study, output, args.examples, args.metrics)
        elif args.metrics:
            raise ValueError(f"metrics: {folder} is no folder of a study, and only the page of a study chooses them")
        else:
            page = folder_page(folder, output, args.examples)
        replace_file(output, page)
        written = write_pictures(page, args.pictures) if args.pictures else []
    except (ValueError, OSError, OverflowError) as error:
        parser.exit(2, f"{parser.prog}: error: {' '.join(str(error).split())}\n")
    print(f"report: {output}", file=sys.stderr)
    if args.pictures:
        print(f"pictures: {len(written)} in {args.pictures}", file=sys.stderr)


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
    parser.add_argument("place", help="folder of a run, of several, or of a study; a study's file or name")
    parser.add_argument(
        "--output", type=page_file, metavar="FILE", help="the page to write (default: report.html in the folder)"
    )
    parser.add_argument("--metrics", nargs="+", help="of a study: the metrics to compare (default: the main ones)")
    parser.add_argument(
        "--pictures",
        type=new_folder,
        metavar="FOLDER",
        help="a folder to write the pictures of the page to as well, each as an SVG file",
    )
    parser.add_argument(
        "--examples",
        type=number_in(int, "[0, 100]"),
        default=6,
        help="right and wrong predictions to show of each split; 0 reads no data (default: %(default)s)",
    )
    return parser

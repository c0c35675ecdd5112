"""Prepare a data set for the run scripts: a folder of Parquet files that `datasets.load_dataset` reads.

    python run_scripts/prepare_data.py shapes --output data/shapes
    python run_scripts/prepare_data.py coco --source downloads/coco --output data/coco

`python run_scripts/prepare_data.py <data set> --help` tells where the public files come from and how to lay them out.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

from renaissance.tasks.data import shapes
from renaissance.tasks.data.catalogue import CATALOGUE, GENERATED
from renaissance.tasks.data.writer import SplitSummary, check_output, write_split


SPLITS = ("train", "validation", "test")

SHAPES_HELP = """Drawn scenes of coloured shapes. Nothing is downloaded, and the same seed gives the same files.

Written:
    OUTPUT/captions/   images with captions, for pretraining and retrieval
    OUTPUT/nlvr2/      true and false statements about two images
    OUTPUT/tokenizer/  a tokenizer that knows all words of both"""


class OneLineParser(argparse.ArgumentParser):
    """Reports a mistake in one line, without the usage text before it."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {message}\n")


def main(arguments: list[str] | None = None) -> None:
    """Prepare the data set that the command line names. Exits with code 2 and one line on a user's mistake."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    try:
        summaries = args.prepare(args)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    print_table(summaries)


def build_parser() -> argparse.ArgumentParser:
    """The command line: one sub-command a data set."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = OneLineParser(description=__doc__, formatter_class=raw)
    commands = parser.add_subparsers(required=True, metavar="DATASET")

    output = argparse.ArgumentParser(add_help=False)
    output.add_argument("--output", type=Path, required=True, help="folder to write the prepared data set to")
    output.add_argument("--overwrite", action="store_true", help="replace splits that the output folder already holds")
    public = argparse.ArgumentParser(add_help=False)
    public.add_argument("--source", type=existing_folder, required=True, help="folder with the public files")
    public.add_argument(
        "--shorter_side",
        type=int,
        help="shrink images whose shorter side has more pixels, and store them as JPEG (default: keep all as they are)",
    )
    public.add_argument(
        "--max_broken",
        type=float,
        default=0.01,
        help="share of rows that may be left out because an image is missing or broken (default: %(default)s); "
        "OUTPUT/report.json lists the images",
    )
    for name, entry in CATALOGUE.items():
        command = commands.add_parser(
            name,
            parents=[public, output],
            description=entry.help,
            help=entry.help.splitlines()[0],
            formatter_class=raw,
        )
        for option, settings in entry.options.items():
            command.add_argument(f"--{option}", **settings)
        command.set_defaults(prepare=prepare_public, dataset=name)

    command = commands.add_parser(
        "shapes", parents=[output], description=SHAPES_HELP, help=SHAPES_HELP.splitlines()[0], formatter_class=raw
    )
    for split, default in zip(SPLITS, (8000, 500, 500), strict=True):
        command.add_argument(
            f"--num_{split}", type=int, default=default, help=f"rows in {split}, of each kind (default: {default})"
        )
    command.add_argument("--seed", type=int, default=0, help="0 or more (default: %(default)s)")
    command.add_argument("--image_size", type=int, default=64, help="side in pixels (default: %(default)s)")
    command.set_defaults(prepare=prepare_shapes)
    return parser


def existing_folder(value: str) -> Path:
    """The folder that a command-line value names.

    Raises:
        argparse.ArgumentTypeError: if there is none.
    """
    if not Path(value).is_dir():
        raise argparse.ArgumentTypeError(f"the folder {value} does not exist")
    return Path(value)


def prepare_public(args: argparse.Namespace) -> list[tuple[str, SplitSummary]]:
    """Read a public data set and write its splits."""
    entry = CATALOGUE[args.dataset]
    splits = entry.read(args.source, **{name: getattr(args, name) for name in entry.options})
    check_output(args.output, splits, args.overwrite)
    options = {"shorter_side": args.shorter_side, "max_broken": args.max_broken, "overwrite": args.overwrite}
    return [
        (split, write_split(rows, entry.features, args.output, split, num_rows=len(rows), **options))
        for split, rows in splits.items()
    ]


def prepare_shapes(args: argparse.Namespace) -> list[tuple[str, SplitSummary]]:
    """Draw the generated data sets and write their tokenizer."""
    sizes = {split: getattr(args, f"num_{split}") for split in SPLITS}
    for name in GENERATED:
        check_output(args.output / name, SPLITS, args.overwrite)
    summaries = []
    for name, (generate, features) in GENERATED.items():
        for split, num in sizes.items():
            rows = generate(split, num, args.seed, args.image_size)
            summary = write_split(rows, features, args.output / name, split, num_rows=num, overwrite=args.overwrite)
            summaries.append((f"{name}/{split}", summary))
    shapes.write_tokenizer(args.output / "tokenizer")
    return summaries


def print_table(summaries: Iterable[tuple[str, SplitSummary]]) -> None:
    """Print what was written, one line a split."""
    print(f"{'split':<20}{'rows':>10}{'captions':>10}{'left out':>10}{'bytes':>16}")
    for name, summary in summaries:
        print(f"{name:<20}{summary.rows:>10,}{summary.sentences:>10,}{summary.rows_left_out:>10,}{summary.bytes:>16,}")


if __name__ == "__main__":
    main()

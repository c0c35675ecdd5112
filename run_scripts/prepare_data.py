"""Prepare a data set for the run scripts: a folder of Parquet files that `datasets.load_dataset` reads.

    python run_scripts/prepare_data.py shapes --output data/shapes
    python run_scripts/prepare_data.py coco --source downloads/coco --check
    python run_scripts/prepare_data.py coco --source downloads/coco --output data/coco

After an interruption the same command goes on from the last finished file of a public data set.
`python run_scripts/prepare_data.py <data set> --help` tells where the public files come from and how to lay them out.
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from renaissance.processing.decoding import MAX_PIXELS
from renaissance.tasks.arguments import import_modules
from renaissance.tasks.data import shapes
from renaissance.tasks.data.catalogue import CATALOGUE
from renaissance.tasks.data.image_paths import require_inside
from renaissance.tasks.data.images import SplitCheck, check_images
from renaissance.tasks.data.shards import SplitSummary
from renaissance.tasks.data.writer import check_output, plan_of, write_split


SPLITS = ("train", "validation", "test")

SHAPES_HELP = """Drawn scenes of coloured shapes. Nothing is downloaded, and the same seed gives the same files.

Written:
    OUTPUT/captions/   images with captions, for pretraining
    OUTPUT/retrieval/  images with captions that fit no other image
    OUTPUT/nlvr2/      true and false statements about two images
    OUTPUT/snli_ve/    hypotheses that an image entails, contradicts, or leaves open
    OUTPUT/vqav2/      questions about an image, ten answers each
    OUTPUT/refcoco/    expressions for one of the objects of an image, with the boxes of all
    OUTPUT/glue/       pairs of sentences that say the same, or not
    OUTPUT/cifar10/    images of one object, of 16 classes
    OUTPUT/tokenizer/  a tokenizer that knows all words of all of them"""


class OneLineParser(argparse.ArgumentParser):
    """Reports a mistake in one line, without the usage text before it."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: error: {message}\n")


def main(arguments: list[str] | None = None) -> None:
    """Prepare, or check, the data set that the command line names. Exits with code 2 and one line on a user's mistake, and
    with code 1 where a check finds images missing."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        for module in import_modules(arguments):
            CATALOGUE.update(getattr(module, "DATA_SETS", {}))
        args = build_parser().parse_args(arguments)
        if args.check:
            sys.exit(check_public(args))
        if args.output is None:
            raise ValueError("--output is needed: the folder to write the prepared data set to")
        summaries = args.prepare(args)
    except (ValueError, OSError) as error:
        OneLineParser().error(str(error))
    except KeyboardInterrupt:
        OneLineParser().exit(130, "interrupted; of a public data set, the same command goes on from here\n")
    print_table(summaries)


def build_parser() -> argparse.ArgumentParser:
    """The command line: one sub-command a data set."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = OneLineParser(description=__doc__, formatter_class=raw)
    commands = parser.add_subparsers(required=True, metavar="DATASET")

    output = argparse.ArgumentParser(add_help=False)
    output.add_argument("--output", type=Path, help="folder to write the prepared data set to")
    output.add_argument(
        "--overwrite", action="store_true", help="replace splits that the output folder already holds, and begin anew"
    )
    output.add_argument(
        "--import_module", nargs="+", help="modules of your own to import first; their DATA_SETS become data sets here"
    )
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
    public.add_argument(
        "--max_image_pixels",
        type=int,
        default=MAX_PIXELS,
        help="an image with more pixels, width times height, counts as broken (default: %(default)s)",
    )
    public.add_argument("--num_workers", type=int, help="threads that read the images (default: one a processor)")
    public.add_argument(
        "--check",
        action="store_true",
        help="write nothing, but tell what is missing from SOURCE; the exit code is 0 only if nothing is",
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
    command.add_argument(
        "--only",
        nargs="+",
        choices=shapes.DATA_SETS,
        default=list(shapes.DATA_SETS),
        help="data sets to write (default: all)",
    )
    command.add_argument("--seed", type=int, default=0, help="0 or more (default: %(default)s)")
    command.add_argument("--image_size", type=int, default=64, help="side in pixels (default: %(default)s)")
    command.set_defaults(prepare=prepare_shapes, check=False)
    return parser


def existing_folder(value: str) -> Path:
    """The folder that a command-line value names.

    Raises:
        argparse.ArgumentTypeError: if there is none.
    """
    if not Path(value).is_dir():
        raise argparse.ArgumentTypeError(f"the folder {value} does not exist")
    return Path(value)


def read_source(args: argparse.Namespace) -> dict[str, Sequence[dict]]:
    """Return the rows of the public data set that the command line names, by split; raise `ValueError` if an image that they
    name lies outside of the source folder."""
    entry = CATALOGUE[args.dataset]
    splits = entry.read(args.source, **{name: getattr(args, name) for name in entry.options})
    require_inside(splits, entry.features, args.source)
    return splits


def check_public(args: argparse.Namespace) -> int:
    """Print what is missing from the source folder of a public data set. Returns 1 where images are, else 0."""
    checks = check_images(read_source(args), CATALOGUE[args.dataset].features)
    print_checks(checks)
    return 1 if any(check.missing for check in checks) else 0


def prepare_public(args: argparse.Namespace) -> list[tuple[str, SplitSummary]]:
    """Read a public data set and write its splits."""
    splits, features = read_source(args), CATALOGUE[args.dataset].features
    sizes = {name: getattr(args, name) for name in ("shorter_side", "max_image_pixels")}
    plans = {split: plan_of(rows, features, **sizes) for split, rows in splits.items()}
    check_output(args.output, splits, args.overwrite, plans)
    options = sizes | {name: getattr(args, name) for name in ("max_broken", "overwrite", "num_workers")}
    return [
        (split, write_split(rows, features, args.output, split, num_rows=len(rows), plan=plans[split], **options))
        for split, rows in splits.items()
    ]


def prepare_shapes(args: argparse.Namespace) -> list[tuple[str, SplitSummary]]:
    """Draw the generated data sets and write their tokenizer."""
    made = {name: shapes.DATA_SETS[name] for name in args.only}
    for name, data in made.items():
        check_output(args.output / name, data.splits, args.overwrite)
    summaries = []
    for name, data in made.items():
        for split in data.splits:
            # RefCOCO has two test splits.
            num = args.num_test if split.startswith("test") else getattr(args, f"num_{split}")
            rows = data.rows(split, num, args.seed, args.image_size)
            folder = args.output / name
            summary = write_split(rows, data.features, folder, split, num_rows=num, overwrite=args.overwrite)
            summaries.append((f"{name}/{split}", summary))
    shapes.write_tokenizer(args.output / "tokenizer")
    return summaries


def print_table(summaries: Iterable[tuple[str, SplitSummary]]) -> None:
    """Print what was written, one line a split."""
    print(f"{'split':<20}{'rows':>10}{'captions':>10}{'left out':>10}{'bytes':>16}")
    for name, summary in summaries:
        left_out = summary.rows_left_out + len(summary.skipped)
        print(f"{name:<20}{summary.rows:>10,}{summary.sentences:>10,}{left_out:>10,}{summary.bytes:>16,}")


def print_checks(checks: Iterable[SplitCheck]) -> None:
    """Print what a source folder has, one line a split, and the first of the images that it lacks."""
    print(f"{'split':<20}{'rows':>10}{'unusable':>10}{'images':>10}{'missing':>10}")
    for check in checks:
        missing = len(check.missing)
        print(f"{check.split:<20}{check.rows:>10,}{check.skipped:>10,}{check.images:>10,}{missing:>10,}")
        for path in check.missing[:5]:
            print(f"    missing: {path}")


if __name__ == "__main__":
    main()

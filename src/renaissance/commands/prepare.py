"""Prepare a data set: a folder of Parquet files that `datasets.load_dataset` reads.

    renaissance prepare shapes --output data/shapes
    renaissance prepare coco --source downloads/coco --check
    renaissance prepare coco --source downloads/coco --output data/coco

After an interruption the same command goes on: finished splits stay, and a
public data set goes on from its last finished file. The help of a data set says
where its public files come from and how to lay them out.
"""

import argparse
import errno
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from renaissance_cli.mistakes import one_line

from ..processing.decoding import MAX_PIXELS
from ..tasks.data import shapes
from ..tasks.data.catalogue import CATALOGUE
from ..tasks.data.images import SplitCheck, check_images
from ..tasks.data.readers import MAX_BAD_FRACTION, PublicDataSet, counts_of, require_few_bad, wanted_splits
from ..tasks.data.schemas import image_columns
from ..tasks.data.shards import SplitSummary
from ..tasks.data.writer import REPORT_FILE, check_output, plan_of, write_split
from ..tasks.parsing import import_modules
from ..tasks.run_lock import exclusive
from ..tasks.signals import GO_ON, SIGNALS
from .parsing import SEEDS, OneLineParser, existing_folder, new_folder, number_in


SPLITS = ("train", "validation", "test")

#: Errors of the system that come from what the command line names.
MISTAKES = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)

SHAPES_HELP = """Drawn scenes of coloured shapes. Nothing is downloaded, and the same seed gives the same files.

Written:
    OUTPUT/captions/     images with captions, for pretraining
    OUTPUT/retrieval/    images with captions that fit no other image
    OUTPUT/nlvr2/        true and false statements about two images
    OUTPUT/snli_ve/      hypotheses that an image entails, contradicts, or leaves open
    OUTPUT/image_text/   posts, an image and a sentence, that are warm, cold or mixed together
    OUTPUT/vqav2/        questions about an image, ten answers each
    OUTPUT/refcoco/      expressions for one of the objects of an image, with the boxes of all
    OUTPUT/documents/    texts about scenes that no image shows, for pretraining
    OUTPUT/glue/         pairs of sentences that say the same, or not
    OUTPUT/cifar10/      images of one object, of 16 classes
    OUTPUT/tokenizer/    a tokenizer that knows all words of all of them"""


def main(arguments: list[str] | None = None) -> None:
    """Prepare, or check, the data set that the command line names. Exit with code 2 and one line on a user's mistake, and
    with code 1 if a check finds images missing."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        for module in import_modules(arguments):
            CATALOGUE.update(getattr(module, "DATA_SETS", {}))
        args = build_parser().parse_args(arguments)
        if args.check:
            sys.exit(check_public(args))
        if args.output is None:
            raise ValueError("--output is needed: the folder to write the prepared data set to")
        with heeding_signals(), exclusive(args.output, called="output"):
            summaries = args.prepare(args)
    except (ValueError, OSError) as error:
        end(error)
    except (KeyboardInterrupt, Stopped) as stopped:
        code, what = (GO_ON, f"stopped by {stopped}") if isinstance(stopped, Stopped) else (130, "interrupted")
        OneLineParser("renaissance prepare").exit(code, f"{what}; the same command goes on from here\n")
    print_table(summaries)
    print_places(args.output, summaries)


class Stopped(BaseException):
    """A signal, which it names, asks the preparation to stop. It is no `Exception`, which code that is interrupted might catch."""


@contextmanager
def heeding_signals() -> Iterator[None]:
    """A context in which the signals of schedulers raise `Stopped`. Ctrl-C raises `KeyboardInterrupt` as ever."""

    def stop(number: int, frame: FrameType | None) -> None:
        # A second one ends at once.
        signal.signal(number, signal.SIG_DFL)
        raise Stopped(SIGNALS[number])

    before = {}
    # Python allows it nowhere else.
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, stop) for number in SIGNALS if number != signal.SIGINT}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end(error: ValueError | OSError) -> NoReturn:
    """End with one line: with code 2 on a user's mistake, with 1 on a disk that is full or fails, where the same command goes on."""
    text = one_line(error)
    parser = OneLineParser("renaissance prepare")
    if isinstance(error, ValueError) or error.errno in MISTAKES:
        parser.error(text)
    parser.exit(1, f"{parser.prog}: error: {text}; when the disk is in order, the same command goes on from here\n")


def build_parser() -> argparse.ArgumentParser:
    """The command line: one sub-command a data set."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = OneLineParser("renaissance prepare", description=__doc__, formatter_class=raw)
    commands = parser.add_subparsers(required=True, metavar="DATASET")

    output = argparse.ArgumentParser(add_help=False)
    output.add_argument("--output", type=new_folder, help="folder to write the prepared data set to")
    output.add_argument(
        "--overwrite", action="store_true", help="replace splits that the output folder already holds, and begin anew"
    )
    output.add_argument(
        "--import_module", nargs="+", help="modules of your own to import first; their DATA_SETS become data sets here"
    )
    for name, entry in CATALOGUE.items():
        command = commands.add_parser(
            name,
            parents=[output],
            description=entry.help,
            help=entry.help.splitlines()[0],
            formatter_class=raw,
        )
        add_public_options(command, entry)
        command.set_defaults(prepare=prepare_public, dataset=name)

    command = commands.add_parser(
        "shapes", parents=[output], description=SHAPES_HELP, help=SHAPES_HELP.splitlines()[0], formatter_class=raw
    )
    for split, default in zip(SPLITS, (8000, 500, 500), strict=True):
        command.add_argument(
            f"--num_{split}",
            type=number_in(int, "[1, 1000000000]"),
            default=default,
            help=f"rows in {split}, of each kind (default: {default})",
        )
    command.add_argument(
        "--only",
        nargs="+",
        choices=shapes.DATA_SETS,
        default=list(shapes.DATA_SETS),
        help="data sets to write (default: all)",
    )
    splits = list(dict.fromkeys(split for data in shapes.DATA_SETS.values() for split in data.splits))
    command.add_argument("--splits", nargs="+", choices=splits, help="splits to write (default: all)")
    command.add_argument("--seed", type=number_in(int, SEEDS), default=0, help="0 or more (default: %(default)s)")
    command.add_argument(
        "--image_size", type=number_in(int, "[32, 16384]"), default=64, help="side in pixels (default: %(default)s)"
    )
    command.set_defaults(prepare=prepare_shapes, check=False)
    return parser


def add_public_options(command: argparse.ArgumentParser, entry: PublicDataSet) -> None:
    """Add the options of a public data set: those of all, those for images if it has any, and its own."""
    command.add_argument("--source", type=existing_folder, required=True, help="folder with the public files")
    command.add_argument(
        "--splits",
        nargs="+",
        choices=entry.splits,
        help="splits to prepare; the files of the others may be missing (default: all)",
    )
    command.add_argument(
        "--max_bad_fraction",
        type=number_in(float, "[0, 1]"),
        default=MAX_BAD_FRACTION,
        help="share of a split that may be left out because it cannot be used: entries with a fault, boxes without area, rows "
        "whose image is missing or broken (default: %(default)s); OUTPUT/report.json lists them with the reasons",
    )
    command.add_argument(
        "--check",
        action="store_true",
        help="write nothing, but tell what is missing from SOURCE; the exit code is 0 only if nothing is",
    )
    if has_images := any(image_columns(entry.features)):
        command.add_argument(
            "--num_workers",
            type=number_in(int, "[1, 1024]"),
            help="threads that read the images (default: one a processor)",
        )
        command.add_argument(
            "--max_image_pixels",
            type=number_in(int, "[1, inf)"),
            default=MAX_PIXELS,
            help="an image with more pixels, width times height, counts as broken (default: %(default)s)",
        )
    # Boxes are in pixels of the images as they are.
    if has_images and "boxes" not in entry.features:
        command.add_argument(
            "--shorter_side",
            type=number_in(int, "[1, 65536]"),
            help="shrink images whose shorter side has more pixels, and store them as JPEG (default: keep all as they are)",
        )
    for option, settings in entry.options.items():
        command.add_argument(f"--{option}", **settings)


def read_source(args: argparse.Namespace) -> Mapping[str, Sequence[dict]]:
    """Return the rows of the public data set that the command line names, by split."""
    entry = CATALOGUE[args.dataset]
    options = {name: getattr(args, name) for name in entry.options}
    return entry.read(args.source, splits=args.splits, **options)


def check_public(args: argparse.Namespace) -> int:
    """Print what is missing from the source folder of a public data set. Return 1 if images are, else 0; raise `ValueError`
    if too many entries cannot be used."""
    splits = read_source(args)
    for split, rows in splits.items():
        require_few_bad(split, rows, args.max_bad_fraction)
    checks = check_images(splits, CATALOGUE[args.dataset].features)
    print_checks(checks)
    return 1 if any(check.missing for check in checks) else 0


def prepare_public(args: argparse.Namespace) -> list[tuple[str, SplitSummary]]:
    """Read a public data set and write its splits."""
    splits, features = read_source(args), CATALOGUE[args.dataset].features
    # Before hours of reading images.
    for split, rows in splits.items():
        require_few_bad(split, rows, args.max_bad_fraction)
    sizes = {name: getattr(args, name) for name in ("shorter_side", "max_image_pixels") if hasattr(args, name)}
    plans = {split: plan_of(rows, features, **sizes) for split, rows in splits.items()}
    check_output(args.output, splits, args.overwrite, plans)
    options = {name: getattr(args, name, None) for name in ("max_bad_fraction", "overwrite", "num_workers")}
    return [
        (
            split,
            write_split(rows, features, args.output, split, num_rows=len(rows), plan=plans[split], **sizes, **options),
        )
        for split, rows in splits.items()
    ]


def prepare_shapes(args: argparse.Namespace) -> list[tuple[str, SplitSummary]]:
    """Draw the generated data sets, after their tokenizer, which small files of any of them need."""
    parts = [
        (name, split) for name in args.only for split in wanted_splits(args.splits, shapes.DATA_SETS[name].splits)
    ]
    if not parts:
        raise ValueError(f"--splits: {' '.join(args.splits)} is no split of {' '.join(args.only)}")
    plans = {(name, split): drawing_plan(args, name, split) for name, split in parts}
    for (name, split), plan in plans.items():
        check_output(args.output / name, [split], args.overwrite, {split: plan})
    shapes.write_tokenizer(args.output / "tokenizer")
    summaries = []
    for (name, split), plan in plans.items():
        data, num = shapes.DATA_SETS[name], num_drawn(args, split)
        rows = data.rows(split, num, args.seed, args.image_size)
        options = {"num_rows": num, "overwrite": args.overwrite, "plan": plan}
        summaries.append((f"{name}/{split}", write_split(rows, data.features, args.output / name, split, **options)))
    return summaries


def num_drawn(args: argparse.Namespace, split: str) -> int:
    """Return the number of rows to draw for a split."""
    # RefCOCO has two test splits.
    return args.num_test if split.startswith("test") else getattr(args, f"num_{split}")


def drawing_plan(args: argparse.Namespace, name: str, split: str) -> str:
    """Return the digest of what decides a generated split: its options, and its first row as it is drawn now."""
    data, num = shapes.DATA_SETS[name], num_drawn(args, split)
    first = next(iter(data.rows(split, num, args.seed, args.image_size)))
    return plan_of([first, {"split": split, "rows": num, "seed": args.seed, "size": args.image_size}], data.features)


def print_table(summaries: Iterable[tuple[str, SplitSummary]]) -> None:
    """Print what was written, one line a split, and below it what was left out and why."""
    print(f"{'split':<20}{'rows':>10}{'sentences':>10}{'left out':>10}{'bytes':>16}")
    for name, summary in summaries:
        left_out = summary.rows_left_out + len(summary.skipped)
        print(f"{name:<20}{summary.rows:>10,}{summary.sentences:>10,}{left_out:>10,}{summary.bytes:>16,}")
        if bad := summary.broken + summary.skipped:
            print(f"    left out: {one_line(counts_of(bad))}")
        if summary.by_rule:
            counts = ", ".join(f"{kind} ({count:,})" for kind, count in summary.by_rule.items())
            print(f"    by the rules of the data set: {counts}")


def print_places(output: Path, summaries: Iterable[tuple[str, SplitSummary]]) -> None:
    """Print where the data was written, and where all that was left out is listed."""
    print(f"Written to {output}")
    folders = {output / name.rpartition("/")[0] for name, summary in summaries if summary.broken or summary.skipped}
    for folder in sorted(folders):
        print(f"{folder / REPORT_FILE} lists what was left out")


def print_checks(checks: Iterable[SplitCheck]) -> None:
    """Print what a source folder has, one line a split, what cannot be used and why, and the first images that it lacks."""
    print(f"{'split':<20}{'rows':>10}{'unusable':>10}{'images':>10}{'missing':>10}")
    for check in checks:
        missing = len(check.missing)
        print(f"{check.split:<20}{check.rows:>10,}{len(check.skipped):>10,}{check.images:>10,}{missing:>10,}")
        if check.skipped:
            first = check.skipped[0]
            told = f"{counts_of(check.skipped)}, the first: {first['where']} {first['reason']}"
            print(f"    unusable: {one_line(told)}")
        for path in check.missing[:5]:
            print(f"    missing: {one_line(path)}")

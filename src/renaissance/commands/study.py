"""Run an experiment of many runs from one file, and compare its variants in one table.

    renaissance study run experiment.yaml --dry_run
    renaissance study run experiment.yaml
    renaissance study run experiment.yaml --seeds 1
    renaissance study table experiment.yaml
    renaissance study table outputs --format latex --output table.tex
    renaissance study compare experiment.yaml --against "text frozen"
    renaissance study scaling scaling.yaml --metric pretraining.eval_loss \\
        --by parameters samples

After an interruption, or when a run failed, `run` does what is not done.
"""

import argparse
import logging
import shlex
import sys
from pathlib import Path

from renaissance_cli.mistakes import one_line

from ..reports.markup import duration
from ..studies import provenance
from ..studies.checks import check_places, check_runs
from ..studies.costs import expected_cost
from ..studies.notes import is_done
from ..studies.paired import as_markdown, compared
from ..studies.plan import Run, runs_of
from ..studies.results import Entry, columns_of, entries_in, entries_of_study
from ..studies.running import Running, share_of
from ..studies.scaling import as_markdown as law_as_markdown
from ..studies.scaling import fit, points
from ..studies.slurm import sbatch_script
from ..studies.spec import Study, is_study_folder
from ..studies.tables import FORMS, write_parquet
from ..tasks.run_record import FILE_NAME
from .parsing import COUNTS, SEEDS, OneLineParser, new_file, number_in


logger = logging.getLogger(__name__)

FILE_HELP = "YAML file of a study, the name of one that ships, or the folder of one that ran"


def main(arguments: list[str] | None = None) -> None:
    """Do what the command line asks. Exit with code 2 and one line on a user's mistake."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    try:
        code = args.function(args)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {one_line(error)}\n")
    raise SystemExit(code)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = OneLineParser("renaissance study", description=__doc__, formatter_class=raw)
    commands = parser.add_subparsers(required=True, metavar="ACTION")

    def add(name: str, function, summary: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, description=summary, help=summary, formatter_class=raw)
        command.set_defaults(function=function)
        command.add_argument(
            "--seeds", type=number_in(int, SEEDS), nargs="+", help="some of the study's seeds (default: all)"
        )
        return command

    run = add("run", run_study, "Run what is not done yet of a study.")
    run.add_argument("file", help=FILE_HELP)
    run.add_argument("--dry_run", action="store_true", help="print each run with its command and its expected cost")
    run.add_argument(
        "--jobs", type=number_in(int, COUNTS), default=1, help="runs at a time; with --index, jobs in all (default: 1)"
    )
    run.add_argument(
        "--index", type=number_in(int, "[0, 1000000]"), help="run the share of this job of --jobs, from 0"
    )
    run.add_argument(
        "--rate", type=number_in(float, "(0, inf)"), help="samples a second, for the expected cost of --dry_run"
    )
    launch = add("launch", launch_study, "Write a script that runs a study as an array of jobs.")
    launch.add_argument("file", help=FILE_HELP)
    launch.add_argument("--slurm", action="store_true", required=True, help="the script is one for sbatch")
    launch.add_argument("--jobs", type=number_in(int, COUNTS), required=True, help="number of jobs")
    launch.add_argument("--sbatch", nargs="+", default=[], help="options of sbatch without their dashes: gres=gpu:1")
    launch.add_argument("--output", type=new_file, help="file to write (default: print it)")
    table = add("table", table_runs, "Compare the variants of a study, or the runs below any folder.")
    table.add_argument("place", help=f"{FILE_HELP}, or any folder of runs")
    table.add_argument(
        "--metrics", nargs="+", help="columns: eval_accuracy, nlvr2.eval_loss, 'snli_ve.*' (default: the main ones)"
    )
    table.add_argument("--format", choices=[*FORMS, "parquet"], default="markdown", help="(default: markdown)")
    table.add_argument("--output", type=new_file, help="file to write (default: print it)")
    compare = add("compare", compare_runs, "Compare variants row by row, on what they predicted.")
    compare.add_argument("place", help=f"{FILE_HELP}, or any folder of runs")
    compare.add_argument("--against", help="the variant that the others are compared with (default: the first)")
    compare.add_argument("--output", type=new_file, help="file to write (default: print it)")
    scaling = add("scaling", fit_law, "Fit a power law of a loss in the size of the model, the data or the compute.")
    scaling.add_argument("place", help=f"{FILE_HELP}, or a folder of runs")
    scaling.add_argument(
        "--metric", required=True, help="eval_loss, or pretraining.eval_loss; of an accuracy, what is missing to 1"
    )
    scaling.add_argument(
        "--by",
        nargs="+",
        required=True,
        help="sizes, a term of the law for each: columns of the table, such as parameters and samples",
    )
    scaling.add_argument(
        "--offset",
        type=number_in(float, "[0, inf)"),
        help="what the loss does not go below, if it is known (default: fitted)",
    )
    scaling.add_argument("--output", type=new_file, help="file to write (default: print it)")
    origin = add("provenance", trace_runs, "Show what runs came from: encoders, pretraining, finetuning, prediction.")
    origin.add_argument("places", nargs="+", metavar="place", help=f"{FILE_HELP}, or any folder of runs")
    origin.add_argument("--format", choices=[*provenance.FORMS], default="markdown", help="(default: markdown)")
    origin.add_argument("--output", type=new_file, help="file to write (default: print it)")
    return parser


def run_study(args: argparse.Namespace) -> int:
    """Run a study, or its share of one job, or print what would be run; return the exit code."""
    study = Study.read(args.file).of_seeds(args.seeds)
    runs = runs_of(study)
    check_runs(study, runs, run_here=not args.dry_run)
    if args.index is not None:
        if args.index >= args.jobs:
            raise ValueError(f"index: expected less than jobs, {args.jobs}, got {args.index}")
        runs = share_of(runs, args.index, args.jobs)
    check_places(study, runs, run_here=not args.dry_run)
    if args.dry_run:
        show_plan(runs, args.rate)
        return 0
    if args.rate is not None:
        raise ValueError("rate: without effect without dry_run")
    study.keep_copy()
    return Running(runs, 1 if args.index is not None else args.jobs).run()


def show_plan(runs: list[Run], rate: float | None) -> None:
    """Print a line for each run, with its command and what it is expected to cost, and the sums: of all, and of each stage."""
    total, unknown, bases, stages = 0.0, 0, {}, {}
    for run in runs:
        told = "done"
        if not is_done(run):
            seconds, basis = expected_cost(run, runs, rate)
            told = "?" if seconds is None else duration(seconds)
            bases[basis] = bases.get(basis, 0) + 1
            unknown += seconds is None
            total += seconds or 0.0
            stages.setdefault(run.stage.name, []).append(seconds)
        print(f"{told:>12}  {shlex.join(['renaissance', *run.argv])}")
    print(
        f"{len(runs)} runs, {duration(total)} on one device"
        + (f", and {unknown} runs of unknown cost" if unknown else "")
    )
    for stage, costs in stages.items():
        known = [seconds for seconds in costs if seconds is not None]
        more = f", and {len(costs) - len(known)} of unknown cost" if known and len(known) < len(costs) else ""
        print(f"  {stage}: {len(costs)} to run, {duration(sum(known)) if known else '?'}{more}")
    for basis, count in bases.items():
        print(f"  {count} by: {basis}")


def launch_study(args: argparse.Namespace) -> int:
    """Write a script for SLURM; return the exit code."""
    study = Study.read(args.file).of_seeds(args.seeds)
    runs = runs_of(study)
    check_runs(study, runs, run_here=False)
    check_places(study, runs, run_here=False)
    script = sbatch_script(study, args.jobs, args.sbatch, args.seeds)
    # sbatch writes the logs of jobs there, and makes no folder.
    study.output_dir.mkdir(parents=True, exist_ok=True)
    write(script, args.output)
    return 0


def table_runs(args: argparse.Namespace) -> int:
    """Write the table of a study or of a folder of runs; return the exit code."""
    if args.format == "parquet" and args.output is None:
        raise ValueError("format: parquet needs --output")
    entries, missing = entries_of(args.place, args.seeds)
    columns = columns_of(entries, args.metrics)
    if args.format == "parquet":
        write_parquet(entries, columns, args.output)
    else:
        write(FORMS[args.format](entries, columns), args.output)
    if missing:
        print(f"not done yet: {', '.join(missing)}", file=sys.stderr)
    return 0


def compare_runs(args: argparse.Namespace) -> int:
    """Write the table of comparisons; return the exit code."""
    entries, _ = entries_of(args.place, args.seeds)
    faults: list[str] = []
    rows = list(compared(entries, args.against, faults))
    for fault in faults:
        logger.warning(fault)
    if not rows:
        raise ValueError(f"{args.place}: no two variants have predictions for the same rows with the same seed")
    write(as_markdown(rows, args.against or entries[0].variant), args.output)
    return 0


def fit_law(args: argparse.Namespace) -> int:
    """Write the power law of a metric; return the exit code."""
    entries, missing = entries_of(args.place, args.seeds)
    found = list(points(entries, args.metric, args.by))
    try:
        fitted = fit([sizes for _, sizes, _ in found], [value for *_, value in found], args.by, args.offset)
    except ValueError as error:
        raise ValueError(f"{args.place}: {error}") from error
    write(law_as_markdown(args.metric, args.by, found, fitted), args.output)
    if missing:
        print(f"not done yet: {', '.join(missing)}", file=sys.stderr)
    return 0


def trace_runs(args: argparse.Namespace) -> int:
    """Write the table of where the runs below some folders came from; return the exit code."""
    found = []
    for place in args.places:
        folder = Path(place) if Path(place).is_dir() else Study.read(place).output_dir
        records = list(provenance.records_below(folder))
        if not records:
            raise ValueError(f"{folder}: there is no run in it or below it (no {FILE_NAME} that can be read)")
        found += records
    write(provenance.FORMS[args.format](provenance.links_of(found)), args.output)
    return 0


def entries_of(place: str, seeds: list[int] | None = None) -> tuple[list[Entry], list[str]]:
    """
    Return the runs of a study, or those below a folder, and the titles of those that are not done yet; there is at least one. Only those
    of some `seeds` of a study if they are given.
    """
    if Path(place).is_dir() and not is_study_folder(Path(place)):
        if seeds is not None:
            raise ValueError(f"seeds: without effect on a folder, {place}; name a study, or leave it out")
        return entries_in(Path(place))
    entries, missing = entries_of_study(Study.read(place).of_seeds(seeds))
    if not entries:
        raise ValueError(f"{place}: no run is done yet; `renaissance study run {place}` runs them")
    return entries, missing


def write(text: str, path: Path | None) -> None:
    """Write text to a file, or print it."""
    if path is None:
        print(text, end="")
    else:
        path.write_text(text, encoding="utf-8")

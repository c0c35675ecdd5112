"""Measure what training, ranking and loading cost, and compare it.

    renaissance benchmark step --models small --output step.json
    renaissance benchmark step --device cuda --precision bf16 --compile
    renaissance benchmark memory
    renaissance benchmark all --device cuda

Prints tables; with --output, writes everything to a JSON file, after each row
of a table, so that nothing is lost if a measurement is cut off. Things that are
compared run in turns (A B A B ...) in one process after a warm-up. Tables give
the median and, in brackets, the least and the largest of the runs. On a machine
that others use too, set OMP_WAIT_POLICY=passive in the environment;
THP_MEM_ALLOC_ENABLE=1 makes torch allocate huge pages. Both are noted in the
JSON. On the CPU the default is float32: bf16 is many times slower on processors
without matrix units for it.
"""

import argparse

from renaissance_cli.mistakes import one_line

from ..benchmarks import (
    everything,
    experiments,
    growth,
    loading,
    memory,
    objectives,
    profiling,
    reading,
    retrieval,
    step,
    whole_run,
)
from ..benchmarks.report import Report
from ..hub import take_token
from .parsing import COUNTS, SEEDS, OneLineParser, new_file, number_in


GROUPS = {
    "step": step,
    "objectives": objectives,
    "memory": memory,
    "retrieval": retrieval,
    "loading": loading,
    "pretrain": whole_run,
    "features": reading,
    "growth": growth,
    "profile": profiling,
    "experiments": experiments,
    "all": everything,
}
#: Groups that measure nothing.
COMPUTED = ("experiments",)


def main(arguments: list[str] | None = None) -> None:
    """Measures the group that the command line names. Exits with code 2 and one line on a user's mistake."""
    parser = build_parser()
    args = parser.parse_args(arguments)
    try:
        take_token(args)
        report = Report(args.group, vars(args), args.output)
        GROUPS[args.group].run(args, report)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: error: {one_line(error)}\n")
    for table in report.tables:
        print(table)


def build_parser() -> argparse.ArgumentParser:
    """The command line: one sub-command a group."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = OneLineParser("renaissance benchmark", description=__doc__, formatter_class=raw)
    commands = parser.add_subparsers(required=True, metavar="GROUP", dest="group")
    for name, group in GROUPS.items():
        lines = group.__doc__.strip()
        first_sentence = " ".join(lines.split()).split(". ")[0]
        command = commands.add_parser(name, description=lines, help=first_sentence, formatter_class=raw)
        group.add_arguments(command)
        if name not in COMPUTED:
            command.add_argument(
                "--runs",
                type=number_in(int, COUNTS),
                default=5,
                help="runs after the warm-up (default: %(default)s)",
            )
            command.add_argument(
                "--seed", type=number_in(int, SEEDS), default=0, help="of weights and data (default: %(default)s)"
            )
        command.add_argument("--output", type=new_file, help="JSON file to write everything to")
    return parser

"""
All that is worth knowing of a GPU, in order of worth, within --minutes: steps of the paper's models, eager and compiled, ranking, a
whole run, peers of transformers, and float32, in which losses and logits can be compared. Each part is a process with a limit of its own, so that one that hangs or fails costs only itself.
Of a part that fails, the rows that it has measured until then are kept. Parts for which no time is left are not begun. All tables are
written to --output after each part, and a short one is printed last.

With --tiny it does the same with tiny models, to try it. On the CPU the real sizes take hours.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from renaissance.commands.parsing import number_in
from renaissance_cli.main import main

from .device import Place, add_device_arguments
from .measure import Spread
from .models import STAND_INS
from .report import Report


#: How a part ends whose tables are there.
WELL = "well"
#: Seconds kept for the tables at the end.
RESERVE = 5
#: Lines that are shown of what a part has said that did not end well.
LAST_LINES = 30
#: The columns of the short table, if the part has them.
SHORT = (
    "model", "variant", "batch", "side", "ms a step", "samples/s", "times faster", "share of GEMM peak", "kernels", "share of time busy",
    "peak MiB",
)  # fmt: skip


@dataclass(frozen=True)
class Part:
    """
    A part of the measurement.

    Args:
        name: What it is called in tables.
        seconds: Its limit, in a measurement of ten minutes; it grows with `--minutes`.
        words: The command line behind `renaissance benchmark`, without the device.
    """

    name: str
    seconds: int
    words: tuple[str, ...]


def step(name: str, model: str, variant: str, batch: int, seconds: int, *more: str) -> Part:
    """Return a part that measures a step."""
    words = ("step", "--models", model, "--variants", variant, "--batch_size", str(batch), *more)
    return Part(name, seconds, words)


#: What makes a step fastest.
FASTEST = ("--compile", "--cuda_graphs")
#: In order of worth.
PARTS = (
    step("Experiment 1", "small", "full", 88, 150, *FASTEST, "--compile_reference"),
    step("large batch", "small", "full", 352, 120, *FASTEST),
    step("vision frozen", "small", "vision frozen, cached", 88, 90, *FASTEST),
    step("base", "base", "both frozen, cached", 88, 110, *FASTEST),
    step("one tower", "one-tower", "full", 88, 110, *FASTEST, "--compile_reference"),
    Part("whole run", 180, ("pretrain", *FASTEST, "--steps", "400", "--num_images", "8192")),
    Part(
        "ranking",
        60,
        ("retrieval", "--num_images", "128", "--captions_per_image", "5", "--pairs", "4096"),
    ),
    step("peers of two towers", "small", "full", 88, 60, "--peers"),
    step("peers of one tower", "one-tower", "full", 88, 60, "--peers"),
    step("float32", "small", "full", 88, 60, "--precision", "float32"),
    step("autocast", "small", "full", 88, 120, "--precision", "bf16", *FASTEST),
    step("dual encoder", "dual-encoder", "full", 88, 60, *FASTEST),
    Part("whole run, eager", 90, ("pretrain",)),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this group."""
    add_device_arguments(parser)
    parser.set_defaults(device="cuda", precision="bf16_weights")
    parser.add_argument(
        "--minutes",
        type=number_in(float, "(0, inf)"),
        default=10.0,
        help="for all parts, whose limits grow with it (default: %(default)s)",
    )
    parser.add_argument("--tiny", action="store_true", help="try it with tiny models and few images")


def run(args: argparse.Namespace, report: Report) -> None:
    """Measure what the command line asks for."""
    Place.of(args)
    end = time.monotonic() + 60 * args.minutes - RESERVE
    parts = report.table("Parts")
    with tempfile.TemporaryDirectory() as folder, kernels_in(Path(folder) / "kernels"):
        for number, part in enumerate(PARTS):
            output = Path(folder) / f"{number}.json"
            begun = time.monotonic()
            limit = min(part.seconds * args.minutes / 10, end - begun)
            ended = run_part(command(part, args, output), limit) if limit > 0 else "no time left"
            take_over(output, part, report)
            parts.add({"part": part.name, "seconds": time.monotonic() - begun, "ended": ended})
    shorten(report)


def take_over(output: Path, part: Part, report: Report) -> None:
    """Take the rows that a part has written into the tables of all; it may have ended before the first."""
    if not output.exists():
        return
    for title, rows in json.loads(output.read_text(encoding="utf-8"))["results"].items():
        report.table(title).rows += [{"part": part.name} | as_measured(row) for row in rows]


@contextlib.contextmanager
def kernels_in(folder: Path) -> Iterator[None]:
    """Let parts share the kernels that torch compiles, in a new folder."""
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
    try:
        yield
    finally:
        del os.environ["TORCHINDUCTOR_CACHE_DIR"]


def command(part: Part, args: argparse.Namespace, output: Path) -> list[str]:
    """Return the words behind `renaissance` of a part, which writes its tables to `output`."""
    options = {"device": args.device, "precision": args.precision, "runs": args.runs, "seed": args.seed}
    common = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    # Of options that come twice the last one counts.
    words = [part.words[0], *common, *part.words[1:]]
    words = tiny(words) if args.tiny else words
    return ["benchmark", *words, "--output", str(output)]


def tiny(words: list[str]) -> list[str]:
    """Return the command line of a part with tiny models and few rows."""
    # The CPU has no graphs to record.
    words = [STAND_INS.get(word, word) for word in words if not ("cpu" in words and word == "--cuda_graphs")]
    if words[0] == "step":
        words += ["--batch_size", "4", *(["--threads", "1"] if "cpu" in words else [])]
    elif words[0] == "retrieval":
        words += ["--model", "tiny", "--num_images", "4", "--captions_per_image", "2", "--pairs", "8"]
    else:
        words += ["--model", "tiny", "--num_images", "8", "--batch_size", "4", "--steps", "8", "--workers", "1"]
    # A backend that generates no code.
    return [*words, "--compile", "aot_eager"] if "--compile" in words else words


def run_part(words: list[str], seconds: float) -> str:
    """
    Run a part; return how it ended, in words. One that takes longer than `seconds` is ended, with all that it started. What a part
    that did not end well has said last is printed.
    """
    context = multiprocessing.get_context("forkserver")
    # Importing these takes longer than many a measurement.
    context.set_forkserver_preload(["renaissance.commands.benchmark"])
    with tempfile.NamedTemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        process = context.Process(target=run_command, args=(words, errors.name))
        process.start()
        try:
            process.join(seconds)
            code = process.exitcode
        finally:
            if process.is_alive():
                end(process)
        lines = errors.read().strip().splitlines()
    if code == 0:
        return WELL
    print(*lines[-LAST_LINES:], sep="\n", file=sys.stderr)
    if code is None:
        return f"after its limit of {seconds:.0f} s"
    return f"with code {code}: {lines[-1] if lines else ''}"


def end(process: BaseProcess) -> None:
    """End a part, with all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    # It may have no group of its own yet.
    process.kill()
    process.join()


def run_command(words: list[str], errors: str) -> None:
    """Run `renaissance` in this process, which gets a group of its own; what it says goes to the file `errors`."""
    os.setsid()
    with open(os.devnull, "wb") as nowhere, open(errors, "ab") as file:
        os.dup2(nowhere.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    main(words)


def as_measured(row: dict) -> dict:
    """Return a row from a JSON file as it was in its table."""
    return {name: Spread(**value) if isinstance(value, dict) else value for name, value in row.items()}


def shorten(report: Report) -> None:
    """Add short tables of what matters most: steps, and the other parts."""
    for table in report.tables:
        if table.title.startswith("Cost of a step"):
            columns = ("part", *SHORT)
        elif table.title.startswith(("Ranking", "A whole run")):
            columns = tuple(table.rows[0])
        else:
            continue
        short = report.table(f"In short: {table.title[0].lower()}{table.title[1:]}")
        short.rows += [{name: middle(row[name]) for name in columns if name in row} for row in table.rows]
    report.write()


def middle(value: object) -> object:
    """Return the median of what was measured several times, and everything else as it is."""
    return value.median if isinstance(value, Spread) else value

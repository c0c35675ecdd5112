"""
What the paper's Experiments 1 and 2 take on a GPU: hours and energy, from samples a second that were measured.

By default the rates are those of one H100 of 80 GB with torch 2.11: the reference under bf16 autocast, ours with bf16 weights, eager,
and with compiled layers and recorded passes. With --rates they are those of the files that `renaissance benchmark step --device cuda --output FILE` wrote. Energy is hours times --watts,
or times the power that was measured beside the rate; the GPU alone, without its host.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

from renaissance.commands.parsing import existing_place, number_in

from .report import Report


#: Image-text pairs that each experiment of the paper trains on, by the model that it trains: steps times pairs a step.
PAIRS = {"small": 100_000 * 704, "base": 100_000 * 704, "one-tower": 50_000 * 512}
#: The limit of the board of an H100 SXM, in watts.
BOARD = 700.0


@dataclass(frozen=True)
class Rate:
    """
    A rate of training on one GPU.

    Attributes:
        model, variant, batch: What was trained, as of the group `step`.
        side: `reference`, `ours`, ...
        samples_per_second: Pairs a second.
        watts: Power that was measured, if it was.
    """

    model: str
    variant: str
    batch: int
    side: str
    samples_per_second: float
    watts: float | None = None


#: The fastest side that there is.
FASTEST = "ours, compiled, recorded"
#: Milliseconds a step on an H100, and watts where they were measured, of `SIDES`: model, variant, batch.
H100 = {
    ("small", "full", 88): ((283.47, 188.4), (149.71, 175.0), (28.32, 378.8)),
    ("small", "full", 352): ((314.16, 387.1), (149.10, 380.4), (74.87, 569.4)),
    ("small", "vision frozen, cached", 88): ((162.26, 209.4), (88.74, 181.5), (17.59, 377.3)),
    ("base", "both frozen, cached", 88): ((190.93, None), (119.32, None), (26.14, None)),
    ("one-tower", "full", 88): ((107.31, None), (70.55, None), (63.44, None)),
}
SIDES = ("reference", "ours", FASTEST)


def measured_on_h100() -> list[Rate]:
    """Return the rates of `H100`."""
    return [
        Rate(model, variant, batch, side, 1000 * batch / milliseconds, watts)
        for (model, variant, batch), measured in H100.items()
        for side, (milliseconds, watts) in zip(SIDES, measured, strict=True)
    ]


def read_rates(path: Path) -> list[Rate]:
    """Return the rates in a file of the groups `step` or `all`; raise `ValueError` if it has none of the paper's models."""
    try:
        results = json.loads(path.read_text(encoding="utf-8"))["results"]
        rows = [row for title, rows in results.items() if title.startswith("Cost of a step, cuda") for row in rows]
        found = [
            Rate(row["model"], row["variant"], row["batch"], row["side"], row["samples/s"], row["watts"])
            for row in rows
            if row["model"] in PAIRS
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"--rates: {path} is not a file that `renaissance benchmark step --output` wrote") from error
    if not found:
        raise ValueError(f"--rates: {path} has no step of {', '.join(PAIRS)} on a GPU")
    return found


def training_cost(pairs: int, samples_per_second: float, watts: float) -> tuple[float, float]:
    """Return the GPU-hours and the kilowatt-hours that training on a number of pairs takes."""
    hours = pairs / samples_per_second / 3600
    return hours, hours * watts / 1000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this group."""
    parser.add_argument("--rates", nargs="+", type=existing_place, help="JSON files of the groups step or all")
    parser.add_argument(
        "--watts",
        type=number_in(float, "(0, inf)"),
        default=BOARD,
        help="power of a GPU if none was measured (default: %(default)s, the limit of an H100 SXM)",
    )


def run(args: argparse.Namespace, report: Report) -> None:
    """Compute what the command line asks for."""
    rates = [rate for path in args.rates for rate in read_rates(path)] if args.rates else measured_on_h100()
    table = report.table("The paper's experiments on one GPU")
    for rate in rates:
        hours, energy = training_cost(PAIRS[rate.model], rate.samples_per_second, rate.watts or args.watts)
        table.add(
            {
                "experiment": 2 if rate.model == "one-tower" else 1,
                **{name: getattr(rate, name) for name in ("model", "variant", "batch", "side")},
                "pairs": PAIRS[rate.model],
                "samples/s": rate.samples_per_second,
                "GPU-hours": hours,
                "watts": rate.watts or args.watts,
                "kWh": energy,
            }
        )

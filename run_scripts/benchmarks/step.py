"""
A training step of ours against the reference step: the same weights, the same batches, the same parts frozen.

The models: `small`, of the paper's Experiment 1 (ELECTRA-Small and DeiT-Tiny under six cross-modal layers of 256); `base`,
ELECTRA-Base and ViT-Base under ten, with both towers frozen; `one-tower`, of BERT-Base's shape. All have both objectives, masked
language modelling and image-text matching, and random weights. The reference is described in benchmarks/reference.py.

Variants: `by length`, captions of like length in a batch (--train_sampling_strategy group_by_length); `masked text matched`
(--itm_text masked), `4 captions an image` (--captions_per_image 4) and `false images of all data` (--itm_negatives random), which
change the objective or who meets whom; `cached`, our model reads features of its frozen vision tower, of 16 bits. In all others our
batches are padded to the longest of their texts, and have their false images from their own rows.

Two threads are measured by wall seconds, one by CPU seconds of the process. FLOPs are those of forward and backward pass, and so are
operations (all of torch's but views), each of which is at least one kernel of a GPU, and synchronisations, at which it waits. Dropout
is 0 on both sides, so that losses can be compared, but for one row. There text towers have 0.1 on states and on attention
weights, as their checkpoints do, and the layers that join the towers have 0.1 on states; dropout of attention weights forbids flash
attention on CPUs.
"""

import argparse
import gc

from renaissance.commands.parsing import ROWS, number_in

from .measure import Spread, gemm_rate, interleaved, ratios, use_threads
from .models import MODELS, BatchSettings, build_model, draw_batches
from .reference import build_reference
from .report import Table
from .training import PHASES, Trainee, Variant, largest_difference, with_features


BOTH = ("text", "vision")
#: What makes a step cheaper and changes what is trained on, or in what order.
ALL_THREE = {"itm_text": "masked", "captions_per_image": 4, "by_length": True}

VARIANTS = (
    Variant("full", models=("small", "one-tower")),
    Variant("full, by length", models=("small", "one-tower"), by_length=True),
    Variant("full, dropout 0.1", dropout=0.1),
    Variant("full, false images of all data", itm_negatives="random"),
    Variant("full, masked text matched", itm_text="masked"),
    Variant("full, 4 captions an image", captions_per_image=4),
    Variant("full, all three", **ALL_THREE),
    Variant("vision frozen", freeze=("vision",)),
    Variant("vision frozen, all three", freeze=("vision",), **ALL_THREE),
    Variant("vision frozen, cached", freeze=("vision",), cached=True),
    Variant("vision frozen, cached, by length", freeze=("vision",), cached=True, by_length=True),
    Variant("vision frozen, cached, all three", freeze=("vision",), cached=True, **ALL_THREE),
    Variant("both frozen", models=("small", "base"), freeze=BOTH),
    Variant("both frozen, cached", models=("small", "base"), freeze=BOTH, cached=True),
    Variant("both frozen, cached, by length", models=("small", "base"), freeze=BOTH, cached=True, by_length=True),
    Variant("both frozen, cached, all three", models=("small", "base"), freeze=BOTH, cached=True, **ALL_THREE),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this group."""
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["small"], help="(default: small)")
    names = [variant.name for variant in VARIANTS]
    parser.add_argument("--variants", nargs="+", choices=names, default=names, help="(default: all that a model has)")
    parser.add_argument(
        "--batch_size",
        type=number_in(int, ROWS),
        default=16,
        help="image-text pairs a step (default: %(default)s)",
    )
    parser.add_argument(
        "--threads",
        nargs="*",
        type=number_in(int, "[1, 1024]"),
        default=[1, 2],
        help="(default: 1 2); none counts operations only",
    )


def run(args: argparse.Namespace) -> list[Table]:
    """Measures what the command line asks for."""
    counts = Table("Operations of a step (forward and backward pass)", [])
    tables = counts, Table("Cost of a step, reference over ours", []), Table("Phases of a step", [])
    for name in args.models:
        for variant in VARIANTS:
            # Of one image no text has a false one.
            drawable = variant.captions_per_image < args.batch_size
            if name in variant.models and variant.name in args.variants and drawable:
                Comparison(name, variant, args).measure(*tables)
                gc.collect()
    if not counts.rows:
        raise ValueError(f"--variants: {', '.join(args.models)} is not measured in any of these")
    return [table for table in tables if table.rows]


class Comparison:
    """
    Both sides of a variant.

    Args:
        model: Which of the models.
        variant: How it is trained.
        args: `runs`, `batch_size`, `seed`, `threads`.
    """

    def __init__(self, model: str, variant: Variant, args: argparse.Namespace):
        self.labels = {"model": model, "variant": variant.name}
        self.variant, self.args = variant, args
        settings = BatchSettings(
            args.batch_size,
            by_length=variant.by_length,
            captions_per_image=variant.captions_per_image,
            seed=args.seed,
        )
        ours, original = draw_batches(settings, args.runs, variant.itm_text, variant.itm_negatives)
        built = build_model(model, variant.freeze, args.seed, dropout=variant.dropout)
        if variant.cached:
            ours = [with_features(built, batch) for batch in ours]
        self.sides = {
            "reference": Trainee(build_reference(built).train(), original),
            "ours": Trainee(built, ours),
        }

    def measure(self, counts: Table, costs: Table, phases: Table) -> None:
        """Adds rows to the tables."""
        flops = self.count(counts)
        for threads in self.args.threads:
            self.time(threads, flops, costs, phases)

    def count(self, counts: Table) -> dict[str, list[int]]:
        """FLOPs of each side on each batch, which are added to `counts`, and the largest difference of their outputs."""
        flops, differences = {name: [] for name in self.sides}, []
        for number in range(self.args.runs):
            outputs = {}
            for name, side in self.sides.items():
                counted, outputs[name] = side.flops(number)
                flops[name].append(counted)
            labels = self.sides["reference"].batches[number]["mlm_labels"]
            if self.variant.comparable:
                differences.append(largest_difference(outputs["ours"], outputs["reference"], labels))
        counted = {name: side.operations(0) for name, side in self.sides.items()}
        giga = {name: sum(values) / (self.args.runs * self.args.batch_size) / 1e9 for name, values in flops.items()}
        parameters = list(self.sides["reference"].model.parameters())
        counts.add(
            self.labels
            | {f"GFLOP a sample, {name}": value for name, value in giga.items()}
            | {
                "ratio": giga["reference"] / giga["ours"],
                **{f"operations, {name}": counter.operations for name, counter in counted.items()},
                **{f"synchronisations, {name}": counter.synchronisations for name, counter in counted.items()},
                "parameters": sum(p.numel() for p in parameters),
                "trainable": sum(p.numel() for p in parameters if p.requires_grad),
                "largest difference of losses and logits": max(differences, default=None),
            }
        )
        return flops

    def time(self, threads: int, flops: dict[str, list[int]], costs: Table, phases: Table) -> None:
        """Times both sides in turns with the peak rate of matrix products, and adds the results to the tables."""
        clock = use_threads(threads)
        sides = {name: lambda run, side=side: side.step(run, clock) for name, side in self.sides.items()}
        runs = interleaved({**sides, "gemm": lambda run: gemm_rate(clock)}, self.args.runs)
        seconds = {name: [sum(times.values()) for times in runs[name]] for name in self.sides}
        labels = self.labels | {"threads": threads}
        row = labels | {"times faster": ratios(seconds["reference"], seconds["ours"])}
        for name, values in seconds.items():
            row[f"ms a sample, {name}"] = Spread.of([1e3 * value / self.args.batch_size for value in values])
        for name, values in seconds.items():
            rates = [count / value for count, value in zip(flops[name], values, strict=True)]
            row[f"share of GEMM peak, {name}"] = ratios(rates, runs["gemm"])
        costs.add(row | {"GEMM peak, GFLOP/s": Spread.of([rate / 1e9 for rate in runs["gemm"]])})
        for phase in PHASES:
            times = {name: [run[phase] for run in runs[name]] for name in self.sides}
            row = labels | {"phase": phase, "times faster": ratios(times["reference"], times["ours"])}
            for name, values in times.items():
                row[f"ms a sample, {name}"] = Spread.of([1e3 * value / self.args.batch_size for value in values])
            phases.add(row)

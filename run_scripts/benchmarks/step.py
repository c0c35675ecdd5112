"""
A training step of ours against the reference step: the same weights, the same batches, the same parts frozen.

The models: `small`, of the paper's Experiment 1 (ELECTRA-Small and DeiT-Tiny under six cross-modal layers of 256); `base`,
ELECTRA-Base and ViT-Base under ten, with both towers frozen; `one-tower`, of BERT-Base's shape; `grid`, the same on the feature map of a
ConvNeXt-Tiny; `dual-encoder`, the encoders of `small` with vectors of 256; `tiny` and so on, to try the command. All have random weights, and both objectives, masked
language modelling and image-text matching, or the dual encoder's contrastive loss. The reference is described in
benchmarks/reference.py and reference_dual.py.

Variants: `by length`, captions of like length in a batch (--train_sampling_strategy group_by_length); `masked text matched`
(--itm_text masked), `4 captions an image` (--captions_per_image 4) and `false images of all data` (--itm_negatives random), which
change the objective or who meets whom; `cached`, our model reads features of its frozen vision tower, of 16 bits. In all others our
batches are padded to the longest of their texts, and have their false images from their own rows.

Further sides: with --compile, ours with its layers compiled as by --torch_compile, which pads texts to a multiple of 8; FLOPs are
then those without that padding; with --compile_reference, the reference with its layers compiled too; with --cuda_graphs, ours
recorded as by the option of that name, eager and compiled; with --peers, models of transformers at the same sizes
(benchmarks/peers.py), where nothing is frozen and dropout is 0.

On the CPU several threads are measured by wall seconds, one by CPU seconds of the process; on a GPU whole steps, by wall seconds until
all their work has ended. A step has clipping and AdamW. FLOPs are those of forward and backward pass, and so are operations (all
of torch's but views), each of which is at least one kernel of a GPU if layers are not compiled. Synchronisations, at which a GPU would
have to finish its work, are those of the whole step. On a GPU the profiler counts kernels and waits of one step too, and the time
that the device is busy, which is put over the median of the steps without the profiler.

Dropout is 0 on both sides, so that losses can be compared, but for one row. There text towers have 0.1 on states and on attention
weights, as their checkpoints do, and the layers that join the towers have 0.1 on states; dropout of attention weights forbids flash
attention on CPUs.
"""

import argparse
import contextlib
import copy
import gc
import os
import tempfile
from collections.abc import Iterator

import torch
from torch._dynamo.utils import counters
from torch._inductor import metrics

from renaissance.commands.parsing import number_in
from renaissance.tasks.compilation import LENGTH_MULTIPLE, compile_layers

from .device import (
    Place,
    add_compile_argument,
    add_device_arguments,
    add_graphs_argument,
    check_backend,
    check_graphs,
)
from .measure import Spread, interleaved, ratios
from .models import MODELS, BatchSettings, build_model, draw_batches, draw_own_batches
from .options import add_batch_size
from .peers import build_peers
from .reference import build_reference
from .report import Report, Table
from .training import PHASES, Trainee, Variant, compile_reference, largest_difference, with_features


BOTH = ("text", "vision")
#: What makes a step cheaper and changes what is trained on, or in what order.
ALL_THREE = {"itm_text": "masked", "captions_per_image": 4, "by_length": True}

#: How the names of compiled and of recorded sides end.
COMPILED, RECORDED = ", compiled", ", recorded"

VARIANTS = (
    Variant("full", models=("small", "one-tower", "grid", "dual-encoder")),
    Variant("full, by length", models=("small", "one-tower", "grid", "dual-encoder"), by_length=True),
    Variant("full, dropout 0.1", dropout=0.1),
    Variant("full, false images of all data", itm_negatives="random"),
    Variant("full, masked text matched", itm_text="masked"),
    Variant("full, 4 captions an image", captions_per_image=4),
    Variant("full, all three", **ALL_THREE),
    Variant("vision frozen", models=("small", "grid", "dual-encoder"), freeze=("vision",)),
    Variant("vision frozen, all three", freeze=("vision",), **ALL_THREE),
    Variant("vision frozen, cached", models=("small", "grid", "dual-encoder"), freeze=("vision",), cached=True),
    Variant(
        "vision frozen, cached, by length",
        models=("small", "dual-encoder"),
        freeze=("vision",),
        cached=True,
        by_length=True,
    ),
    Variant("vision frozen, cached, all three", freeze=("vision",), cached=True, **ALL_THREE),
    Variant("both frozen", models=("small", "base"), freeze=BOTH),
    Variant("both frozen, cached", models=("small", "base"), freeze=BOTH, cached=True),
    Variant("both frozen, cached, by length", models=("small", "base"), freeze=BOTH, cached=True, by_length=True),
    Variant("both frozen, cached, all three", models=("small", "base"), freeze=BOTH, cached=True, **ALL_THREE),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this group."""
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["small"], help="(default: small)")
    names = [variant.name for variant in VARIANTS]
    parser.add_argument("--variants", nargs="+", choices=names, default=names, help="(default: all that a model has)")
    add_batch_size(parser)
    add_device_arguments(parser)
    add_compile_argument(parser)
    parser.add_argument("--compile_reference", action="store_true", help="with --compile: the reference's layers too")
    add_graphs_argument(parser, "measure recorded passes too")
    parser.add_argument("--peers", action="store_true", help="measure ViLT, or LXMERT and BridgeTower, too")
    parser.add_argument(
        "--threads",
        nargs="*",
        type=number_in(int, "[1, 1024]"),
        help="of the CPU (default: 1 2); none counts operations only",
    )


def run(args: argparse.Namespace, report: Report) -> None:
    """Measure what the command line asks for."""
    place = Place.of(args)
    if place.is_cuda and args.threads:
        raise ValueError(
            "--threads: of a step on the CPU; leave it out with --device cuda, or give no number to count only"
        )
    # Whatever it compiles, torch names a folder of kernels in the environment, which would be that of earlier runs.
    with own_kernels():
        check_backend(args, place)
    check_graphs(args, place)
    if args.compile_reference and not args.compile:
        raise ValueError("--compile_reference: without effect without --compile; leave it out, or add that")
    tables = [
        report.table(f"{title}, {place.device.type}, {place.precision}")
        for title in ("Operations of a step", "Cost of a step", "Phases of a step", "Compilation")
    ]
    for name in args.models:
        for variant in VARIANTS:
            # Of one image no text has a false one.
            drawable = variant.captions_per_image < args.batch_size
            if variant.is_of(name) and variant.name in args.variants and drawable:
                with own_kernels():
                    Comparison(name, variant, args, place).measure(*tables)
                gc.collect()
                torch.cuda.empty_cache()
    if not tables[0].rows:
        raise ValueError(f"--variants: {', '.join(args.models)} is not measured in any of these")


def further_sides(args: argparse.Namespace) -> list[str]:
    """Return the names of the sides that are ours or the reference, made faster."""
    compiled = [f"ours{COMPILED}"] if args.compile else []
    reference = [f"reference{COMPILED}"] if args.compile_reference else []
    recorded = [f"{name}{RECORDED}" for name in ("ours", *compiled)] if args.cuda_graphs else []
    return [*reference, *compiled, *recorded]


def is_plain(name: str) -> bool:
    """Return whether a side is neither compiled nor recorded."""
    return not name.endswith((COMPILED, RECORDED))


@contextlib.contextmanager
def own_kernels() -> Iterator[None]:
    """Let torch find no kernels that were compiled before this context, unless the environment names a folder of them."""
    name = "TORCHINDUCTOR_CACHE_DIR"
    if name in os.environ:
        yield
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ[name] = folder
        try:
            yield
        finally:
            del os.environ[name]


class Comparison:
    """
    All sides of a variant.

    Args:
        model: Which of the models.
        variant: How it is trained.
        args: `runs`, `batch_size`, `seed`, `threads`, `compile`, `compile_reference`, `cuda_graphs`, `peers`.
        place: The device and the precision.
    """

    #: The most batches that are drawn; they are used in turns.
    BATCHES = 5

    def __init__(self, model: str, variant: Variant, args: argparse.Namespace, place: Place):
        self.labels = {"model": model, "variant": variant.name, "batch": args.batch_size}
        self.variant, self.args, self.place = variant, args, place
        #: Wall seconds of the first pass of each side that is not compiled.
        self.warm_up: dict[str, float] = {}
        settings = BatchSettings(
            args.batch_size,
            by_length=variant.by_length,
            captions_per_image=variant.captions_per_image,
            seed=args.seed,
        )
        count = min(args.runs, self.BATCHES)
        objectives = variant.objectives(model)
        ours, original = draw_batches(settings, count, objectives)
        built = build_model(model, variant.freeze, args.seed, dropout=variant.dropout).to(place.device)
        models = {"reference": build_reference(built).train(), "ours": built}
        if args.peers and not variant.freeze and not variant.dropout:
            models |= build_peers(built.config)
        models |= {name: copy.deepcopy(models[name.split(",")[0]]) for name in further_sides(args)}
        # Shapes of compiled and of recorded sides repeat.
        repeating = draw_own_batches(settings, count, objectives, length_multiple=LENGTH_MULTIPLE)
        self.sides = {}
        for name, each in models.items():
            if not name.startswith("ours"):
                self.sides[name] = Trainee(each, original, place.of_others)
                continue
            batches = [place.moved(batch) for batch in (ours if name == "ours" else repeating)]
            if variant.cached:
                batches = [with_features(built, batch) for batch in batches]
            self.sides[name] = Trainee(each, batches, place)

    def measure(self, counts: Table, costs: Table, phases: Table, compilations: Table) -> None:
        """Add rows to the tables."""
        # Of compiled sides the first step is in a table of its own.
        self.warm_up = {name: side.first_pass() for name, side in self.sides.items() if is_plain(name)}
        flops = self.count(counts)
        if self.args.compile:
            self.compile(compilations)
        for name, side in self.sides.items():
            if name.endswith(RECORDED):
                side.record()
        on_cpu = [1, 2] if self.args.threads is None else self.args.threads
        on_gpu = [] if self.args.threads == [] else [None]
        for threads in on_gpu if self.place.is_cuda else on_cpu:
            self.time(threads, flops, costs, phases)

    def count(self, counts: Table) -> dict[str, list[int]]:
        """
        Add what each side has to compute to `counts`, with the largest difference of its outputs from the reference's; return the
        FLOPs of each side on each batch.
        """
        eager = {name: side for name, side in self.sides.items() if is_plain(name)}
        flops, differences = {name: [] for name in eager}, []
        for number, batch in enumerate(self.sides["reference"].batches):
            outputs = {}
            for name, side in eager.items():
                if name == "ours" or number == 0:
                    counted, outputs[name] = side.flops(number)
                else:
                    # All of their texts are of one length.
                    counted, outputs[name] = flops[name][0], side.output(number)
                flops[name].append(counted)
            if self.variant.comparable:
                differences.append(largest_difference(outputs["ours"], outputs["reference"], batch.get("mlm_labels")))
        giga = {name: sum(values) / (len(values) * self.args.batch_size) / 1e9 for name, values in flops.items()}
        for name, side in eager.items():
            operations, synchronisations = side.operations(0)
            parameters = list(side.model.parameters())
            counts.add(
                self.labels
                | {
                    "side": name,
                    "GFLOP a sample": giga[name],
                    "reference's over it": giga["reference"] / giga[name],
                    "operations": operations,
                    "synchronisations": synchronisations,
                    "parameters": sum(p.numel() for p in parameters),
                    "trainable": sum(p.numel() for p in parameters if p.requires_grad),
                    "largest difference of losses and logits": max(differences, default=None)
                    if name == "ours"
                    else None,
                }
            )
        return flops

    def compile(self, compilations: Table) -> None:
        """Compile the layers of the sides that are to be compiled, do a step on each batch, and add what that took."""
        # Only here: it would undo what is compiled of a side.
        torch.compiler.reset()
        for name, side in self.sides.items():
            if COMPILED not in name:
                continue
            counters.clear()
            metrics.reset()
            compile_model = compile_layers if name.startswith("ours") else compile_reference
            compile_model(side.model, self.args.compile)
            seconds = [side.seconds(number, self.place.wall) for number in range(len(side.batches))]
            if name.endswith(RECORDED):
                # It finds the kernels of the side before it.
                continue
            compilations.add(
                self.labels
                | {
                    "side": name,
                    "first step, s": seconds[0],
                    "a step on each batch, s": sum(seconds),
                    "graphs": counters["stats"]["unique_graphs"],
                    "graph breaks": sum(counters["graph_break"].values()),
                    "kernels generated": metrics.generated_kernel_count,
                }
            )

    def time(self, threads: int | None, flops: dict[str, list[int]], costs: Table, phases: Table) -> None:
        """Time all sides in turns with the peak rate of matrix products, and add the results to the tables."""
        clock = self.place.clock(threads)
        if self.place.is_cuda:
            # Phases would each wait for the device.
            sides = {
                name: lambda run, side=side: {"step": side.seconds(run, clock)} for name, side in self.sides.items()
            }
            for side in self.sides.values():
                for number in range(len(side.batches)):
                    side.run(number)
        else:
            sides = {name: lambda run, side=side: side.step(run, clock) for name, side in self.sides.items()}
        runs = interleaved({**sides, "gemm": lambda run: self.place.gemm_rate(clock)}, self.args.runs)
        seconds = {name: [sum(times.values()) for times in runs[name]] for name in self.sides}
        labels = self.labels | {"threads": threads}
        for name, values in seconds.items():
            counted = flops[name.removesuffix(RECORDED).removesuffix(COMPILED)]
            rates = [counted[run % len(counted)] / value for run, value in enumerate(values)]
            costs.add(
                labels
                | {
                    "side": name,
                    "ms a step": Spread.of([1e3 * value for value in values]),
                    "samples/s": self.args.batch_size / Spread.of(values).median,
                    "times faster": ratios(seconds["reference"], values),
                    "first pass, s": self.warm_up.get(name),
                    "TFLOP/s": Spread.of(rates).median / 1e12,
                    "share of GEMM peak": ratios(rates, runs["gemm"]),
                    "GEMM peak, TFLOP/s": Spread.of(runs["gemm"]).median / 1e12,
                    **self.on_device(name, Spread.of(values).median),
                }
            )
        for phase in () if self.place.is_cuda else PHASES:
            times = {name: [run[phase] for run in runs[name]] for name in self.sides}
            for name, values in times.items():
                milliseconds = Spread.of([1e3 * value for value in values])
                faster = ratios(times["reference"], values)
                phases.add(labels | {"phase": phase, "side": name, "ms a step": milliseconds, "times faster": faster})

    def on_device(self, name: str, seconds: float) -> dict[str, int | float | None]:
        """Return the peak memory of a step of a side that takes `seconds`, and of a GPU what it does in it, and its power."""
        side = self.sides[name]
        memory = {"peak MiB": side.peak(0) / 2**20}
        if not self.place.is_cuda:
            return memory
        activity = self.place.activity(lambda: side.run(0))
        return memory | {
            "kernels": activity.kernels,
            "kernels, copies, fills": activity.events,
            "waits": activity.waits,
            "share of time busy": activity.seconds / seconds,
            "watts": self.place.power(lambda: side.run(0)),
        }

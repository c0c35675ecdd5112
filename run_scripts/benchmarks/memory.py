"""
Peak memory of a training step, ours against the reference step, each in a process of its own.

Peaks are the most resident memory until then, in all and above what the process had after its imports; the weights, the batch and
the activations are in both. With the optimizer's step, gradients and AdamW's two moments are there at the peak of
the second step; without, one forward and backward pass. Beside ours stands what a run tells before its first step
(`tasks/memory_needs.py`), and how much of that was taken.

glibc keeps freed memory, more or less of it by chance: with MALLOC_MMAP_THRESHOLD_=1000000 in the environment large tensors go back
to the system at once, and the peak is what was in use.
"""

import argparse
import tempfile

import torch

from renaissance.tasks.arguments import RunArguments
from renaissance.tasks.memory_needs import step_needs

from .measure import Spread, in_fresh_process, memory, ratios
from .models import MODELS, BatchSettings, build_model, draw_batches, draw_own_batches, objectives_of
from .options import add_batch_size
from .reference import build_reference
from .report import Report
from .training import Trainee


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this group."""
    parser.add_argument("--models", nargs="+", choices=MODELS, default=["small"], help="(default: small)")
    add_batch_size(parser)


def run(args: argparse.Namespace, report: Report) -> None:
    """Measures what the command line asks for."""
    table = report.table("Peak memory of a step, MB")
    for model in args.models:
        for optimizer in (True, False):
            table.add(
                {"model": model, "optimizer": "with" if optimizer else "without"} | compare(model, optimizer, args)
            )


def compare(model: str, optimizer: bool, args: argparse.Namespace) -> dict[str, Spread]:
    """Both sides' peaks in turns, and ours over the reference's."""
    peaks = {"reference": [], "ours": []}
    for _ in range(args.runs):
        for side, found in peaks.items():
            found.append(in_fresh_process(peak, side, model, optimizer, args.batch_size, args.seed))
    row = {}
    for number, what in enumerate(("in all", "above imports")):
        sides = {side: [values[number] for values in found] for side, found in peaks.items()}
        row |= {f"{side}, {what}": Spread.of([value / 2**20 for value in values]) for side, values in sides.items()}
        row[f"ours over reference, {what}"] = ratios(sides["ours"], sides["reference"])
    told = told_before(model, optimizer, args.batch_size, args.seed)
    # Above what the imports take, the last of both.
    row["told before the first step"] = told / 2**20
    row["ours over what was told"] = ratios(sides["ours"], [told] * args.runs)
    return row


def told_before(name: str, optimizer: bool, batch_size: int, seed: int) -> int:
    """Return the bytes that a run says that a step needs, or without the optimizer's step a forward and backward pass."""
    batches = draw_own_batches(BatchSettings(batch_size, seed=seed), 1, objectives_of(name))
    with tempfile.TemporaryDirectory() as folder:
        args = RunArguments(output_dir=folder, do_train=True, use_cpu=True, report_to="none")
        needs = step_needs(build_model(name, seed=seed), batches[0], args, batch_size)
    return needs.total if optimizer else needs.weights + needs.working


def peak(side: str, name: str, optimizer: bool, batch_size: int, seed: int) -> tuple[int, int]:
    """The peak of this process in bytes, in all and above what it has now."""
    before = memory("VmRSS")
    torch.set_num_threads(1)
    batches = draw_batches(BatchSettings(batch_size, seed=seed), 1, objectives_of(name))
    model = build_model(name, seed=seed)
    if side == "reference":
        model = build_reference(model).train()
    trainee = Trainee(model, batches[side == "reference"])
    if optimizer:
        for _ in range(2):
            trainee.step(0)
    else:
        model(**trainee.batches[0])["loss"].backward()
    highest = memory("VmHWM")
    return highest, highest - before

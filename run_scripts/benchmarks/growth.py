"""
How the cost of our training step grows: with batch size, image size, length of captions and number of cross-modal layers, one
changed at a time from the model of Experiment 1, and from one process to two.

Steps of all settings of a row of the table run in turns, on one thread, by CPU seconds. Two processes, one thread each, train the same
model under DDP with gloo, each on a batch of its own; a step of theirs is timed by wall seconds, in turns with a step that one of
them does alone while the other waits.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel

from .measure import Spread, interleaved, ratios, use_threads
from .models import BatchSettings, build_model, draw_batches
from .options import add_batch_size
from .report import Report, Table
from .training import Trainee


#: What is changed, and to which values; `--batch_size`, 224 pixels, real lengths and 6 layers where it is not.
GROWTH = {
    "batch_size": (4, 8, 16, 32),
    "image_size": (112, 160, 224, 288, 384),
    "length": (8, 12, 25, 50),
    "layers": (2, 4, 6, 8, 10),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this group."""
    add_batch_size(parser)
    what = (*GROWTH, "processes")
    parser.add_argument("--what", nargs="+", choices=what, default=what, help="what to change (default: all)")


def run(args: argparse.Namespace, report: Report) -> None:
    """Measures what the command line asks for."""
    costs, scaling = report.table("Cost of a step of ours"), report.table("One process and two")
    for what in args.what:
        if what == "processes":
            scaling.add(scale(args))
        else:
            grow(what, args, costs)


def grow(what: str, args: argparse.Namespace, table: Table) -> None:
    """Adds the rows of one setting that is changed."""
    clock = use_threads(1)
    trainees = {value: trainee(args, **{what: value}) for value in GROWTH[what]}
    gflop = {value: side.flops(0)[0] / 1e9 for value, side in trainees.items()}
    runs = interleaved(
        {value: lambda run, side=side: side.step(0, clock) for value, side in trainees.items()}, args.runs
    )
    for value, side in trainees.items():
        rows = len(side.batches[0]["mlm_labels"])
        seconds = [sum(times.values()) for times in runs[value]]
        table.add(
            {
                "changed": what,
                "to": value,
                "GFLOP a sample": gflop[value] / rows,
                "ms a sample": Spread.of([1e3 * second / rows for second in seconds]),
                "samples/s": Spread.of([rows / second for second in seconds]),
            }
        )


def trainee(
    args: argparse.Namespace,
    batch_size: int | None = None,
    image_size: int = 224,
    length: int | None = None,
    layers: int | None = None,
) -> Trainee:
    """The model of Experiment 1 with one batch; what is not given is as usual."""
    settings = BatchSettings(batch_size or args.batch_size, image_size, length=length, seed=args.seed)
    model = build_model("small", image_size=image_size, layers=layers, seed=args.seed)
    return Trainee(model, draw_batches(settings, 1)[0])


def scale(args: argparse.Namespace) -> dict[str, Spread]:
    """What a second process brings."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(work, args=(folder, args), nprocs=2)
        alone, together = torch.load(Path(folder) / "times.pt")
    return {
        "ms a step, one process": Spread.of([1e3 * second for second in alone]),
        "ms a step, two processes": Spread.of([1e3 * second for second in together]),
        "samples/s of two over one": ratios([2 * second for second in alone], together),
    }


def work(rank: int, folder: str, args: argparse.Namespace) -> None:
    """One of two processes: steps alone, in which the second one waits, and steps together."""
    group = torch.distributed
    torch.set_num_threads(1)
    group.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    single, shared = trainee(args), trainee(args)
    shared.model = DistributedDataParallel(shared.model)

    def alone(run: int) -> float:
        seconds = sum(single.step(0).values()) if rank == 0 else 0.0
        group.barrier()
        return seconds

    def together(run: int) -> float:
        group.barrier()
        return sum(shared.step(0).values())

    runs = interleaved({"alone": alone, "together": together}, args.runs)
    if rank == 0:
        torch.save((runs["alone"], runs["together"]), Path(folder) / "times.pt")
    group.destroy_process_group()

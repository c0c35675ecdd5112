"""
Where the time of our training step goes: torch.profiler over full steps of the model of Experiment 1, on one thread.

Times are those of torch's operators themselves, without the operators that they call, summed over groups. What is in no group is listed
by its name.
"""

import argparse
from collections import Counter

from torch.profiler import ProfilerActivity, profile

from .measure import use_threads
from .models import MODELS, BatchSettings, build_model, draw_batches
from .report import Table
from .training import Trainee


#: Groups of operators, and how the names of theirs start; the first that fits counts.
GROUPS = {
    "optimizer": ("aten::_foreach", "aten::_fused", "Optimizer."),
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::mkldnn_linear"),
    "attention": ("aten::_scaled_dot_product", "aten::_softmax"),
    "convolution": ("aten::mkldnn_convolution", "aten::convolution", "aten::_slow_conv", "aten::thnn_conv"),
    "layer norm": ("aten::native_layer_norm",),
    "activation": ("aten::gelu", "aten::tanh"),
    "loss": ("aten::_log_softmax", "aten::nll_loss"),
    "embedding, gathering of rows": (
        "aten::embedding",
        "aten::index",
        "aten::gather",
        "aten::scatter",
        "aten::nonzero",
    ),
    "sums and products of values": ("aten::add", "aten::mul", "aten::sub", "aten::div", "aten::sum"),
    "copies, zeros": ("aten::copy_", "aten::cat", "aten::fill_", "aten::zero", "aten::clone", "aten::empty"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this group."""
    parser.add_argument("--model", choices=MODELS, default="small", help="(default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=16, help="image-text pairs a step (default: %(default)s)")


def run(args: argparse.Namespace) -> list[Table]:
    """Profiles as many steps as there are runs."""
    clock = use_threads(1)
    batches = draw_batches(BatchSettings(args.batch_size, seed=args.seed), args.runs)[0]
    side = Trainee(build_model(args.model, seed=args.seed), batches)
    side.step(0, clock)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for number in range(args.runs):
            side.step(number, clock)
    times, calls = Counter(), Counter()
    for event in profiler.key_averages():
        times[group_of(event.key)] += event.self_cpu_time_total
        calls[group_of(event.key)] += event.count
    total, table = times.total(), Table(f"Where the time of a step goes: {args.model}", [])
    for name, time in times.most_common():
        if time >= 0.002 * total:
            ms = time / 1e3 / (args.runs * args.batch_size)
            table.add({"operators": name, "share": time / total, "ms a sample": ms, "calls": calls[name] // args.runs})
    return [table]


def group_of(operator: str) -> str:
    """The group of an operator, or its own name."""
    return next((name for name, starts in GROUPS.items() if operator.startswith(starts)), operator)

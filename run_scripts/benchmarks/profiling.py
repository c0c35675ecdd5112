"""
Where the time of our training step goes: torch.profiler over full steps of the model of Experiment 1, on one thread.

Times are those of torch's operators themselves, without the operators that they call, summed over groups. What is in no group is listed
by its name.
"""

import argparse
import re
from collections import Counter

from torch.profiler import ProfilerActivity, profile

from .measure import use_threads
from .models import MODELS, BatchSettings, build_model, draw_own_batches, objectives_of
from .options import add_batch_size
from .report import Report
from .training import Trainee


#: Groups of operators, and what the names of theirs begin with; the first that fits counts.
GROUPS = {
    "optimizer": r"aten::_fused_adam|Optimizer",
    "autograd's own": r"autograd::|torch::autograd|\w+Backward\d",
    "matrix products": r"aten::(mm|addmm|bmm|baddbmm|linear|matmul)$",
    "attention": r"aten::(_scaled_dot_product|scaled_dot|_softmax)",
    "convolution": r"aten::.*conv",
    "layer norm": r"aten::(native_)?layer_norm",
    "activation": r"aten::(gelu|tanh)",
    "loss": r"aten::(_?log_softmax|nll_loss|cross_entropy)",
    "embedding, gathering of rows": r"aten::(embedding|_?index|gather|scatter|nonzero)",
    "sums and products of values": r"aten::(add|mul|sub|div|sum|mean)",
    "copies, zeros": r"aten::(copy_|cat|fill_|zero|clone|empty|new_|to$|_to_copy|contiguous)",
    "shapes": r"aten::(t|transpose|permute|view|_?reshape.*|as_strided|expand|flatten|unflatten|select|slice|narrow|split.*|unsqueeze|detach|"
    r"_unsafe_view)$",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of this group."""
    parser.add_argument("--model", choices=MODELS, default="small", help="(default: %(default)s)")
    add_batch_size(parser)


def run(args: argparse.Namespace, report: Report) -> None:
    """Profiles as many steps as there are runs."""
    clock = use_threads(1)
    settings = BatchSettings(args.batch_size, seed=args.seed)
    batches = draw_own_batches(settings, args.runs, objectives_of(args.model))
    side = Trainee(build_model(args.model, seed=args.seed), batches)
    side.step(0, clock)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for number in range(args.runs):
            side.step(number, clock)
    times, calls = Counter(), Counter()
    for event in profiler.key_averages():
        times[group_of(event.key)] += event.self_cpu_time_total
        calls[group_of(event.key)] += event.count
    total, table = times.total(), report.table(f"Where the time of a step goes: {args.model}")
    for name, time in times.most_common():
        if time >= 0.002 * total:
            ms = time / 1e3 / (args.runs * args.batch_size)
            table.add({"operators": name, "share": time / total, "ms a sample": ms, "calls": calls[name] // args.runs})


def group_of(operator: str) -> str:
    """The group of an operator, or its own name."""
    return next((name for name, pattern in GROUPS.items() if re.match(pattern, operator)), operator)

"""The device and the precision of a measurement: which there are, how to time on them, and what a device says of a step."""

import argparse
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch._C._profiler import _EventType
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from renaissance.tasks.compilation import check_compiler

from .measure import use_threads


DEVICES = ("cpu", "cuda")
#: What matrices are multiplied in, by the name of a precision.
PRECISIONS = {"float32": torch.float32, "bf16": torch.bfloat16, "bf16_weights": torch.bfloat16}
#: Side of the square matrices whose product sets the peak rate: too large for any cache, and large enough to fill a GPU.
GEMM_SIDES = {"cpu": 2048, "cuda": 8192}
#: Calls of CUDA in which the host waits for the device. Measuring itself calls cudaDeviceSynchronize.
WAITS = ("cudaStreamSynchronize", "cudaEventSynchronize")
#: Seconds of steps before the power is read: the sensor gives a mean over up to a second.
POWER_SECONDS = 1.5


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
    """Add `--device` and `--precision`."""
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="device to measure on (default: %(default)s)")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="bf16 is autocast to bfloat16; with bf16_weights ours has weights in bfloat16 and float32 copies, and the others "
        "autocast (default: %(default)s)",
    )


def add_compile_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--compile`."""
    parser.add_argument(
        "--compile",
        nargs="?",
        const="inductor",
        metavar="BACKEND",
        help="measure compiled layers too; the backend of torch.compile is inductor if none is named",
    )


def add_graphs_argument(parser: argparse.ArgumentParser, text: str) -> None:
    """Add `--cuda_graphs`; `text` says what of."""
    parser.add_argument("--cuda_graphs", action="store_true", help=text)


def check_graphs(args: argparse.Namespace, place: "Place") -> None:
    """Raise `ValueError` if `--cuda_graphs` is asked for on a device that has none."""
    if args.cuda_graphs and not place.is_cuda:
        raise ValueError("--cuda_graphs: needs a CUDA GPU; leave it out, or use --device cuda")


def check_backend(args: argparse.Namespace, place: "Place") -> None:
    """Raise `ValueError` if torch has no backend of the name that `--compile` gives, or it does not run on the device."""
    if args.compile is None:
        return
    known = torch.compiler.list_backends(exclude_tags=())
    if args.compile not in known:
        raise ValueError(f"--compile: expected one of {', '.join(known)}, got {args.compile}")
    options = {"torch_compile_backend": args.compile, "torch_compile_mode": None, "device": place.device}
    try:
        check_compiler(argparse.Namespace(**options))
    except ValueError as error:
        raise ValueError(f"--compile: {error}") from error


@dataclass(frozen=True)
class Place:
    """
    A device and a precision.

    Args:
        device: `cpu` or `cuda`.
        precision: One of `PRECISIONS`.

    Raises:
        ValueError: If the machine lacks the device, or the device the precision.
    """

    device: torch.device = torch.device("cpu")
    precision: str = "float32"

    def __post_init__(self):
        if not self.is_cuda:
            return
        if not torch.cuda.is_available():
            raise ValueError("--device cuda: torch finds no CUDA device on this machine; use --device cpu")
        if self.dtype is torch.bfloat16 and not torch.cuda.is_bf16_supported(including_emulation=False):
            name = torch.cuda.get_device_name()
            raise ValueError(f"--precision {self.precision}: {name} has no bfloat16; use --precision float32")

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Place":
        """
        Return the place that the options of `add_device_arguments` name. If it is a GPU, this process and those that it starts see no
        other from then on, for a run refuses several in one process.
        """
        if args.device == "cuda":
            os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        return cls(torch.device(args.device), args.precision)

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def dtype(self) -> torch.dtype:
        """The type that matrices are multiplied in."""
        return PRECISIONS[self.precision]

    def autocast(self, keeps_casts: bool = True) -> torch.autocast:
        """Return a context for the forward pass, which keeps what weights are cast to until its end."""
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.precision == "bf16", cache_enabled=keeps_casts
        )

    @property
    def of_others(self) -> "Place":
        """The place of models that are not ours, which cannot compute with weights in bfloat16: they autocast."""
        return replace(self, precision="bf16") if self.precision == "bf16_weights" else self

    def moved(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the batch on the device."""
        return {name: value.to(self.device) for name, value in batch.items()}

    def wall(self) -> float:
        """Return wall seconds, on a GPU after all that was begun has ended."""
        if self.is_cuda:
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def clock(self, threads: int | None = None) -> Callable[[], float]:
        """Return the clock to measure steps by: on a GPU `wall`, on a CPU that of `use_threads`."""
        return self.wall if self.is_cuda or threads is None else use_threads(threads)

    def gemm_rate(self, clock: Callable[[], float]) -> float:
        """Return the floating-point operations a second in large matrix products of `dtype`, the best of three."""
        side = GEMM_SIDES[self.device.type]
        # Products of equal numbers take less power, and so are faster.
        left, right = (torch.rand(side, side, device=self.device, dtype=self.dtype) for _ in range(2))
        seconds = []
        for _ in range(3):
            start = clock()
            torch.mm(left, right)
            seconds.append(clock() - start)
        return 2 * side**3 / min(seconds)

    def rise(self, function: Callable[[], Any]) -> int:
        """Return the largest number of bytes of tensors during a call, above those before it."""
        if self.is_cuda:
            before = torch.cuda.memory_allocated(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            function()
            return torch.cuda.max_memory_allocated(self.device) - before
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
            function()
        # Frees are negative. Those of tensors from before the call are not among them.
        held = highest = 0
        for event in flattened(profiler.profiler.kineto_results.experimental_event_tree()):
            if event.tag == _EventType.Allocation:
                held += event.extra_fields.alloc_size
                highest = max(highest, held)
        return highest

    def activity(self, function: Callable[[], Any]) -> "Activity":
        """Return what a GPU does during a call."""
        torch.cuda.synchronize(self.device)
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], acc_events=True) as profiler:
            function()
            torch.cuda.synchronize(self.device)
        return Activity.of(profiler.events())

    def power(self, function: Callable[[], Any]) -> float | None:
        """Return the watts that a GPU draws while a call is repeated; `None` without the package nvidia-ml-py, or if its sensor does not tell."""
        start = time.perf_counter()
        while time.perf_counter() - start < POWER_SECONDS:
            function()
            torch.cuda.synchronize(self.device)
        try:
            return torch.cuda.power_draw(self.device) / 1000
        except Exception:  # the driver's library has errors of its own, for GPUs without a sensor or parts of a GPU
            return None


@dataclass(frozen=True)
class Activity:
    """
    What a GPU did in a step.

    Attributes:
        kernels: Kernels that ran.
        events: Kernels, copies and fills.
        waits: Times that the host waited for the device.
        seconds: Time in which at least one of the events ran.
    """

    kernels: int
    events: int
    waits: int
    seconds: float

    @classmethod
    def of(cls, events: Iterable) -> "Activity":
        """Return the summary of torch.profiler's events, whose times are in microseconds."""
        events = list(events)
        on_device = [each for each in events if each.device_type == DeviceType.CUDA and not each.is_user_annotation]
        spans = sorted((each.time_range.start, each.time_range.end) for each in on_device)
        busy, until = 0.0, float("-inf")
        for start, end in spans:
            busy += max(0.0, end - max(start, until))
            until = max(until, end)
        kernels = sum(not each.name.startswith(("Memcpy", "Memset")) for each in on_device)
        return cls(kernels, len(on_device), sum(each.name in WAITS for each in events), busy / 1e6)


def flattened(events: Iterable) -> Iterator:
    """Yield the events of a tree in the order in which they began."""
    for event in events:
        yield event
        yield from flattened(event.children)

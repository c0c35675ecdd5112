"""Measuring: interleaved runs, operations, floating-point operations, peak memory of a process, the environment."""

import multiprocessing
import os
import platform
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count


#: Settings of the environment that change timings or memory.
VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "THP_MEM_ALLOC_ENABLE", "MALLOC_MMAP_THRESHOLD_")


@dataclass(frozen=True)
class Spread:
    """Least, median and largest of several measurements."""

    min: float
    median: float
    max: float

    @classmethod
    def of(cls, values: list[float]) -> "Spread":
        return cls(float(min(values)), float(np.median(values)), float(max(values)))


def use_threads(threads: int) -> Callable[[], float]:
    """
    Sets the number of threads that torch computes with, and returns the clock to measure by: CPU seconds of the process for one
    thread, which others on the machine disturb least, and wall seconds for several.
    """
    torch.set_num_threads(threads)
    return time.process_time if threads == 1 else time.perf_counter


def interleaved(sides: dict[str, Callable[[int], Any]], runs: int) -> dict[str, list]:
    """
    What each of `sides` returned in each run. They take turns (A B A B ...), so that what slows the machine down for a while slows
    all of them down. Each is called with the number of the run; a call before the first warms it up and is not among the
    results.
    """
    for side in sides.values():
        side(0)
    results = {name: [] for name in sides}
    for run in range(runs):
        for name, side in sides.items():
            results[name].append(side(run))
    return results


def ratios(numerators: list[float], denominators: list[float]) -> Spread:
    """The spread of the quotients of what two sides measured in each run."""
    return Spread.of([above / below for above, below in zip(numerators, denominators, strict=True)])


def count_flops(function: Callable[[], Any]) -> tuple[int, Any]:
    """
    The floating-point operations of matrix products, convolutions and attention in a call, a multiplication and an addition
    counting as two, and what it returns. torch has no count for its flash attention on CPUs: here it gets that of the other
    attention kernels, whose backward pass computes the scores anew and so has five products for the forward pass's two.
    """
    aten = torch.ops.aten
    cpu_attention = {
        aten._scaled_dot_product_flash_attention_for_cpu: lambda *shapes, **_: sdpa_flop_count(*shapes[:3]),
        aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda *shapes, **_: sdpa_backward_flop_count(
            *shapes[:4]
        ),
    }
    with FlopCounterMode(display=False, custom_mapping=cpu_attention) as counter:
        result = function()
    return counter.get_total_flops(), result


class OperationCounter(TorchDispatchMode):
    """
    Counts torch's operations in a context: those that compute or copy, and those that ask the device for a value, for which a GPU would
    have to finish its work. Views compute nothing, nor do operations that only allocate.
    """

    IDLE = ("_unsafe_view", "empty", "empty_like", "empty_strided", "new_empty", "detach")
    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique2")

    def __init__(self):
        super().__init__()
        self.operations = self.synchronisations = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        waits = name in self.WAITS
        self.synchronisations += waits
        self.operations += not (waits or func.is_view or name in self.IDLE)
        return func(*args, **(kwargs or {}))


def memory(field: str) -> int:
    """
    Bytes of memory of this process, from Linux's /proc: resident now (`"VmRSS"`), or at most until now (`"VmHWM"`). Not
    getrusage's ru_maxrss, the same peak: a new process inherits that from the one that started it.
    """
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def in_fresh_process(function: Callable, *args) -> Any:
    """What `function`, defined at the top of a module, returns in a process of its own that does nothing else."""
    with ProcessPoolExecutor(max_workers=1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def environment() -> dict[str, Any]:
    """What timings depend on beside the code: versions, processor, threads."""
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "processor": processor_name(),
        "processors": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        **{name: os.environ.get(name) for name in VARIABLES},
    }


def processor_name() -> str:
    """What Linux calls the processor; what Python does elsewhere."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())

"""The machine and the software that a run is on, and the memory that it takes."""

import os
import platform
import subprocess
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments


try:
    import psutil
except ImportError:
    psutil = None  # of the extra [train]; a prediction goes without
try:
    import resource
except ImportError:
    resource = None  # not on Windows

#: Where Linux has the limits of groups of processes, such as those of containers and of jobs of SLURM, in version 2 and 1: what
#: their lines begin with, the folder, the files with the limit and what is used of it, and the entry of files that can be dropped.
CGROUPS = (
    ("0::", Path("/sys/fs/cgroup"), "memory.max", "memory.current", "inactive_file"),
    (
        ":memory:",
        Path("/sys/fs/cgroup/memory"),
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
)
#: The packages whose versions a record has.
PACKAGES = ("renaissance", "torch", "transformers", "datasets")


class UnfitMachine(ValueError):
    """What an option needs and this machine lacks: another one may have it, such as that which a study will run on."""


def facts(device: torch.device, processes: int = 1) -> dict[str, Any]:
    """Return the fields of a record that say on what machine, and with which software, some processes compute on a device."""
    revision, changed = commit()
    software = {"versions": versions(), "commit": revision, "uncommitted_changes": changed}
    return software | {"host": platform.node(), "hardware": hardware(device, processes), "num_processes": processes}


def versions() -> dict[str, str]:
    """Return the versions of Python and of those of `PACKAGES` that are installed."""
    installed = [name for name in PACKAGES if find_spec(name) is not None]
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in installed}


def commit() -> tuple[str | None, bool | None]:
    """Return the commit of this code and whether there are changes on top of it; `None` twice if it is not a git checkout."""
    # In an environment inside another project's checkout this file is not one of the project's.
    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)
        changes = git("status", "--porcelain", "--untracked-files=no", "--", ":/")
        return git("rev-parse", "HEAD"), bool(changes)
    except (OSError, subprocess.SubprocessError):
        return None, None


def git(*arguments: str) -> str:
    """Return what git says in the folder of this code."""
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()


def hardware(device: torch.device, processes: int = 1) -> str:
    """Return the processors that a run of some processes computes on."""
    if device.type == "cuda":
        return f"{processes} x {torch.cuda.get_device_name(device)}"
    if device.type == "cpu":
        return f"{processor_name()}, {processes} x {torch.get_num_threads()} threads"
    return f"{processes} x {device.type}"


def processor_name() -> str:
    """Return the name of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def peak_memory() -> int | None:
    """Return the most memory that this process has taken so far, in bytes; `None` on Windows, which has no such count."""
    if resource is None:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def peak_gpu_memory(device: torch.device) -> int | None:
    """Return the most memory that tensors of this process have taken on its GPU, in bytes; `None` without one."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def memory_left(args: TrainingArguments) -> int | None:
    """
    Return the bytes that this process may still take on the device that it computes on; `None` if the device does not tell. On a CPU,
    the processes on a machine share what there is.
    """
    if args.device.type == "cpu":
        return max(0, min([available_memory() // local_processes(), *limits_left()]))
    module = torch.get_device_module(args.device)
    if not hasattr(module, "mem_get_info"):
        return None
    # torch keeps what tensors have given back.
    kept = module.memory_reserved(args.device) - module.memory_allocated(args.device)
    return module.mem_get_info(args.device)[0] + kept


def available_memory() -> int:
    """Return the bytes of this machine's memory that are free, or can be freed, without the use of a swap file."""
    return psutil.virtual_memory().available


def free_swap() -> int:
    """Return the bytes of this machine's swap space that are free."""
    return psutil.swap_memory().free


def limits_left() -> list[int]:
    """Return the bytes that each limit on this process, or on a group of processes that it is in, leaves to it."""
    left = []
    if resource is not None and (most := resource.getrlimit(resource.RLIMIT_AS)[0]) != resource.RLIM_INFINITY:
        left.append(most - psutil.Process().memory_info().vms)
    try:
        groups = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        return left
    for start, root, *names in CGROUPS:
        # Of a line such as 0::/user.slice/session-1.scope.
        for own in (line.partition(start)[2].strip("/") for line in groups if start in line):
            folders = (root / own, *(root / own).parents)
            left += [found for folder in folders if (found := group_left(folder, *names)) is not None]
    return left


def group_left(folder: Path, most: str, used: str, cached: str) -> int | None:
    """Return the bytes that a group of processes leaves to this one, by the names of its files and of an entry of memory.stat;
    `None` if it has no limit."""
    try:
        limit, taken = ((folder / name).read_text(encoding="ascii").strip() for name in (most, used))
        counts = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
    except OSError:
        return None
    # Files that were read, and can be dropped, count as used.
    return None if limit == "max" else (int(limit) - int(taken) + int(counts.get(cached, 0))) // local_processes()


def local_processes() -> int:
    """Return the number of processes of the run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def local_cores() -> int:
    """Return the number of cores that this process may use beside those of the run's other processes on this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // local_processes())

"""The machine and the software that a run is on, and the memory that it takes."""

import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import torch
from transformers import TrainingArguments


try:
    import resource
except ImportError:
    resource = None  # not on Windows

#: The packages whose versions a record has.
PACKAGES = ("renaissance", "torch", "transformers", "datasets")


def versions() -> dict[str, str]:
    """Return the versions of Python and of `PACKAGES`."""
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in PACKAGES}


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


def hardware(args: TrainingArguments) -> str:
    """Return the processors that a run computes on."""
    if args.device.type == "cuda":
        return f"{args.world_size} x {torch.cuda.get_device_name(args.device)}"
    if args.device.type == "cpu":
        return f"{processor_name()}, {args.world_size} x {torch.get_num_threads()} threads"
    return f"{args.world_size} x {args.device.type}"


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


def peak_gpu_memory(args: TrainingArguments) -> int | None:
    """Return the most memory that tensors of this process have taken on its GPU, in bytes; `None` without one."""
    return torch.cuda.max_memory_allocated(args.device) if args.device.type == "cuda" else None

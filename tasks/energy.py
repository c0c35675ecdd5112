"""The energy that a training takes, where the machine tells it: by the counter of an NVIDIA GPU, or those of CPUs (RAPL)."""

import ctypes
import time
from collections.abc import Callable
from pathlib import Path

import torch

from . import machine


#: Where Linux has the energy counters of processors, one folder for each package.
POWERCAP = Path("/sys/class/powercap")
#: The functions of NVIDIA's library NVML that begin, find a GPU by its name, and read the millijoules that it has counted.
NVML = ("Init_v2", "DeviceGetHandleByUUID", "DeviceGetTotalEnergyConsumption")
#: Seconds after which counters are read again: they begin anew at some hundred kilojoules.
INTERVAL = 30.0


class EnergyMeter:
    """
    The energy since it was made, in joules: of the GPU of this process, times the number of processes; without a GPU of the machine's
    processors, other programs included, times the number of machines.

    Args:
        device: The device of this process.
        processes: Number of processes.
        powercap: Folder of the counters of processors.
    """

    def __init__(self, device: torch.device, processes: int = 1, powercap: Path = POWERCAP):
        self._counters: list[Counter] = []
        if device.type == "cuda":
            read = gpu_counter(device)
            self._counters = [Counter(read)] if read is not None and read() is not None else []
            self._share = processes
        elif device.type == "cpu":
            packages = [each for each in sorted(powercap.glob("intel-rapl:*")) if each.name.count(":") == 1]
            self._counters = [Counter(package_counter(each), wrap_of(each)) for each in packages]
            self._share = -(-processes // machine.local_processes())
        self._read_at = time.monotonic()

    def joules(self) -> float | None:
        """Return the energy so far; `None` if it cannot be read."""
        self._read_at = time.monotonic()
        parts = [counter.joules() for counter in self._counters]
        return None if not parts or None in parts else sum(parts) * self._share

    def watch(self) -> None:
        """Read the counters if that is due, lest they begin anew twice."""
        if self._counters and time.monotonic() - self._read_at >= INTERVAL:
            self.joules()


class Counter:
    """
    What a counter has counted since it was made, though it may begin anew.

    Args:
        read: Returns its value in joules; `None` if it cannot be read.
        wrap: The value behind which it begins at 0; `None` if it never does.
    """

    def __init__(self, read: Callable[[], float | None], wrap: float | None = None):
        self._read, self._wrap = read, wrap
        self._last, self._total = read(), 0.0

    def joules(self) -> float | None:
        """Return what it has counted; `None` if it cannot be read."""
        now = self._read()
        if now is None or self._last is None:
            self._last = None
            return None
        self._total += now - self._last + (self._wrap or 0.0) * (now < self._last)
        self._last = now
        return self._total


def package_counter(folder: Path) -> Callable[[], float | None]:
    """Return a function that reads the energy, in joules, of a processor."""
    return lambda: microjoules(folder / "energy_uj")


def wrap_of(folder: Path) -> float | None:
    """Return the energy, in joules, behind which the counter of a processor begins anew."""
    return microjoules(folder / "max_energy_range_uj")


def microjoules(path: Path) -> float | None:
    """Return the microjoules in a file as joules; `None` if it cannot be read, as by others than root on most machines."""
    try:
        return int(path.read_text(encoding="ascii")) / 1e6
    except (OSError, ValueError):
        return None


def gpu_counter(device: torch.device) -> Callable[[], float | None] | None:
    """Return a function that reads the energy, in joules, of a GPU, which its driver counts (NVML); `None` if it does not."""
    millijoules, handle = ctypes.c_ulonglong(), ctypes.c_void_p()
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
        begin, find, count = (getattr(library, f"nvml{name}") for name in NVML)
        uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    # Another maker's GPU, or an old driver.
    except (OSError, AttributeError):
        return None
    find.argtypes = ctypes.c_char_p, ctypes.POINTER(ctypes.c_void_p)
    count.argtypes = ctypes.c_void_p, ctypes.POINTER(ctypes.c_ulonglong)
    if begin() or find(uuid.encode("ascii"), ctypes.byref(handle)):
        return None
    # Older cards and parts of a card (MIG) have no counter.
    return lambda: None if count(handle, ctypes.byref(millijoules)) else millijoules.value / 1e3

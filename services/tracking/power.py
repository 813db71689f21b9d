"""Energy counters of this machine: GPUs by NVML, CPU packages by RAPL; none where the system shows none.

A DGX Spark shows the power of its GPU by NVML and has no RAPL (its CPU is Arm): what is read there is the GPU's share
alone. RAPL's files are readable by root alone on most systems: then it counts as absent.
"""

import ctypes
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

_RAPL = Path("/sys/class/powercap")
_NVML = "libnvidia-ml.so.1"


class Counter(Protocol):
    """Something whose energy can be read."""

    @property
    def name(self) -> str:
        """What it counts: `gpu0`, `package-0`."""

    def joules(self) -> float:
        """Return the energy since this counter was made.

        Raises:
            OSError: it can't be read any more.
        """


class RaplPackage:
    """A CPU package. Its counter is in microjoules and begins anew at its maximum.

    Source: https://docs.kernel.org/power/powercap/powercap.html
    """

    def __init__(self, folder: Path) -> None:
        self.name = (folder / "name").read_text().strip()
        self._file = folder / "energy_uj"
        self._range = int((folder / "max_energy_range_uj").read_text())
        self._last = self._read()
        self._total = 0

    def joules(self) -> float:
        """Return the energy since this counter was made."""
        now = self._read()
        self._total += now - self._last if now >= self._last else now + self._range - self._last
        self._last = now
        return self._total / 1e6

    def _read(self) -> int:
        return int(self._file.read_text())


class NvmlGpu:
    """A GPU: its energy counter, or its power over time where it has none.

    Source: https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html
    """

    def __init__(self, library: Any, index: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = f"gpu{index}"
        self._library = library
        self._clock = clock
        self._handle = ctypes.c_void_p()
        _check(library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(self._handle)), self.name)
        try:
            self._first: int | None = self._energy()
        except OSError:
            self._first = None
        self._watts()  # a GPU that shows neither is not a counter
        self._last = clock()
        self._total = 0.0

    def joules(self) -> float:
        """Return the energy since this counter was made."""
        if self._first is not None:
            return (self._energy() - self._first) / 1000
        watts, now = self._watts(), self._clock()
        self._total += watts * (now - self._last)
        self._last = now
        return self._total

    def _energy(self) -> int:
        found = ctypes.c_ulonglong()
        _check(self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle, ctypes.byref(found)), self.name)
        return found.value

    def _watts(self) -> float:
        found = ctypes.c_uint()
        _check(self._library.nvmlDeviceGetPowerUsage(self._handle, ctypes.byref(found)), self.name)
        return found.value / 1000


def find_counters(rapl: Path = _RAPL, nvml: Callable[[], Any] = lambda: ctypes.CDLL(_NVML)) -> list[Counter]:
    """Return what can be read here; an empty list on a machine that shows nothing."""
    return [*_gpus(nvml), *_packages(rapl)]


def _packages(folder: Path) -> list[Counter]:
    found: list[Counter] = []
    # intel-rapl:0 is a package, intel-rapl:0:1 a part of it. AMD's have the same names.
    for each in sorted(folder.glob("intel-rapl:*")):
        if each.name.count(":") == 1:
            try:
                found.append(RaplPackage(each))
            except (OSError, ValueError):
                continue
    return found


def _gpus(nvml: Callable[[], Any]) -> list[Counter]:
    found: list[Counter] = []
    try:
        library = nvml()
        _check(library.nvmlInit_v2(), "NVML")
        count = ctypes.c_uint()
        _check(library.nvmlDeviceGetCount_v2(ctypes.byref(count)), "NVML")
    except (OSError, AttributeError):
        return found
    for index in range(count.value):
        try:
            found.append(NvmlGpu(library, index))
        except OSError:
            continue
    return found


def _check(status: int, name: str) -> None:
    if status:
        raise OSError(f"{name}: NVML answers {status}")

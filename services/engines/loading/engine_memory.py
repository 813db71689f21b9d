"""What an engine holds: the memory of its processes, and the fall of the machine's available memory since its launch.

Neither figure is the whole truth. Processes don't show what a GPU driver has taken for them from unified memory;
the machine's figure doesn't show weights that are mapped from a file, and shows what other programs take. So the larger
of the two counts.
Source: https://docs.kernel.org/filesystems/proc.html (smaps_rollup, statm)
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from services.engines.host_memory import HostMemory
from services.kit.processes import find_process, tree_of

# The kernel walks each page for PSS: 10 to 20 ms a GiB, in which the engine can't map memory.
_PSS_UP_TO_BYTES = 4 * 2**30
_PROC = Path("/proc")


def tree_memory(pids: Iterable[int], *, proc: Path = _PROC, pss_up_to_bytes: int = _PSS_UP_TO_BYTES) -> int:
    """Return the bytes that processes and their descendants hold; those that have ended hold none.

    It is the sum of their PSS, in which each page counts once however many of them share it. Of large ones, and where
    PSS may not be read, it is the sum of their RSS with the largest shared part counted once. It reads /proc: 1 ms for
    a process, at most 20 ms a GiB.
    """
    mains = [process for pid in dict.fromkeys(pids) if (process := find_process(pid)) is not None]
    tree = {process.pid for main in mains for process in tree_of(main)}
    resident = [found for pid in sorted(tree) if (found := _resident(proc / str(pid) / "statm")) is not None]
    rss = sum(part.rss for part in resident)
    if rss <= pss_up_to_bytes:
        parts = [_pss(proc / str(pid) / "smaps_rollup") for pid in sorted(tree)]
        known = [part for part in parts if part is not None]
        if known and len(known) == len(resident):
            return sum(known)
    shared = [part.shared for part in resident]
    return rss - sum(shared) + max(shared, default=0)


@dataclass(frozen=True)
class _Resident:
    rss: int
    shared: int


def _resident(statm: Path) -> _Resident | None:
    try:
        words = statm.read_text(encoding="ascii").split()
        page = os.sysconf("SC_PAGE_SIZE")
        return _Resident(int(words[1]) * page, int(words[2]) * page)
    except (OSError, ValueError, IndexError):
        return None


def _pss(rollup: Path) -> int | None:
    try:
        for line in rollup.read_text(encoding="ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    return None


@dataclass
class MemoryMeter:
    """An engine's memory from its launch on.

    Args:
        available_before: MemAvailable before the launch, in bytes.
        peak_bytes: the most that was seen.
        held_bytes: what was seen last; settled, once the engine is.
    """

    available_before: int
    peak_bytes: int = field(default=0, init=False)
    held_bytes: int = field(default=0, init=False)

    def observe(self, memory: HostMemory, processes_bytes: int = 0) -> None:
        """Note the machine's memory, and what the engine's processes hold."""
        self.held_bytes = max(processes_bytes, self.available_before - memory.available, 0)
        self.peak_bytes = max(self.peak_bytes, self.held_bytes)

"""The machine's memory, read from /proc: what is there, what is free, how broken up it is.

On unified memory the GPU driver takes from the same pool, and `cudaMemGetInfo` counts page cache as used: so
admission uses MemAvailable, and the load guard watches MemFree. Swap is never counted.
Source: https://docs.kernel.org/filesystems/proc.html (meminfo, buddyinfo, vmstat)
"""

import os
from dataclasses import dataclass
from pathlib import Path

import psutil

_PROC = Path("/proc")


@dataclass(frozen=True)
class HostMemory:
    """Bytes, but for the faults.

    Args:
        page_cache: files that the kernel keeps and would give back.
        largest_free_block: the largest contiguous piece; 0 where the system doesn't tell.
        major_faults: pages read from a disk since boot; 0 where the system doesn't tell.
    """

    total: int
    free: int
    available: int
    page_cache: int = 0
    largest_free_block: int = 0
    major_faults: int = 0


def read_host_memory(proc: Path = _PROC) -> HostMemory:
    """Return the machine's memory at this moment; without a /proc (macOS) what psutil can tell."""
    try:
        info = _meminfo((proc / "meminfo").read_text(encoding="ascii"))
        return HostMemory(
            total=info["MemTotal"],
            free=info["MemFree"],
            available=info["MemAvailable"],
            page_cache=info["Cached"] - info.get("Shmem", 0),
            largest_free_block=_largest_block(proc / "buddyinfo"),
            major_faults=_counter(proc / "vmstat", "pgmajfault"),
        )
    except (OSError, KeyError, ValueError):
        memory = psutil.virtual_memory()
        return HostMemory(memory.total, memory.free, memory.available)


def _meminfo(text: str) -> dict[str, int]:
    fields = (line.split() for line in text.splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in fields if len(words) >= 2}


def _largest_block(path: Path) -> int:
    """Return the size of the largest order of which any zone has a free block."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    page = os.sysconf("SC_PAGE_SIZE")
    orders = [
        order
        for line in lines
        for order, count in enumerate(line.partition("zone")[2].split()[1:])
        if count.isdecimal() and int(count)
    ]
    return page << max(orders) if orders else 0


def _counter(path: Path, name: str) -> int:
    try:
        for line in path.read_text(encoding="ascii").splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
    except (OSError, ValueError):
        pass
    return 0

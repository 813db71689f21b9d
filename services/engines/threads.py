"""How many threads llama.cpp gets."""

import math
import os
from pathlib import Path
from typing import NamedTuple

_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")


class Threads(NamedTuple):
    """Threads that generate tokens, and threads that read prompts."""

    decode: int
    batch: int


def default_threads(cores: int | None = None) -> Threads:
    """Return numbers for a machine with this many cores, the present one's where none is given.

    Generating is bound by memory, so half of the cores do, and the rest serve the gateway and its clients.
    OpenMP's threads wait for each other: two of them on two cores nearly stop beside one busy process. Reading a
    prompt is bound by arithmetic and takes all cores.
    """
    count = cores or usable_cores()
    return Threads(decode=min(16, max(1, count // 2)), batch=count)


def usable_cores(cpu_max: Path = _CPU_MAX) -> int:
    """Return the cores that this process may use: its CPU set, or a container's quota where that is less."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    try:
        quota, period = cpu_max.read_text(encoding="ascii").split()
        return max(1, min(cores, math.floor(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup v2, or no quota ("max 100000")
        return cores

"""What a reader must know of the machine to judge the figures; no name and no path of it."""

import os
import platform
import sys
from pathlib import Path


def machine_facts() -> dict[str, str | int | float]:
    """Return processor, cores, memory, kernel and Python version."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory_bytes / 2**30, 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
        "load_average_1_min": round(os.getloadavg()[0], 2),
    }


def _cpu_model() -> str:
    # ARM kernels name no model here; the architecture must do.
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()

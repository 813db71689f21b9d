"""The machines that a memory plan is made for: how much memory, what of it is the host's, how fast it is read."""

import re
from dataclasses import dataclass
from pathlib import Path

from services.engines.host_memory import read_host_memory

GIB = 1 << 30

# A "128 GB" DGX Spark has 128 GiB of LPDDR5X, of which CUDA sees this much (as its owners report).
SPARK_128_BYTES = int(121.69 * GIB)
# Nobody has told what CUDA sees of a 64 GB one: the same part is taken off, which is the careful guess.
SPARK_64_BYTES = 64 * GIB - (128 * GIB - SPARK_128_BYTES)
# LPDDR5X of one Spark (NVIDIA's data sheet).
SPARK_BANDWIDTH_BYTES_PER_S = 273e9

# What stays with the system, the services beside the engines, and the kernel's own needs. Fleets of Sparks keep 8 to
# 12 GB; below that the whole host freezes, and somebody has to pull the plug.
SPARK_128_RESERVE_BYTES = 10 * GIB
SPARK_64_RESERVE_BYTES = 8 * GIB
# Other machines keep a share, so that a laptop of 8 GiB has a use for its memory too.
SMALLEST_RESERVE_BYTES = GIB
RESERVE_SHARE = 0.08

_NVIDIA_GPUS = Path("/proc/driver/nvidia/gpus")
_SPARK_GPU = "GB10"
_SIZE = re.compile(r"(\d{1,12}(?:\.\d{1,12})?)\s*(MiB|GiB|TiB|MB|GB|TB)", re.IGNORECASE)
_UNITS = {"mib": 1 << 20, "gib": GIB, "tib": 1 << 40, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_LARGEST_BYTES = 1 << 50


class MachineError(Exception):
    """There is no such machine; the message says what there is."""


@dataclass(frozen=True)
class Machine:
    """Memory that engines share with the host; of several nodes, the sum of all.

    Args:
        total_bytes: what a plan is measured against.
        available_bytes: MemAvailable of the present machine; `total_bytes` of one that is only planned for.
        reserve_bytes: what engines leave to the host.
        bandwidth_bytes_per_s: of all nodes together; None where it isn't known.
        nodes: machines that hold one model together, a part each (tensor parallel).
        gpu: engines that could run on either run on its GPU.
        physical_bytes: what an engine takes its share of; more than `total_bytes` where that is capped.
    """

    name: str
    total_bytes: int
    available_bytes: int
    reserve_bytes: int
    bandwidth_bytes_per_s: float | None
    nodes: int = 1
    gpu: bool = True
    physical_bytes: int = 0

    def __post_init__(self) -> None:
        if not self.physical_bytes:
            object.__setattr__(self, "physical_bytes", self.total_bytes)


def machine(name: str, *, cap_bytes: int | None = None) -> Machine:
    """Return the machine of a name: spark-128, spark-64, dual-spark, this, or a size such as "24 GiB".

    Args:
        cap_bytes: plan as if the machine had no more than this.

    Raises:
        MachineError: naming what there is.
    """
    wanted = " ".join(name.split())
    found = _known(wanted) or _of_size(wanted)
    if found is None:
        raise MachineError(
            f"there is no machine {name!r}; there are: spark-128, spark-64, dual-spark, this, or a size such as 24GiB"
        )
    if cap_bytes is None or cap_bytes >= found.total_bytes:
        return found
    return Machine(
        name=found.name,
        total_bytes=cap_bytes,
        available_bytes=min(cap_bytes, found.available_bytes),
        reserve_bytes=min(found.reserve_bytes, proportionate_reserve(cap_bytes)),
        bandwidth_bytes_per_s=found.bandwidth_bytes_per_s,
        nodes=found.nodes,
        gpu=found.gpu,
        physical_bytes=found.physical_bytes,
    )


def proportionate_reserve(total_bytes: int) -> int:
    """Return what a machine of this size keeps for itself: 8 %, at least 1 GiB, at most what a Spark keeps."""
    return min(SPARK_128_RESERVE_BYTES, max(SMALLEST_RESERVE_BYTES, int(total_bytes * RESERVE_SHARE)))


def _known(name: str) -> Machine | None:
    match name.lower():
        case "spark-128":
            return _spark(name, SPARK_128_BYTES, SPARK_128_RESERVE_BYTES)
        case "spark-64":
            return _spark(name, SPARK_64_BYTES, SPARK_64_RESERVE_BYTES)
        case "dual-spark":
            return _spark(name, SPARK_128_BYTES, SPARK_128_RESERVE_BYTES, nodes=2)
        case "this":
            return this_machine()
    return None


def _spark(name: str, total_bytes: int, reserve_bytes: int, nodes: int = 1) -> Machine:
    total = nodes * total_bytes
    return Machine(name.lower(), total, total, nodes * reserve_bytes, nodes * SPARK_BANDWIDTH_BYTES_PER_S, nodes=nodes)


def this_machine(gpus: Path = _NVIDIA_GPUS, proc: Path = Path("/proc")) -> Machine:
    """Return the present machine, a Spark where its GPU is a GB10.

    Args:
        gpus: where NVIDIA's driver says what there is; there is no such folder without it.
    """
    memory = read_host_memory(proc)
    models = [_gpu_model(path) for path in sorted(gpus.glob("*/information"))]
    is_spark = any(_SPARK_GPU in model for model in models)
    reserve = proportionate_reserve(memory.total)
    return Machine(
        "this",
        memory.total,
        memory.available,
        max(reserve, SPARK_64_RESERVE_BYTES) if is_spark else reserve,
        SPARK_BANDWIDTH_BYTES_PER_S if is_spark else None,
        # A graphics card with memory of its own is no place for this plan's sum: it is about unified memory.
        gpu=is_spark,
    )


def _gpu_model(information: Path) -> str:
    try:
        lines = information.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("Model:")), "")


def _of_size(text: str) -> Machine | None:
    match = _SIZE.fullmatch(text)
    if match is None:
        return None
    total = int(float(match[1]) * _UNITS[match[2].lower()])
    if not 0 < total <= _LARGEST_BYTES:
        raise MachineError(f"a machine of {text} is not to be had; name a size such as 24GiB")
    name = f"{match[1]} {match[2]}"
    return Machine(name, total, total, proportionate_reserve(total), None)

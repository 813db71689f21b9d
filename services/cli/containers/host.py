"""The machine under the containers, as far as a GPU and unified memory are concerned: read from /proc and /sys."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_VERSION = re.compile(r"\b(\d{3,}\.\d+(?:\.\d+)?)\b")
_TOOLKIT = re.compile(r"version (\d+(?:\.\d+)*)")
_NVIDIA_VENDOR = "0x10de"
_SPARK_GPU = "GB10"
_PROGRAM_S = 10.0


@dataclass(frozen=True)
class Host:
    """One machine.

    Args:
        proc, sys: where its kernel tells of it.
        variables: with the PATH on which its programs are.
    """

    proc: Path = Path("/proc")
    sys: Path = Path("/sys")
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def gpus(self) -> list[str]:
        """The models of the GPUs that NVIDIA's driver has found."""
        found = []
        for path in sorted((self.proc / "driver/nvidia/gpus").glob("*/information")):
            model = next((line for line in _lines(path) if line.startswith("Model:")), "")
            found.append(model.partition(":")[2].strip() or "an NVIDIA GPU")
        return found

    @property
    def is_spark(self) -> bool:
        """Whether it is a DGX Spark: its GPU shares the host's memory."""
        return any(_SPARK_GPU in model for model in self.gpus)

    @property
    def has_nvidia_device(self) -> bool:
        """Whether there is a device of NVIDIA's, with a driver or without."""
        return bool(self.gpus) or any(
            _lines(path)[:1] == [_NVIDIA_VENDOR] and _is_display(path.parent)
            for path in self.sys.glob("bus/pci/devices/*/vendor")
        )

    @property
    def driver(self) -> str:
        """The version of NVIDIA's driver; empty where there is none."""
        first = next(iter(_lines(self.proc / "driver/nvidia/version")), "")
        found = _VERSION.search(first)
        return found.group(1) if found else ""

    @property
    def toolkit(self) -> str:
        """The version of NVIDIA's container toolkit; empty where there is none."""
        said = self.program("nvidia-ctk", "--version")
        found = _TOOLKIT.search(said)
        return found.group(1) if found else ""

    @property
    def cdi_files(self) -> list[Path]:
        """Device files that switch CDI on for NVIDIA's GPUs."""
        folders = (Path("/etc/cdi"), Path("/var/run/cdi"))
        return [path for folder in folders if folder.is_dir() for path in folder.glob("nvidia*")]

    def memory(self, name: str) -> int:
        """Return a figure of /proc/meminfo in bytes, such as MemFree; 0 where it isn't there."""
        line = next((line for line in _lines(self.proc / "meminfo") if line.startswith(f"{name}:")), "")
        words = line.split()
        return int(words[1]) * 1024 if len(words) > 1 and words[1].isdecimal() else 0

    @property
    def min_free_bytes(self) -> int:
        """What the kernel keeps free for itself (vm.min_free_kbytes)."""
        text = next(iter(_lines(self.proc / "sys/vm/min_free_kbytes")), "")
        return int(text) * 1024 if text.isdecimal() else 0

    def unit_state(self, unit: str) -> str:
        """Return what systemd says of a unit, such as `active`; empty where there is no systemd."""
        return self.program("systemctl", "is-active", unit).strip()

    def unit_start(self, unit: str) -> str:
        """Return whether a unit starts with the machine, such as `enabled`; empty where there is no systemd."""
        return self.program("systemctl", "is-enabled", unit).strip()

    def program(self, name: str, *arguments: str) -> str:
        """Return what a program of this machine prints; empty where it isn't here or hangs."""
        path = shutil.which(name, path=self.variables.get("PATH"))
        if path is None:
            return ""
        try:
            done = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=_PROGRAM_S, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError:
        return []


def _is_display(device: Path) -> bool:
    """Say whether a PCI device is a display or 3D controller: NVIDIA makes network and sound devices too."""
    kind = next(iter(_lines(device / "class")), "")
    return kind.startswith("0x03")

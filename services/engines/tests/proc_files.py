"""A /proc of a test's own: what it says of memory, and what is written to it."""

from dataclasses import dataclass
from pathlib import Path

GIB = 2**30


@dataclass(frozen=True)
class ProcFolder:
    """Memory as a test sets it, and the two files that the host guard writes to."""

    folder: Path

    def set_memory(self, *, free_gib: float, available_gib: float = 60, cached_gib: float = 40) -> None:
        sizes = {"MemTotal": 120.0, "MemFree": free_gib, "MemAvailable": available_gib, "Cached": cached_gib}
        lines = [f"{name}: {int(size * GIB / 1024)} kB\n" for name, size in sizes.items()]
        (self.folder / "meminfo").write_text("".join(lines))

    @property
    def drop_caches(self) -> Path:
        return self.folder / "sys/vm/drop_caches"

    @property
    def compact_memory(self) -> Path:
        return self.folder / "sys/vm/compact_memory"

    @property
    def dropped(self) -> bool:
        """Whether caches were dropped since this was last asked."""
        written = self.drop_caches.read_text()
        self.drop_caches.write_text("")
        return written == "3"


def proc_folder(parent: Path) -> ProcFolder:
    """Make one, with much memory free."""
    found = ProcFolder(parent / "proc")
    found.drop_caches.parent.mkdir(parents=True)
    found.drop_caches.write_text("")
    found.compact_memory.write_text("")
    found.set_memory(free_gib=50)
    return found

"""What a pull is asked for, what it plans, and what it says on the way."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.engines.files.checksums import DEFAULT_MB_PER_S
from services.engines.files.hub import PullError
from services.engines.files.hub_cache import HubFile
from services.engines.files.transfer import Patience

_SPARE_BYTES = 1_000_000_000
PLAIN_LIMIT_BYTES = 50_000_000_000
"""The hub sends larger files by its own protocol alone, which its library speaks."""


@dataclass(frozen=True)
class Progress:
    """What is going on; `all_total` and `all_done` are bytes of the whole model where that is known."""

    status: str
    digest: str = ""
    total: int | None = None
    completed: int | None = None
    all_total: int | None = None
    all_done: int | None = None

    def document(self) -> dict[str, Any]:
        """Return it in the form of Ollama's `/api/pull`."""
        document: dict[str, Any] = {"status": self.status}
        if self.digest:
            document |= {"digest": self.digest, "total": self.total, "completed": self.completed}
        return document


OnProgress = Callable[[Progress], None]


@dataclass(frozen=True)
class PullOptions:
    """How to pull.

    Args:
        revision: a branch, tag or commit instead of the recipe's; empty for the one that is pinned.
        upgrade: ask the hub where the branch is now.
        verify: read all files again, also those that are known to be right.
        checksum_mb_per_s: 0 is as fast as the disk goes.
    """

    revision: str = ""
    upgrade: bool = False
    verify: bool = False
    checksum_mb_per_s: float = DEFAULT_MB_PER_S
    patience: Patience = field(default_factory=Patience)
    plain_limit_bytes: int = PLAIN_LIMIT_BYTES


@dataclass(frozen=True)
class DownloadPlan:
    """What is to be done for a model.

    Args:
        files: all that it needs.
        missing: of them, those whose contents are not whole here.
        needed_bytes: still to be fetched.
        folder: where they go.
        free_bytes: on that disk.
    """

    revision: str
    commit: str
    files: tuple[HubFile, ...]
    missing: tuple[HubFile, ...]
    needed_bytes: int
    folder: Path
    free_bytes: int

    @property
    def total_bytes(self) -> int:
        """The size of the whole model."""
        return sum(file.size_bytes for file in self.files)


def free_bytes(folder: Path) -> int:
    """Return what is free on the disk of a folder, which need not exist yet."""
    there = folder
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free


def check_room(model_id: str, needed_bytes: int, folder: Path, free: int, variable: str) -> None:
    """Check that a model's files fit on a disk, with a little to spare for everybody else.

    Raises:
        PullError: they don't; with what is needed, what is free, where, and which variable moves it.
    """
    if needed_bytes and needed_bytes + _SPARE_BYTES > free:
        raise PullError(
            f"{model_id} needs {gigabytes(needed_bytes)} at {folder}, and {gigabytes(_SPARE_BYTES)} to spare; "
            f"{gigabytes(free)} are free. Delete something (`sparkstack models`, `sparkstack rm MODEL`), or name a "
            f"folder on another disk: {variable}=/path",
            "no_space",
        )


def gigabytes(count: float) -> str:
    """Return a number of bytes as people say it."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} bytes"

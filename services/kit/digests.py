"""Digests of large files, read with pauses. Standard library alone: scripts use it before anything is installed.

Hashing 110 GB at full speed while the GPU is idle preceded power-offs of DGX Sparks, so what checks whole disks goes
at a bounded rate, and gives the page cache back, which unified memory would otherwise miss.
"""

import hashlib
import io
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from typing_extensions import Buffer

VARIABLE = "SPARKSTACK_CHECKSUM_MB_PER_S"
DEFAULT_MB_PER_S = 200.0
_PIECE_BYTES = 4 * 1024 * 1024


def rate(variables: "os._Environ[str] | dict[str, str]" = os.environ) -> float:
    """Return the rate that the environment names, in MB of 1,000,000 bytes a second; 0 is no limit.

    Raises:
        ValueError: it is no number.
    """
    text = variables.get(VARIABLE, "").strip()
    try:
        found = float(text) if text else DEFAULT_MB_PER_S
    except ValueError:
        found = -1.0
    if not 0 <= found < float("inf"):  # neither is "nan"
        raise ValueError(f"{VARIABLE}={text}: it must be a number of MB, 0 for no limit")
    return found


def gentle_digest(
    path: Path,
    mb_per_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> str:
    """Return a file's sha256, read at most so fast.

    Raises:
        OSError: it can't be read.
    """
    digest = hashlib.sha256()
    started, done = clock(), 0
    with path.open("rb", buffering=0) as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
            _forget(file, done, len(piece))
            done += len(piece)
            ahead_s = done / (mb_per_s * 1e6) - (clock() - started) if mb_per_s else 0.0
            if ahead_s > 0:
                sleep(ahead_s)
    return digest.hexdigest()


def _forget(file: BinaryIO, start: int, length: int) -> None:
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), start, length, os.POSIX_FADV_DONTNEED)


class DigestWriter(io.RawIOBase):
    """A file that is written, and digested as it is."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__()
        self._file = file
        self._digest = hashlib.sha256()
        self.size_bytes = 0

    def writable(self) -> bool:
        """Say that it is written to."""
        return True

    def write(self, data: "Buffer") -> int:
        """Write a piece; returns its length in bytes."""
        piece = memoryview(data).cast("B")
        self._file.write(piece)
        self._digest.update(piece)
        self.size_bytes += len(piece)
        return len(piece)

    @property
    def sha256(self) -> str:
        """The digest of all that was written so far."""
        return self._digest.hexdigest()

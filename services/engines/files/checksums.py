"""Checksums of model files: read in bounded pieces with pauses, and no file twice.

Why the pauses: on DGX Sparks, hashing 110 GB at full speed while the GPU was idle preceded power-offs. A GB10 reads
and hashes more than 1 GB a second. The default of 200 MB a second keeps storage and one core mostly idle, and checks a
22 GB model in two minutes; most files never come here, because their bytes are hashed as they are downloaded.

Why the page cache is given back: what was read stays in memory as page cache, and on unified memory CUDA counts only
free pages, so that a checksum of 110 GB would leave no memory that an engine's start can see.
"""

import hashlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from services.kit.files import read_json, write_json

DEFAULT_MB_PER_S = 200.0
_PIECE_BYTES = 4 * 1024 * 1024
_LARGE_BYTES = 1_000_000_000
_SHA256_DIGITS = 64


class Hash(Protocol):
    """What of hashlib's objects is used."""

    def update(self, data: bytes, /) -> None:
        """Take in bytes."""

    def hexdigest(self) -> str:
        """Return the digest so far."""


class Interrupted(Exception):
    """Somebody asked to stop."""


def new_hash(expected: str, size_bytes: int) -> Hash:
    """Return the hash that makes digests like `expected`: a sha256, or the sha1 by which git names a file."""
    if len(expected) == _SHA256_DIGITS:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\x00" % size_bytes, usedforsecurity=False)


def label(digest: str) -> str:
    """Return a digest with the name of its algorithm before it."""
    return f"{'sha256' if len(digest) == _SHA256_DIGITS else 'sha1'}:{digest}"


class Throttle:
    """A rate for all threads together; 0 is no limit."""

    def __init__(
        self,
        mb_per_s: float = DEFAULT_MB_PER_S,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bytes_per_s = mb_per_s * 1e6
        self._clock = clock
        self._lock = threading.Lock()
        self._free_at = 0.0

    def delay_s(self, count: int) -> float:
        """Take `count` bytes and return the seconds to wait before the next are taken."""
        if self._bytes_per_s <= 0:
            return 0.0
        with self._lock:
            now = self._clock()
            self._free_at = max(self._free_at, now) + count / self._bytes_per_s
            return self._free_at - now


def hash_file(
    path: Path,
    expected: str,
    throttle: Throttle,
    *,
    stop: threading.Event | None = None,
    on_bytes: Callable[[int], None] = lambda _count: None,
) -> str:
    """Return the digest of a file, in the algorithm of `expected`.

    Args:
        stop: set by somebody who wants this to end.
        on_bytes: is told how many bytes have been read so far.

    Raises:
        Interrupted: when `stop` was set.
        OSError: when the file can't be read.
    """
    stop = stop or threading.Event()
    done = 0
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        digest = new_hash(expected, size)
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
            if size >= _LARGE_BYTES:
                forget_pages(file.fileno(), done, len(piece))
            done += len(piece)
            on_bytes(done)
            if stop.wait(throttle.delay_s(len(piece))):
                raise Interrupted
    return digest.hexdigest()


def forget_pages(descriptor: int, start: int, length: int) -> None:
    """Let the kernel drop what it keeps in memory of a part of a file, where it knows how."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, start, length, os.POSIX_FADV_DONTNEED)


class Verified:
    """Which files had which digest, for as long as their size and time of change stay the same; a JSON file."""

    def __init__(self, record: Path) -> None:
        self._record = record
        self._lock = threading.Lock()

    def knows(self, path: Path, digest: str) -> bool:
        """Say whether a file was found to have a digest, and has not changed since."""
        return bool(read_json(self._record).get(str(path)) == _facts(path, digest))

    def paths(self) -> list[Path]:
        """Return all files of which something is known."""
        return [Path(name) for name in read_json(self._record)]

    def add(self, path: Path, digest: str) -> None:
        """Note that a file has a digest."""
        with self._lock:
            write_json(self._record, {**read_json(self._record), str(path): _facts(path, digest)})

    def forget(self, *paths: Path) -> None:
        """Drop what is known of files, which are gone or wrong."""
        names = {str(path) for path in paths}
        with self._lock:
            known = read_json(self._record)
            if names & known.keys():
                write_json(self._record, {name: facts for name, facts in known.items() if name not in names})


def _facts(path: Path, digest: str) -> list[Any]:
    found = path.stat()
    return [digest, found.st_size, found.st_mtime_ns]

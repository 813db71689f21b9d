"""A file's bytes, read once and only where that is safe."""

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from services.rag.loading.limits import Limits, LoadError, too_many_bytes

_NOT_FILES = (
    (stat.S_ISLNK, "a symbolic link", "give the file that it points to"),
    (stat.S_ISDIR, "a folder", "give the files in it"),
    (stat.S_ISFIFO, "a pipe", "write its content to a file first"),
    (stat.S_ISSOCK, "a socket", "give a file"),
    (stat.S_ISCHR, "a device", "give a file"),
    (stat.S_ISBLK, "a device", "give a file"),
)


@dataclass(frozen=True)
class Source:
    """What a loader gets: the file's clean name, its bytes and the limits."""

    name: str
    data: bytes
    limits: Limits


def read_source(path: Path, name: str, limits: Limits) -> Source:
    """Return the bytes of a regular file.

    Looked at by `lstat` and opened without following a link or waiting for a pipe's writer, so that nothing outside
    of the folder is read in its place, and a pipe doesn't hold the reader up.

    Raises:
        LoadError: `unreadable`, `empty` or `too_large`.
    """
    try:
        _refuse_special(name, os.lstat(path).st_mode)
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise LoadError("unreadable", f"{name!r} can't be opened: {reason}; check its path and rights") from error
    with os.fdopen(descriptor, "rb", buffering=0):
        status = os.fstat(descriptor)
        _refuse_special(name, status.st_mode)
        if status.st_size > limits.max_bytes:
            raise too_many_bytes(name, status.st_size, limits)
        try:
            data = _read(descriptor, limits.max_bytes + 1)
        except OSError as error:
            raise LoadError("unreadable", f"{name!r} can't be read: {error.strerror}; check the disk") from error
    if len(data) > limits.max_bytes:
        raise too_many_bytes(name, len(data), limits)
    if not data:
        raise LoadError("empty", f"{name!r} is empty (0 bytes); leave it out, or check how it was written")
    return Source(name, data, limits)


def _read(descriptor: int, bound: int) -> bytes:
    parts: list[bytes] = []
    while bound > 0 and (part := os.read(descriptor, min(bound, 1 << 24))):
        parts.append(part)
        bound -= len(part)
    return b"".join(parts)


def _refuse_special(name: str, mode: int) -> None:
    for matches, what, advice in _NOT_FILES:
        if matches(mode):
            raise LoadError("unreadable", f"{name!r} is {what}, not a file; {advice}")

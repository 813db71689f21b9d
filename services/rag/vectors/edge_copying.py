"""Copies of a collection's files that keep their holes: the engine reserves 200 MB for a collection and uses a few."""

import errno
import os
import shutil
from pathlib import Path

_PART = 8 * 1024 * 1024


def copy_tree(source: str, target: str) -> None:
    """Copy a folder; what is a hole in a file stays one, where the file system tells."""
    shutil.copytree(source, target, copy_function=_copy_file)


def _copy_file(source: str, target: str) -> str:
    with Path(source).open("rb") as original, Path(target).open("wb") as copy:
        size = os.fstat(original.fileno()).st_size
        copy.truncate(size)
        start = 0
        while (start := _data_after(original.fileno(), start, size)) < size:
            end = os.lseek(original.fileno(), start, os.SEEK_HOLE) if hasattr(os, "SEEK_HOLE") else size
            original.seek(start)
            copy.seek(start)
            while start < end and (part := original.read(min(_PART, end - start))):
                copy.write(part)
                start += len(part)
            start = end
    return target


def _data_after(file: int, start: int, size: int) -> int:
    """Return where the next data begin; the file's size where there are none."""
    if not hasattr(os, "SEEK_DATA"):
        return start
    try:
        return os.lseek(file, start, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size
        raise

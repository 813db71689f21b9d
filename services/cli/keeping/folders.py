"""Parts of the state folder as tar files, and back."""

import shutil
import tarfile
from pathlib import Path
from typing import BinaryIO

from services.cli.home import Home

# Of use only while the stack runs, made anew at each start, or known from elsewhere.
_PASSING = frozenset(
    {
        "logs",
        "run",
        "lock",
        "stack.json",
        "catalogue.json",
        "supervisord.conf",
        "verified.json",
        "backups",
        "images.json",
    }
)
# Can be got again by the command that got it, and large.
CACHES = {"models": "converted models (`sparkstack pull` makes them again)"}
ENV = ".env"


def kept_entries(home: Home) -> list[Path]:
    """Return what of the state folder a backup keeps, and .env."""
    found = sorted(home.state.iterdir()) if home.state.is_dir() else []
    kept = [path for path in found if path.name not in _PASSING and path.name not in CACHES]
    kept = [path for path in kept if path.is_file() or path.is_dir()]
    return [*kept, *([home.env_file] if home.env_file.is_file() else [])]


def left_out(home: Home) -> list[str]:
    """Return what of the state folder is not kept on purpose, a sentence each."""
    return [sentence for name, sentence in CACHES.items() if (home.state / name).is_dir()]


def write_tar(entry: Path, file: BinaryIO) -> None:
    """Write a file or folder under its own name; sockets and the like are left out."""
    with tarfile.open(fileobj=file, mode="w|") as tar:
        tar.add(entry.resolve() if entry.is_symlink() else entry, arcname=entry.name, filter=_plain)


def read_tar(entry: Path, archive: Path) -> None:
    """Replace a file or folder by what a tar file holds under its name, or leave it as it was.

    Raises:
        OSError, tarfile.TarError: it can't be unpacked.
    """
    beside = entry.with_name(f".{entry.name}.restored")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(mode=0o700)
    try:
        with tarfile.open(archive, mode="r|*") as tar:
            tar.extractall(beside, filter="data")
        remove(entry)
        (beside / entry.name).rename(entry)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def remove(entry: Path) -> None:
    """Remove a file or a folder, where it is there."""
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink(missing_ok=True)


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return member if member.isreg() or member.isdir() or member.issym() or member.islnk() else None

"""A backup as it lies on a disk: a folder with one tar file for each part, and a manifest that was written last."""

import gzip
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import click

from services import __version__
from services.kit.digests import DigestWriter, gentle_digest
from services.kit.files import read_json, write_json

FORMAT = 1
MANIFEST = "manifest.json"
_UNFINISHED = ".unfinished"

Kind = Literal["volume", "folder"]


@dataclass(frozen=True)
class Part:
    """One tar file.

    Args:
        kind: `volume`, with its name in the compose file; `folder`, an entry of the state folder; both by `name`.
        labels: of a volume.
    """

    kind: Kind
    name: str
    file: str
    size_bytes: int
    sha256: str
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """What a backup is of.

    Args:
        made_at: in UTC, as ISO 8601 writes it.
        left_out: what was not kept on purpose, a sentence each.
    """

    mode: str
    project: str
    version: str
    made_at: str
    parts: tuple[Part, ...]
    left_out: tuple[str, ...] = ()

    @property
    def size_bytes(self) -> int:
        """The bytes of all parts."""
        return sum(part.size_bytes for part in self.parts)


class BackupError(click.ClickException):
    """A backup can't be made, or can't be used; the message says why and what to do."""


class BackupWriter:
    """Writes a backup; until `finish` it lies under another name, so that a half one is never taken for a whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._unfinished = folder.with_name(folder.name + _UNFINISHED)
        self._parts: list[Part] = []
        if folder.exists():
            raise BackupError(f"{folder} is there already; name another folder: --to /path")
        try:
            shutil.rmtree(self._unfinished, ignore_errors=True)
            self._unfinished.mkdir(mode=0o700, parents=True)
        except OSError as error:
            raise BackupError(f"{folder} can't be made: {error.strerror}; name another folder: --to /path") from None

    def add(
        self, kind: Kind, name: str, write: Callable[[BinaryIO], None], labels: dict[str, str] | None = None
    ) -> Part:
        """Write one part: `write` is given the file.

        Raises:
            BackupError: the disk is full, or the like.
        """
        file_name = f"{kind}-{name.strip('.').replace('/', '_')}.tar.gz"
        path = self._unfinished / file_name
        try:
            with path.open("xb") as file:
                path.chmod(0o600)
                writer = DigestWriter(file)
                # Lightly: indexes are files with large holes, and tar writes each hole out.
                with gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=writer, mtime=0) as packed:
                    write(cast("BinaryIO", packed))
        except OSError as error:
            raise BackupError(f"{name} can't be kept in {self.folder}: {error.strerror or error}") from None
        part = Part(kind, name, file_name, writer.size_bytes, writer.sha256, labels or {})
        self._parts.append(part)
        return part

    def finish(self, mode: str, project: str, left_out: tuple[str, ...]) -> Manifest:
        """Write the manifest, and give the folder its name."""
        made_at = datetime.now(UTC).isoformat(timespec="seconds")
        manifest = Manifest(mode, project, __version__, made_at, tuple(self._parts), left_out)
        write_json(self._unfinished / MANIFEST, {"format": FORMAT, **asdict(manifest)})
        self._unfinished.rename(self.folder)
        return manifest

    def give_up(self) -> None:
        """Remove what was written."""
        shutil.rmtree(self._unfinished, ignore_errors=True)


def read_manifest(folder: Path) -> Manifest:
    """Return what a backup is of.

    Raises:
        BackupError: there is none in the folder, or one that this version can't read.
    """
    document: dict[str, Any] = read_json(folder / MANIFEST)
    if not document:
        hint = "; it was not finished" if folder.name.endswith(_UNFINISHED) else ""
        raise BackupError(f"there is no backup in {folder} (no {MANIFEST}){hint}")
    if document.get("format") != FORMAT:
        raise BackupError(f"{folder} has the format {document.get('format')}; this version reads {FORMAT}")
    try:
        parts = tuple(Part(**part) for part in document["parts"])
        left_out = tuple(document["left_out"])
        return Manifest(
            document["mode"], document["project"], document["version"], document["made_at"], parts, left_out
        )
    except (KeyError, TypeError) as error:
        raise BackupError(f"{folder / MANIFEST} is damaged: {error}") from None


def verify(folder: Path, manifest: Manifest, mb_per_s: float) -> None:
    """Read every part, with pauses, and compare it with the manifest.

    Raises:
        BackupError: one is missing or another one.
    """
    for part in manifest.parts:
        path = folder / part.file
        try:
            found = gentle_digest(path, mb_per_s)
        except OSError as error:
            raise BackupError(f"{path} can't be read: {error.strerror}; the backup can't be used") from None
        if found != part.sha256:
            raise BackupError(f"{path} is damaged (its sha256 is not the manifest's); the backup can't be used")

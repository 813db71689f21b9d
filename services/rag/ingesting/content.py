"""What was uploaded, kept once for each content under its SHA-256. Everything here blocks: it runs in threads."""

import contextlib
import sqlite3
from collections.abc import Iterable
from pathlib import Path


class ContentStore:
    """Files by hash in one folder.

    Files come and go in the registry's writing thread alone, beside the rows that name them: a content that a row
    names is there, and one that none names is gone, whatever else happens at the same time.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def incoming(self) -> Path:
        """Where uploads grow until they are whole."""
        return self._folder / "incoming"

    def open(self) -> None:
        """Make the folders, and remove what uploads of an earlier process have left."""
        self.incoming.mkdir(mode=0o700, parents=True, exist_ok=True)
        for unfinished in self.incoming.iterdir():
            unfinished.unlink()

    def path(self, content: str) -> Path:
        """Return where a content is."""
        return self._folder / content[:2] / content

    def adopt(self, uploaded: Path, content: str) -> None:
        """Move an upload to its place; where the same content is there already, the upload goes."""
        place = self.path(content)
        if place.exists():
            uploaded.unlink()
            return
        place.parent.mkdir(mode=0o700, exist_ok=True)
        uploaded.replace(place)

    def release(self, connection: sqlite3.Connection, contents: Iterable[str]) -> None:
        """Remove those contents that no row names any more."""
        for content in contents:
            named = connection.execute(
                "SELECT EXISTS (SELECT 1 FROM documents WHERE hash = ?) OR EXISTS (SELECT 1 FROM files WHERE hash = ?)",
                (content, content),
            ).fetchone()
            if not named[0]:
                with contextlib.suppress(FileNotFoundError):
                    self.path(content).unlink()

    def sweep(self, connection: sqlite3.Connection) -> int:
        """Remove the contents that no row names: a process that died may leave one. Return how many there were."""
        named = {row[0] for row in connection.execute("SELECT hash FROM documents UNION SELECT hash FROM files")}
        orphans = [
            path
            for folder in self._folder.iterdir()
            if folder.is_dir() and folder != self.incoming
            for path in folder.iterdir()
            if path.name not in named
        ]
        for path in orphans:
            path.unlink()
        return len(orphans)

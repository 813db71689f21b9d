"""Files that were uploaded by OpenAI's API and belong to no collection yet, or to several."""

import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from services.kit.errors import NotFound
from services.rag.ingesting.content import ContentStore
from services.rag.ingesting.database import Database
from services.rag.ingesting.desk import Desk
from services.rag.ingesting.intake import order_removal
from services.rag.ingesting.paging import Cursor, Page, read_page
from services.rag.ingesting.rows import SHARED
from services.rag.ports import Caller
from services.rag.registry import insert, new_id


@dataclass(frozen=True)
class StoredFile:
    """A file: `expires` is a Unix time, 0 for never."""

    id: str
    tenant: str
    filename: str
    purpose: str
    hash: str
    bytes: int
    created: int
    expires: int = 0


class Files:
    """Each caller's own files."""

    def __init__(self, database: Database, content: ContentStore, desk: Desk) -> None:
        self._database = database
        self._content = content
        self._desk = desk

    async def add(
        self,
        caller: Caller,
        *,
        filename: str,
        purpose: str,
        uploaded: Path,
        content: str,
        size: int,
        expires_s: int = 0,
    ) -> StoredFile:
        """Keep an upload."""
        now = int(time.time())
        file = StoredFile(
            new_id("file-"), caller.name, filename, purpose, content, size, now, now + expires_s if expires_s else 0
        )

        def work(connection: sqlite3.Connection) -> None:
            self._content.adopt(uploaded, content)
            insert(connection, "files", file.__dict__)

        await self._database.write(work)
        return file

    async def get(self, caller: Caller, identifier: str) -> StoredFile:
        """Return a file of this caller, or the content of a document that it sees.

        Raises:
            NotFound
        """

        def work(connection: sqlite3.Connection) -> StoredFile:
            row = connection.execute(
                "SELECT * FROM files WHERE id = ? AND tenant = ?", (identifier, caller.name)
            ).fetchone()
            if row is not None:
                return _file(row)
            document = connection.execute(
                "SELECT * FROM documents WHERE id = ? AND tenant IN (?, ?) AND state != 'deleting'",
                (identifier, caller.name, SHARED),
            ).fetchone()
            if document is None:
                raise NotFound(f"there is no file {identifier!r}; GET /v1/files lists yours")
            return StoredFile(
                document["id"],
                document["tenant"],
                document["name"],
                "user_data",
                document["hash"],
                document["bytes"],
                document["created"],
            )

        return await self._database.read(work)

    async def several(self, caller: Caller, identifiers: list[str]) -> list[StoredFile]:
        """Return files in the order that they are named in.

        Raises:
            NotFound: for the first that is not there.
        """
        return [await self.get(caller, identifier) for identifier in identifiers]

    async def page(self, caller: Caller, cursor: Cursor, purpose: str = "") -> Page[StoredFile]:
        """Return a page of a caller's files."""
        where = "tenant = ? AND purpose = ?" if purpose else "tenant = ?"
        values = [caller.name, purpose] if purpose else [caller.name]

        def work(connection: sqlite3.Connection) -> Page[StoredFile]:
            page = read_page(connection, "files", where, values, cursor)
            return Page([_file(row) for row in page.data], page.has_more)

        return await self._database.read(work)

    async def remove(self, caller: Caller, identifier: str) -> None:
        """Remove a file, and the documents that were made of it, in every collection.

        Raises:
            NotFound
            VectorStoreUnavailable
        """

        def work(connection: sqlite3.Connection) -> tuple[str, dict[str, list[str]]] | None:
            row = connection.execute(
                "SELECT hash FROM files WHERE id = ? AND tenant = ?", (identifier, caller.name)
            ).fetchone()
            if row is None:
                return None
            return row["hash"], delete_file(connection, identifier)

        found = await self._database.write(work)
        if found is None:
            raise NotFound(
                f"there is no file {identifier!r} of yours; GET /v1/files lists them. A document of a collection goes "
                "with DELETE /v1/collections/{name}/documents/{id}"
            )
        content, documents = found
        for collection, several in documents.items():
            await self._desk.remove_from(collection, several)
        await self._desk.pipeline.release([content])

    def path(self, file: StoredFile) -> Path:
        """Return where a file's content is."""
        return self._content.path(file.hash)


def delete_file(connection: sqlite3.Connection, identifier: str) -> dict[str, list[str]]:
    """Remove a file's row and order its documents' removal; return these by collection."""
    connection.execute("DELETE FROM files WHERE id = ?", (identifier,))
    rows = connection.execute("SELECT collection, id FROM documents WHERE file = ?", (identifier,)).fetchall()
    documents: dict[str, list[str]] = {}
    for row in rows:
        documents.setdefault(row["collection"], []).append(row["id"])
    for collection, several in documents.items():
        order_removal(connection, collection, several)
    return documents


def _file(row: sqlite3.Row) -> StoredFile:
    return StoredFile(**{name: row[name] for name in row.keys() if name != "seq"})  # noqa: SIM118 - a Row

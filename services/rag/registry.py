"""The collections: who made them, how they cut and find, what of them is searchable. Implements `Library`."""

import json
import re
import secrets
import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from services.kit.errors import InvalidRequest
from services.rag.errors import CollectionNotFound
from services.rag.ingesting.database import Database
from services.rag.ingesting.paging import Cursor, Page, read_page
from services.rag.library import ChunkOptions, Collection

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_DAY_S = 86_400
_TOUCH_S = 60


@dataclass(frozen=True)
class Record:
    """A collection, and what OpenAI's vector stores know beside it.

    Args:
        title: as its maker wrote it; `collection.name` is what a model can be called of it.
        last_active: when it was last searched or written, to the minute.
        expires_days: days after that at which it expires; 0: never.
        state: `live`, `expired` or `deleting`.
    """

    collection: Collection
    title: str
    last_active: int
    expires_days: int
    state: str

    @property
    def expires_at(self) -> int | None:
        """When it expires, if nobody uses it; None: never."""
        return self.last_active + self.expires_days * _DAY_S if self.expires_days else None


@dataclass(frozen=True)
class Counts:
    """What a collection holds, as one caller sees it."""

    ready: int = 0
    in_progress: int = 0
    failed: int = 0
    cancelled: int = 0
    searchable: int = 0
    chunks: int = 0
    tokens: int = 0
    bytes: int = 0

    @property
    def total(self) -> int:
        """All documents, whatever has become of them."""
        return self.ready + self.in_progress + self.failed + self.cancelled


_COUNTS = """
    SELECT collection,
        SUM(state = 'ready') ready, SUM(state IN ('queued', 'working')) in_progress, SUM(state = 'failed') failed,
        SUM(state IN ('cancelling', 'cancelled')) cancelled, SUM(live_version != '') searchable,
        SUM(chunks) chunks, SUM(tokens) tokens, SUM(CASE WHEN live_version != '' THEN bytes ELSE 0 END) bytes
    FROM documents WHERE state != 'deleting'
"""


class Registry:
    """The table of collections."""

    def __init__(self, database: Database, *, now: Callable[[], float] = time.time) -> None:
        self._database = database
        self._now = now

    async def collection(self, name: str) -> Collection:
        """Return the collection of this name or id.

        Raises:
            CollectionNotFound: naming those that there are.
        """
        return (await self.record(name)).collection

    async def collections(self) -> list[Collection]:
        """Return all, the oldest first."""
        return [record.collection for record in await self.records()]

    async def searchable(self) -> list[Collection]:
        """Return those with at least one document that can be found, the oldest first: each is a model `rag/<name>`."""
        counts = await self.all_counts()
        return [
            collection
            for collection in await self.collections()
            if collection.id in counts and counts[collection.id].searchable
        ]

    async def record(self, name: str) -> Record:
        """Return the collection of this name or id, with what else is known of it.

        Raises:
            CollectionNotFound
        """
        return await self._database.read(lambda connection: find(connection, name))

    async def records(self) -> list[Record]:
        """Return all that are not on their way out, the oldest first."""
        return await self._database.read(_live_records)

    async def page(self, cursor: Cursor) -> Page[Record]:
        """Return a page of all collections."""

        def work(connection: sqlite3.Connection) -> Page[Record]:
            page = read_page(connection, "collections", "state != 'deleting'", (), cursor)
            return Page([_record(row) for row in page.data], page.has_more)

        return await self._database.read(work)

    async def counts(self, record: Record, tenant: str | None = None) -> Counts:
        """Return what a collection holds; of one tenant where it is named."""

        def work(connection: sqlite3.Connection) -> Counts:
            bound = "AND tenant = ?" if tenant is not None else ""
            values = [record.collection.id, *([tenant] if tenant is not None else [])]
            row = connection.execute(f"{_COUNTS} AND collection = ? {bound} GROUP BY collection", values).fetchone()
            return _counts(row) if row else Counts()

        return await self._database.read(work)

    async def all_counts(self) -> dict[str, Counts]:
        """Return what each collection holds, by its id; an empty one may be missing."""

        def work(connection: sqlite3.Connection) -> dict[str, Counts]:
            return {row["collection"]: _counts(row) for row in connection.execute(f"{_COUNTS} GROUP BY collection")}

        return await self._database.read(work)

    async def free_name(self, title: str) -> str:
        """Return a name that a new collection of this title can have: the title itself where that is one and free."""

        def work(connection: sqlite3.Connection) -> str:
            stem = re.sub(r"[^A-Za-z0-9._-]+", "-", title).strip("-._")[:56] or "collection"
            taken = {row["name"] for row in connection.execute("SELECT name FROM collections")}
            names = [stem, *(f"{stem}-{number}" for number in range(2, len(taken) + 3))]
            return next(name for name in names if name not in taken)

        return await self._database.read(work)

    async def add(self, collection: Collection, *, title: str = "", expires_days: int = 0) -> Record:
        """Write down a new collection.

        Raises:
            InvalidRequest: there is one of this name.
        """

        def work(connection: sqlite3.Connection) -> Record:
            try:
                _insert(connection, collection, title or collection.name, int(self._now()), expires_days)
            except sqlite3.IntegrityError:
                raise InvalidRequest(
                    f"there is a collection {collection.name!r} already; add documents to it, or take another name",
                    param="name",
                ) from None
            return find(connection, collection.id)

        return await self._database.write(work)

    async def change(self, identifier: str, changes: Mapping[str, Any]) -> Record:
        """Change columns of a collection: title, metadata, preset, model, expires_days, chunking, name."""
        columns = dict(changes)
        if "metadata" in columns:
            columns["metadata"] = json.dumps(columns["metadata"])
        if options := columns.pop("chunking", None):
            columns |= {
                "chunker": options.chunker,
                "chunk_tokens": options.tokens,
                "overlap_tokens": options.overlap_tokens,
            }

        def work(connection: sqlite3.Connection) -> Record:
            if columns:
                assignments = ", ".join(f"{column} = ?" for column in columns)
                connection.execute(
                    f"UPDATE collections SET {assignments} WHERE id = ?",  # noqa: S608 - columns are this module's
                    [*columns.values(), identifier],
                )
            return find(connection, identifier)

        return await self._database.write(work)

    async def touch(self, record: Record) -> None:
        """Note that a collection was used; at most once a minute."""
        now = int(self._now())
        if now - record.last_active < _TOUCH_S:
            return
        await self._database.write(
            lambda connection: connection.execute(
                "UPDATE collections SET last_active = ? WHERE id = ?", (now, record.collection.id)
            )
        )


def new_id(prefix: str) -> str:
    """Return an id that nobody can guess."""
    return f"{prefix}{secrets.token_hex(12)}"


def find(connection: sqlite3.Connection, name: str) -> Record:
    """Return the collection of this name or id.

    Raises:
        CollectionNotFound
    """
    row = connection.execute(
        "SELECT * FROM collections WHERE (name = ? OR id = ?) AND state != 'deleting'", (name, name)
    ).fetchone()
    if row is None:
        names = [record.collection.name for record in _live_records(connection)]
        there = f"there are {', '.join(names[:20])}" if names else "there is none yet"
        raise CollectionNotFound(
            f"there is no collection {name!r}; {there}. `sparkstack rag ingest PATH --collection {name}` makes one"
        )
    return _record(row)


def _live_records(connection: sqlite3.Connection) -> list[Record]:
    rows = connection.execute("SELECT * FROM collections WHERE state != 'deleting' ORDER BY seq")
    return [_record(row) for row in rows]


def _insert(connection: sqlite3.Connection, made: Collection, title: str, now: int, expires_days: int) -> None:
    columns = {
        "id": made.id,
        "name": made.name,
        "title": title,
        "owner": made.owner,
        "visibility": made.visibility,
        "embedding_model": made.embedding_model,
        "dimensions": made.dimensions,
        "chunker": made.chunking.chunker,
        "chunk_tokens": made.chunking.tokens,
        "overlap_tokens": made.chunking.overlap_tokens,
        "quantization": made.quantization,
        "preset": made.preset,
        "model": made.model,
        "metadata": json.dumps(dict(made.metadata)),
        "created": made.created or now,
        "last_active": now,
        "expires_days": expires_days,
    }
    insert(connection, "collections", columns)


def insert(connection: sqlite3.Connection, table: str, columns: Mapping[str, Any]) -> None:
    """Insert one row; table and columns are this service's own names."""
    places = ", ".join("?" * len(columns))
    connection.execute(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places})", list(columns.values()))  # noqa: S608


def _record(row: sqlite3.Row) -> Record:
    collection = Collection(
        id=row["id"],
        name=row["name"],
        owner=row["owner"],
        visibility=row["visibility"],
        embedding_model=row["embedding_model"],
        dimensions=row["dimensions"],
        chunking=ChunkOptions(row["chunker"], row["chunk_tokens"], row["overlap_tokens"]),
        quantization=row["quantization"],
        preset=row["preset"],
        model=row["model"],
        metadata=json.loads(row["metadata"]),
        revision=row["revision"],
        created=row["created"],
    )
    return Record(collection, row["title"], row["last_active"], row["expires_days"], row["state"])


def _counts(row: sqlite3.Row) -> Counts:
    return Counts(**{name: row[name] or 0 for name in row.keys() if name != "collection"})  # noqa: SIM118 - a Row

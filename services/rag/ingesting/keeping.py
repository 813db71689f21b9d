"""Collections come, go and expire; what the registry says and what the store has are kept together."""

import asyncio
import sqlite3
import time
from collections.abc import Callable

import structlog

from services.rag.errors import VectorStoreUnavailable
from services.rag.ingesting import queue
from services.rag.ingesting.content import ContentStore
from services.rag.ingesting.database import Database
from services.rag.ingesting.files import delete_file
from services.rag.ingesting.intake import order_removal
from services.rag.ingesting.jobs import close_abandoned
from services.rag.ingesting.pipeline import Pipeline
from services.rag.library import Collection
from services.rag.registry import Record, Registry
from services.rag.vectors import CollectionSpec, VectorStore

_log = structlog.get_logger("ingest")
_SWEEP_S = 60.0
_DROP_S = 10.0


class Keeper:
    """Makes and drops collections; on a background task, puts right what a stop in the middle has left."""

    def __init__(
        self,
        *,
        registry: Registry,
        database: Database,
        content: ContentStore,
        store: VectorStore,
        pipeline: Pipeline,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._registry = registry
        self._database = database
        self._content = content
        self._store = store
        self._pipeline = pipeline
        self._now = now
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Reconcile with the store as soon as it answers, then let the pipeline work; sweep once a minute."""
        self._tasks = {asyncio.create_task(self._begin()), asyncio.create_task(self._sweep_for_ever())}

    async def stop(self) -> None:
        """Stop in the middle; the next start goes on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def create(self, collection: Collection, *, title: str = "", expires_days: int = 0) -> Record:
        """Make a collection, in the store first: one that is on the list can be written to.

        Raises:
            InvalidRequest: there is one of this name.
            VectorStoreError
        """
        await self._store.create(collection.id, _layout(collection))
        return await self._registry.add(collection, title=title, expires_days=expires_days)

    async def drop(self, record: Record) -> None:
        """Remove a collection with all that is in it.

        Raises:
            VectorStoreUnavailable: the store is down; the collection is on no list any more, and goes when it is back.
        """
        identifier = record.collection.id

        def mark(connection: sqlite3.Connection) -> None:
            # Its name is free at once.
            connection.execute("UPDATE collections SET state = 'deleting', name = id WHERE id = ?", (identifier,))
            connection.execute("UPDATE documents SET generation = generation + 1 WHERE collection = ?", (identifier,))

        await self._database.write(mark)
        dropping = asyncio.create_task(self._drop(identifier))
        self._tasks.add(dropping)
        dropping.add_done_callback(self._tasks.discard)
        _, late = await asyncio.wait((dropping,), timeout=_DROP_S)
        if late:
            raise VectorStoreUnavailable(
                f"{record.collection.name} is marked as removed, and goes from the vector store when that is back: "
                f"{self._pipeline.patience.waiting_for or 'it is slow'}",
                retry_after_s=5,
            )

    async def sweep(self) -> None:
        """Let go of what has expired: collections that nobody used, files, jobs whose files never came."""
        now = int(self._now())

        contents: list[str] = []

        def work(connection: sqlite3.Connection) -> dict[str, list[str]]:
            close_abandoned(connection)
            ordered: dict[str, list[str]] = {}
            expired = connection.execute(
                "SELECT id FROM collections WHERE state = 'live' AND expires_days > 0 "
                "AND last_active + expires_days * 86400 <= ?",
                (now,),
            ).fetchall()
            for row in expired:
                connection.execute("UPDATE collections SET state = 'expired' WHERE id = ?", (row["id"],))
                rows = connection.execute("SELECT id FROM documents WHERE collection = ?", (row["id"],)).fetchall()
                ordered[row["id"]] = [each["id"] for each in rows]
                order_removal(connection, row["id"], ordered[row["id"]])
            old = "SELECT id, hash FROM files WHERE expires > 0 AND expires <= ?"
            for row in connection.execute(old, (now,)).fetchall():
                contents.append(row["hash"])
                for collection, documents in delete_file(connection, row["id"]).items():
                    ordered.setdefault(collection, []).extend(documents)
            return ordered

        for collection, documents in (await self._database.write(work)).items():
            self._pipeline.discard(collection, documents)
        await self._pipeline.release(contents)

    async def _begin(self) -> None:
        await self._database.write(self._content.sweep)
        await self._pipeline.patience.insist(self._reconcile)
        await self._pipeline.start()
        for identifier in await self._database.read(_unfinished_drops):
            await self._drop(identifier)

    async def _reconcile(self) -> None:
        """Make what the store lacks. Its documents are ingested again: what they are made of is still here."""
        there = set(await self._store.collections())
        for record in await self._registry.records():
            collection = record.collection
            await self._store.create(collection.id, _layout(collection))
            if collection.id not in there:
                lost = await self._database.write(lambda each, name=collection.id: queue.forget_points(each, name))  # type: ignore[misc]
                _log.warning("ingest.points_lost", collection=collection.name, documents=lost)

    async def _drop(self, identifier: str) -> None:
        self._pipeline.discard_all(identifier)
        while True:
            bell = self._pipeline.changes.listen()
            if not self._pipeline.is_busy(identifier):
                break
            await bell.wait()
        await self._pipeline.patience.insist(lambda: self._store.drop(identifier))

        def forget(connection: sqlite3.Connection) -> list[str]:
            rows = connection.execute("SELECT hash FROM documents WHERE collection = ?", (identifier,)).fetchall()
            for table in ("documents", "jobs", "job_items"):
                connection.execute(f"DELETE FROM {table} WHERE collection = ?", (identifier,))  # noqa: S608
            connection.execute("DELETE FROM collections WHERE id = ?", (identifier,))
            return [row["hash"] for row in rows]

        await self._pipeline.release(await self._database.write(forget))

    async def _sweep_for_ever(self) -> None:
        while True:
            await self.sweep()
            await asyncio.sleep(_SWEEP_S)


def _layout(collection: Collection) -> CollectionSpec:
    return CollectionSpec(collection.dimensions, collection.quantization)


def _unfinished_drops(connection: sqlite3.Connection) -> list[str]:
    return [row["id"] for row in connection.execute("SELECT id FROM collections WHERE state = 'deleting'")]

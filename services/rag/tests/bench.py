"""An ingest without HTTP: registry, pipeline and desk over the fakes."""

import asyncio
import hashlib
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.kit.metrics import new_registry
from services.rag.ingesting.content import ContentStore
from services.rag.ingesting.database import Database
from services.rag.ingesting.desk import Desk
from services.rag.ingesting.intake import Accepted, Intake, Received
from services.rag.ingesting.jobs import Job
from services.rag.ingesting.keeping import Keeper
from services.rag.ingesting.paging import Cursor
from services.rag.ingesting.pipeline import Pipeline
from services.rag.ingesting.rows import DocumentRow, tenant_of
from services.rag.ingesting.waiting import Patience
from services.rag.ingesting.writing import ChunkWriter
from services.rag.library import ChunkOptions, Collection, Visibility
from services.rag.metrics import RagMetrics
from services.rag.ports import Caller
from services.rag.registry import Record, Registry, new_id
from services.rag.tests.fakes import FakeEmbedder, MemoryStore, WordReaders, hash_terms
from tests.testkit.server import eventually


class Bench:
    """One service's insides. `store` and `embedder` outlive it: a second bench over the same folder is a restart."""

    def __init__(self, folder: Path, store: MemoryStore, embedder: FakeEmbedder, readers: WordReaders) -> None:
        self.folder = folder
        self.store = store
        self.embedder = embedder
        self.readers = readers
        self.database = Database(folder / "registry.sqlite3")
        self.registry = Registry(self.database)
        self.content = ContentStore(folder / "files")
        metrics = RagMetrics(new_registry())
        patience = Patience(0.005)
        writer = ChunkWriter(store=store, embedder=embedder, sparse=hash_terms, metrics=metrics, patience=patience)
        self.pipeline = Pipeline(
            database=self.database,
            content=self.content,
            store=store,
            readers=readers,
            embed=embedder.embed,
            writer=writer,
            metrics=metrics,
            patience=patience,
            batch=8,
        )
        self.desk = Desk(self.database, self.content, self.pipeline)
        self.keeper = Keeper(
            registry=self.registry, database=self.database, content=self.content, store=store, pipeline=self.pipeline
        )

    async def open(self) -> None:
        await self.database.open()
        await asyncio.to_thread(self.content.open)
        self.keeper.start()

    async def close(self) -> None:
        await self.keeper.stop()
        await self.pipeline.stop()
        await self.database.close()

    async def collection(self, name: str = "handbook", visibility: Visibility = "shared") -> Record:
        model = await self.embedder.model()
        made = Collection(
            new_id("vs_"), name, "ada", model.id, model.dimensions, visibility, ChunkOptions("fixed", 20, 0)
        )
        return await self.keeper.create(made)

    async def send(
        self,
        record: Record,
        files: Mapping[str, str],
        *,
        caller: Caller = Caller("ada"),  # noqa: B008 - frozen
        replace: bool = True,
        sync: bool = False,
        prefix: str = "",
        close: bool = True,
        attributes: Mapping[str, Any] | None = None,
    ) -> tuple[str, Accepted]:
        job = await self.desk.start_job(record.collection, caller, "upload")
        intake = Intake(self.content, record.collection, tenant_of(record.collection, caller.name), job, replace)
        accepted = await self.desk.accept(
            intake, [self.received(name, text, attributes or {}) for name, text in files.items()]
        )
        if close:
            await self.desk.close_job(intake, sync=sync, prefix=prefix)
        return job, accepted

    def received(self, name: str, text: str, attributes: Mapping[str, Any]) -> Received:
        path = self.content.incoming / secrets.token_hex(8)
        path.write_text(text)
        return Received(name, hashlib.sha256(text.encode()).hexdigest(), len(text), path, attributes=attributes)

    async def job(self, record: Record, job: str, caller: Caller = Caller("ada")) -> Job:  # noqa: B008
        return await self.desk.job(record.collection, caller, job)

    async def done(self, record: Record, job: str, caller: Caller = Caller("ada")) -> Job:  # noqa: B008
        """Wait until a job has ended."""
        while not (found := await self.job(record, job, caller)).finished:
            bell = self.pipeline.changes.listen()
            if not (await self.job(record, job, caller)).finished:
                await bell.wait()
        return found

    async def idle(self) -> None:
        """Wait until nothing waits and nothing is under way."""
        await eventually(lambda: not self.pipeline.busy_documents)

    async def rows(self, record: Record, caller: Caller = Caller("ada")) -> list[DocumentRow]:  # noqa: B008
        page = await self.desk.documents(record.collection, caller, Cursor(10_000, "asc"))
        return page.data

    async def check_exact(self, record: Record) -> None:
        """Hold the store to the registry: every point belongs to a live version, and none is missing."""
        points = self.store.points[record.collection.id].values()
        in_store: dict[tuple[str, str], int] = {}
        for point in points:
            key = (point.payload["document_id"], point.payload["version"])
            in_store[key] = in_store.get(key, 0) + 1
        rows = await self.database.read(lambda each: each.execute("SELECT * FROM documents").fetchall())
        written_down = {
            (row["id"], row["live_version"]): row["chunks"]
            for row in rows
            if row["collection"] == record.collection.id and row["live_version"]
        }
        assert in_store == written_down

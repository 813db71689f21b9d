"""The ingest: claim → read and cut → embed → write → clear away what is stale → written down. All stages at once.

What the registry says is the truth; everything here may die at any moment. A claimed document is marked dirty before
the first of its points is written, so that whoever works on it next knows that there may be points to clear away.
"""

import asyncio
import contextlib
from collections.abc import Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import structlog

from services.kit.tracing import Tracer
from services.rag.ingesting import queue
from services.rag.ingesting.batching import Batcher, Run
from services.rag.ingesting.changes import Changes, heard
from services.rag.ingesting.clearing import clear_stale, remove_points
from services.rag.ingesting.content import ContentStore
from services.rag.ingesting.database import Database
from services.rag.ingesting.rows import DocumentRow
from services.rag.ingesting.tracing import IngestTracing
from services.rag.ingesting.waiting import Patience
from services.rag.ingesting.writing import ChunkWriter
from services.rag.library import ChunkOptions
from services.rag.loading.limits import LoadError
from services.rag.metrics import RagMetrics
from services.rag.reading import AsyncEmbed, Cut
from services.rag.registry import find
from services.rag.vectors import VectorStore, VectorStoreError

_log = structlog.get_logger("ingest")
_LOOK_AGAIN_S = 5.0
_REMOVED_AT_ONCE = 256
_BATCHES_WAITING = 8
_WRITERS = 3
_CLAIMED_AHEAD = 16


class Readers(Protocol):
    """Reads and cuts files beside the event loop, `size` at a time (services/rag/reading)."""

    @property
    def size(self) -> int:
        """How many files it works on at the same time."""

    async def read(self, path: Path, name: str, options: ChunkOptions, embed: AsyncEmbed | None = None) -> Cut:
        """Return a file's chunks.

        Raises:
            LoadError: the file can't be read; the message says why.
        """


class Pipeline:
    """Works on the registry's queue for as long as the service runs.

    Args:
        embed: for chunks that are cut by meaning.
        batch: chunks that are embedded and written at a time.
    """

    def __init__(
        self,
        *,
        database: Database,
        content: ContentStore,
        store: VectorStore,
        readers: Readers,
        embed: AsyncEmbed,
        writer: ChunkWriter,
        metrics: RagMetrics,
        patience: Patience,
        batch: int,
        tracer: Tracer | None = None,
    ) -> None:
        self.changes = Changes()
        self.patience = patience
        self._database = database
        self._content = content
        self._store = store
        self._readers = readers
        self._embed = embed
        self._writer = writer
        self._metrics = metrics
        self._tracing = IngestTracing(tracer)
        self._busy: dict[queue.Key, Run | None] = {}
        self._reading = 0
        self._batcher = Batcher(batch, _BATCHES_WAITING * batch, lambda: self._reading)
        self._tasks: set[asyncio.Task[None]] = set()
        self._to_optimize: set[str] = set()

    async def start(self) -> None:
        """Put back what an earlier process had begun, and go to work."""
        resumed = await self._database.write(queue.resume)
        if resumed:
            _log.info("ingest.resumed", documents=resumed)
        self._spawn(self._schedule())
        for _ in range(_WRITERS):
            self._spawn(self._write())

    async def stop(self) -> None:
        """Stop in the middle; the next start goes on."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for run in self._busy.values():
            if run is not None:
                self._tracing.end(run, stopped=True)

    def discard(self, collection: str, documents: Iterable[str]) -> None:
        """Let go of what is under way for these documents: a newer order for them stands in the registry."""
        for document in documents:
            if run := self._busy.get((collection, document)):
                run.void = True
        self._spawn(self._batcher.nudge())
        self.changes.ring()

    def discard_all(self, collection: str) -> None:
        """Let go of everything that is under way in a collection."""
        self.discard(collection, [document for owner, document in self._busy if owner == collection])

    def is_busy(self, collection: str) -> bool:
        """Say whether anything is still under way in a collection."""
        return any(owner == collection for owner, _ in self._busy)

    @property
    def busy_documents(self) -> int:
        """How many documents something is under way for."""
        return len(self._busy)

    def written(self, collection: str, documents: Iterable[str]) -> int:
        """Return how many chunks of unfinished documents are in the store."""
        runs = (self._busy.get((collection, document)) for document in documents)
        return sum(run.written for run in runs if run is not None)

    # --- claim --------------------------------------------------------------------------------------------------

    async def _schedule(self) -> None:
        while True:
            bell = self.changes.listen()
            try:
                began = await self._begin_removals() + await self._begin_reading()
                if not began and not self._busy:
                    await self._optimize()
            except Exception as error:
                _log.error("ingest.scheduler_failed", exc_info=error)
                began = 0
            if not began:
                await heard(bell, _LOOK_AGAIN_S)

    async def _begin_removals(self) -> int:
        rows = await self._database.read(lambda each: queue.to_remove(each, _REMOVED_AT_ONCE, self._busy.keys()))
        groups: dict[tuple[str, str], list[DocumentRow]] = {}
        for row in rows:
            self._busy[row.collection, row.id] = None
            groups.setdefault((row.collection, row.state), []).append(row)
        for group in groups.values():
            self._spawn(self._remove(group))
        return len(rows)

    async def _begin_reading(self) -> int:
        self._metrics.ingest_queue.set(await self._database.read(queue.waiting))
        free = self._readers.size + _CLAIMED_AHEAD - self._reading
        # Several at a time: each claim is a transaction, and waits for the disk.
        if free < _CLAIMED_AHEAD // 2 or self._batcher.full:
            return 0
        runs = await self._database.write(
            lambda each: [
                Run(row, find(each, row.collection).collection) for row in queue.claim(each, free, self._busy.keys())
            ]
        )
        for run in runs:
            self._busy[run.key] = run
            self._tracing.begin(run)
            self._reading += 1
            self._spawn(self._read(run))
        return len(runs)

    # --- read and cut -------------------------------------------------------------------------------------------

    async def _read(self, run: Run) -> None:
        row = run.row
        try:
            path, options = self._content.path(row.hash), row.chunking or run.collection.chunking
            with run.span.child("rag.ingest.read"):
                run.cut = await self.patience.insist(
                    lambda: self._readers.read(path, row.name, options, self._embed), lambda: run.wanted
                )
        except LoadError as error:
            run.failure = (error.code, error.message)
        except Exception as error:
            run.failure = _crashed(row, error)
        finally:
            self._reading -= 1
        if run.cut is None or not run.wanted:
            await self._conclude([run])
        else:
            run.remaining = len(run.cut.chunks)
            await self._batcher.put(run, run.cut.chunks)
        await self._batcher.nudge()
        self.changes.ring()

    # --- embed and write ----------------------------------------------------------------------------------------

    async def _write(self) -> None:
        while True:
            batch = await self._batcher.take()
            runs = list(dict.fromkeys(run for run, _ in batch))
            try:
                with self._tracing.writing(batch, runs):
                    await self._writer.write(batch)
            except Exception as error:
                for run in runs:
                    run.failure = run.failure or _crashed(run.row, error)
            for run, _ in batch:
                run.remaining -= 1
            await self._conclude([run for run in runs if not run.remaining])
            self.changes.ring()

    async def _conclude(self, runs: Sequence[Run]) -> None:
        """Write down how runs have ended; nothing of them is under way any more."""
        try:
            await self._conclude_good([run for run in runs if run.wanted])
            for run in runs:
                if run.failure is not None and not run.void:
                    await self._conclude_failed(run, *run.failure)
            void = [run.row for run in runs if run.void]
            if void:
                await self._database.write(lambda each: queue.put_back(each, void))
        except Exception as error:
            _log.error("ingest.conclusion_failed", exc_info=error)
        finally:
            for run in runs:
                self._busy.pop(run.key, None)
                self._tracing.end(run)
            self.changes.ring()

    async def _conclude_good(self, runs: Sequence[Run]) -> None:
        if not runs:
            return
        await clear_stale(self._store, self.patience, runs)
        done = [_indexed(run) for run in runs if run.wanted]
        finished = await self._database.write(lambda each: queue.finish(each, done))
        self._metrics.ingest_documents.labels("ready").inc(len(finished))
        self._to_optimize |= {collection for collection, _ in finished}

    async def _conclude_failed(self, run: Run, code: str, message: str) -> None:
        if run.wrote or run.row.dirty:
            await clear_stale(self._store, self.patience, [run], keep_live=True)
        if await self._database.write(lambda each: queue.fail(each, run.row, code, message)):
            self._metrics.ingest_documents.labels("failed").inc()

    # --- remove -------------------------------------------------------------------------------------------------

    async def _remove(self, rows: Sequence[DocumentRow]) -> None:
        try:
            await self.patience.insist(lambda: remove_points(self._store, rows))
            released = await self._database.write(lambda each: queue.removed(each, rows))
            await self.release(released)
            outcome = "deleted" if rows[0].state == "deleting" else "cancelled"
            self._metrics.ingest_documents.labels(outcome).inc(len(rows))
        except Exception as error:
            _log.error("ingest.removal_failed", exc_info=error)
        finally:
            for row in rows:
                self._busy.pop((row.collection, row.id), None)
            self.changes.ring()

    async def release(self, contents: Iterable[str]) -> None:
        """Remove contents that no row names any more."""
        several = list(contents)
        if several:
            await self._database.write(lambda each: self._content.release(each, several))

    async def _optimize(self) -> None:
        while self._to_optimize:
            collection = self._to_optimize.pop()
            with contextlib.suppress(VectorStoreError):
                await self._store.optimize(collection)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _indexed(run: Run) -> queue.Indexed:
    assert run.cut is not None, "a run without its chunks is not concluded as good"
    cut = run.cut
    return queue.Indexed(
        run.row, len(cut.chunks), sum(chunk.tokens for chunk in cut.chunks), cut.characters, cut.title, cut.media_type
    )


def _crashed(row: DocumentRow, error: Exception) -> tuple[str, str]:
    _log.error("ingest.document_crashed", document=row.id, exc_info=error)
    return "internal", f"{row.name!r} can't be ingested: {type(error).__name__}; the log of the RAG service has more"

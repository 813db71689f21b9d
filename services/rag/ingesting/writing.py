"""A batch of chunks on its way into the store: vectors are made, points are written."""

import asyncio
from collections.abc import Callable, Sequence

import numpy as np

from services.kit.errors import InvalidRequest
from services.rag.documents import Chunk, payload, point_id
from services.rag.ingesting.batching import Run
from services.rag.ingesting.waiting import Patience
from services.rag.library import Collection
from services.rag.metrics import RagMetrics
from services.rag.ports import Embedder
from services.rag.vectors import Point, SparseVector, Vector, VectorStore

Batch = Sequence[tuple[Run, Chunk]]


class ChunkWriter:
    """Makes points of chunks. Waits for embeddings and store for as long as they are down.

    Args:
        sparse: makes the terms and weights of a text.
    """

    def __init__(
        self,
        *,
        store: VectorStore,
        embedder: Embedder,
        sparse: Callable[[str], SparseVector],
        metrics: RagMetrics,
        patience: Patience,
    ) -> None:
        self._store = store
        self._embedder = embedder
        self._sparse = sparse
        self._metrics = metrics
        self._patience = patience

    async def write(self, batch: Batch) -> None:
        """Write the chunks of those runs that are still wanted. A run whose text is refused has a failure after it."""
        model = await self._patience.insist(self._embedder.model, lambda: _any_wanted(batch))
        for run in {run for run, _ in batch}:
            if model is not None and run.collection.embedding_model != model.id:
                run.failure = run.failure or _other_model(run.collection, model.id)
        wanted = [(run, chunk) for run, chunk in batch if run.wanted]
        if model is None or not wanted:
            return
        sparse = asyncio.to_thread(lambda: [self._sparse(chunk.indexed_text) for _, chunk in wanted])
        dense, terms = await asyncio.gather(self._embed(wanted), sparse)
        for collection in dict.fromkeys(run.row.collection for run, _ in wanted):
            mine = [place for place, (run, _) in enumerate(wanted) if run.row.collection == collection]
            await self._upsert(collection, wanted, mine, dense, terms)

    async def _embed(self, batch: Batch) -> list[Vector | None]:
        """Return a vector for each chunk, None where it is not wanted any more or was refused."""
        texts = [chunk.indexed_text for _, chunk in batch]
        try:
            vectors = await self._patience.insist(lambda: self._embedder.embed(texts), lambda: _any_wanted(batch))
        except InvalidRequest as refusal:
            if len(batch) == 1:
                run, chunk = batch[0]
                run.failure = ("refused", f"{run.row.name!r}, passage {chunk.index + 1}: {refusal.message}")
                return [None]
            half = len(batch) // 2  # which of them it is, nobody says
            return [*await self._embed(batch[:half]), *await self._embed(batch[half:])]
        return [None] * len(batch) if vectors is None else list(np.asarray(vectors, np.float32))

    async def _upsert(
        self,
        collection: str,
        batch: Batch,
        places: Sequence[int],
        dense: Sequence[Vector | None],
        terms: Sequence[SparseVector],
    ) -> None:
        def points() -> list[tuple[Run, Point]]:
            return [
                (batch[place][0], _point(*batch[place], vector, terms[place]))
                for place in places
                if (vector := dense[place]) is not None and batch[place][0].wanted
            ]

        async def upsert() -> list[tuple[Run, Point]]:
            written = points()
            for run, _ in written:
                run.wrote = True
            if written:
                await self._store.upsert(collection, [point for _, point in written])
            return written

        written = await self._patience.insist(upsert, lambda: bool(points()))
        for run, _ in written or ():
            run.written += 1
        self._metrics.ingest_chunks.inc(len(written or ()))


def _any_wanted(batch: Batch) -> bool:
    return any(run.wanted for run, _ in batch)


def _point(run: Run, chunk: Chunk, dense: Vector, sparse: SparseVector) -> Point:
    row = run.row
    assert run.cut is not None, "a chunk comes from a cut"
    carried = payload(
        chunk,
        document_id=row.id,
        version=row.version,
        tenant=row.tenant,
        name=row.name,
        title=run.cut.title,
        attributes=row.attributes,
    )
    return Point(point_id(row.id, row.version, chunk.index), dense, sparse, carried)


def _other_model(collection: Collection, running: str) -> tuple[str, str]:
    message = (
        f"{collection.name} was made with {collection.embedding_model}, and {running} runs now: their vectors can't be "
        "compared. Set RAG_EMBEDDING_MODEL, or make another collection"
    )
    return "embedding_model", message

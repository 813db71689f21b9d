"""The service put together: what stands on what, in which order it is opened and closed."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Protocol

from fastapi import Depends, Request

from services.kit.tracing import Tracer
from services.rag.answering.planning import AnsweringModel
from services.rag.answering.service import Answering, make_answering
from services.rag.ingesting.content import ContentStore
from services.rag.ingesting.database import Database
from services.rag.ingesting.desk import Desk
from services.rag.ingesting.files import Files
from services.rag.ingesting.keeping import Keeper
from services.rag.ingesting.pipeline import Pipeline, Readers
from services.rag.ingesting.waiting import Patience
from services.rag.ingesting.writing import ChunkWriter
from services.rag.metrics import RagMetrics
from services.rag.ports import Embedder, EmbeddingModel, Reranker
from services.rag.registry import Registry
from services.rag.settings import RagSettings
from services.rag.vectors import SparseVector, VectorStore
from services.rag.vectors.traced import TracedStore

_PROBE_S = 3.0


class Encoder(Protocol):
    """Texts and questions to terms and weights (services/rag/vectors/bm25.py)."""

    def document(self, text: str) -> SparseVector:
        """Return the weights of a text that is stored."""

    def query(self, text: str) -> SparseVector:
        """Return the terms of a question."""


@dataclass(frozen=True)
class Parts:
    """What the service needs of others.

    Args:
        opening: opens what has to be open, in this order.
        closing: closes it, in this order.
        embeddings: says `ok`, or what is wrong with the embeddings service; asked every few seconds.
    """

    store: VectorStore
    embedder: Embedder
    reranker: Reranker
    generator: AnsweringModel
    encoder: Encoder
    readers: Readers
    opening: tuple[Callable[[], Awaitable[None]], ...] = ()
    closing: tuple[Callable[[], Awaitable[None]], ...] = ()
    embeddings: Callable[[], Awaitable[str]] | None = None


class Service:
    """Everything that routes use."""

    def __init__(self, settings: RagSettings, parts: Parts, metrics: RagMetrics, tracer: Tracer | None = None) -> None:
        self.settings = settings
        self.store = store = TracedStore(parts.store)
        self.embedder = parts.embedder
        self.database = Database(settings.folder / "registry.sqlite3")
        self.registry = Registry(self.database)
        self.content = ContentStore(settings.folder / "files")
        patience = Patience()
        self.pipeline = Pipeline(
            database=self.database,
            content=self.content,
            store=store,
            readers=parts.readers,
            embed=parts.embedder.embed,
            writer=ChunkWriter(
                store=store,
                embedder=parts.embedder,
                sparse=parts.encoder.document,
                metrics=metrics,
                patience=patience,
            ),
            metrics=metrics,
            patience=patience,
            batch=settings.ingest_batch,
            tracer=tracer,
        )
        self.desk = Desk(self.database, self.content, self.pipeline)
        self.files = Files(self.database, self.content, self.desk)
        self.keeper = Keeper(
            registry=self.registry,
            database=self.database,
            content=self.content,
            store=store,
            pipeline=self.pipeline,
        )
        self.answering: Answering = make_answering(
            settings,
            self.registry,
            store,
            parts.embedder,
            parts.reranker,
            parts.generator,
            terms=parts.encoder,
            metrics=metrics,
        )
        self._parts = parts
        self._embeddings = "not asked yet"
        self._probing: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Open everything; what neighbours lack is waited for in the background.

        Raises:
            DatabaseInUse, DatabaseTooNew
        """
        await self.database.open()
        await asyncio.to_thread(self.content.open)
        for opening in self._parts.opening:
            await opening()
        self._probing = asyncio.create_task(self._probe())
        self.keeper.start()

    async def close(self) -> None:
        """Stop in the middle of whatever goes on; the next start takes it up."""
        if self._probing is not None:
            self._probing.cancel()
            await asyncio.gather(self._probing, return_exceptions=True)
        await self.keeper.stop()
        await self.pipeline.stop()
        for closing in self._parts.closing:
            with contextlib.suppress(Exception):  # the others are closed whatever happens to one
                await closing()
        await self.database.close()

    async def readiness(self) -> Mapping[str, str]:
        """Return what is there and what is missing, from memory."""
        return {"vector_store": await self.store.ready(), "embeddings": self._embeddings}

    async def embedding_model(self) -> EmbeddingModel:
        """Return the model that new collections are made with.

        Raises:
            EmbeddingsUnavailable
        """
        return await self.embedder.model()

    async def _probe(self) -> None:
        while True:
            self._embeddings = await self._parts.embeddings() if self._parts.embeddings else "ok"
            await asyncio.sleep(_PROBE_S)


def service_of(request: Request) -> Service:
    """Return the app's service."""
    service: Service = request.app.state.service
    return service


ServiceOf = Annotated[Service, Depends(service_of)]
"""A route's parameter: the service."""

"""One ingest through the service's own parts: reading processes, queue, pipeline, Qdrant's engine on disk."""

import asyncio
import hashlib
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from services.kit.metrics import new_registry
from services.rag.documents import Chunk
from services.rag.ingesting.intake import Intake, Received
from services.rag.ingesting.rows import tenant_of
from services.rag.library import ChunkOptions, Collection
from services.rag.loading import Limits
from services.rag.metrics import RagMetrics
from services.rag.parts import real_parts
from services.rag.ports import Caller, Embedder, EmbeddingModel
from services.rag.reading import read_and_cut
from services.rag.registry import new_id
from services.rag.service import Parts, Service
from services.rag.settings import RagSettings

PAGE_CHARACTERS = 3000
_CALLER = Caller("loadtest")
_SHOWN_S = 2.0


@dataclass(frozen=True)
class Measured:
    """An ingest: what went in, and the time until all of it was searchable."""

    documents: int
    failed: int
    characters: int
    chunks: int
    seconds: float

    @property
    def pages_per_s(self) -> float:
        """A page is 3,000 characters."""
        return self.characters / PAGE_CHARACTERS / self.seconds

    @property
    def chunks_per_s(self) -> float:
        """Chunks searchable a second."""
        return self.chunks / self.seconds


class FreeEmbedder:
    """Vectors that cost nothing: what is left is reading, cutting and indexing."""

    def __init__(self, dimensions: int = 384) -> None:
        dice = np.random.default_rng(1)
        vectors = dice.normal(size=(4096, dimensions)).astype(np.float32)
        self._vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        self._about = EmbeddingModel("free", dimensions, 256)

    async def model(self) -> EmbeddingModel:
        """Return a model of MiniLM's size."""
        return self._about

    async def embed(self, texts: Sequence[str], caller: Caller | None = None) -> npt.NDArray[np.float32]:
        """Return some of the vectors that are there."""
        return self._vectors[: len(texts)]


def chunks_of(files: Sequence[Path], options: ChunkOptions) -> list[Chunk]:
    """Return what the files become, in this process: the texts that embedding alone is measured with."""
    return [chunk for path in files for chunk in read_and_cut(path, path.name, options, Limits()).chunks]


async def embed_alone(embedder: Embedder, chunks: Sequence[Chunk], batch: int, at_once: int = 3) -> float:
    """Return chunks a second when nothing else is done: the same texts, batches and requests at a time."""
    texts = [chunk.indexed_text for chunk in chunks]
    batches = iter([texts[start : start + batch] for start in range(0, len(texts), batch)])
    await embedder.embed(texts[:batch])

    async def work() -> None:
        for part in batches:
            await embedder.embed(part)

    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(at_once)))
    return len(texts) / (time.perf_counter() - started)


async def ingest(
    settings: RagSettings,
    folder: Path,
    files: Sequence[Path],
    show: Callable[[str], None],
    embedder: Embedder | None = None,
) -> Measured:
    """Ingest files into a fresh state; return when all are searchable.

    Args:
        embedder: in place of the service that the settings name.
    """
    settings = settings.model_copy(update={"state": folder})
    parts = real_parts(settings)
    if embedder is not None:
        closing = tuple(each for each in parts.closing if each != parts.closing[3])
        parts = Parts(
            parts.store,
            embedder,
            parts.reranker,
            parts.generator,
            parts.encoder,
            parts.readers,
            parts.opening[1:],
            closing,
        )
    service = Service(settings, parts, RagMetrics(new_registry()))
    await service.open()
    try:
        model = await service.embedding_model()
        options = ChunkOptions(settings.chunker, settings.chunk_tokens, settings.chunk_overlap_tokens)
        collection = Collection(new_id("vs_"), "loadtest", "loadtest", model.id, model.dimensions, chunking=options)
        await service.keeper.create(collection)
        # The first file starts the reading processes, which live as long as the service.
        await _send(service, collection, files[:1], show)
        started = time.perf_counter()
        measured = await _send(service, collection, files[1:], show)
        return Measured(*measured, time.perf_counter() - started)
    finally:
        await service.close()


async def _send(
    service: Service, collection: Collection, files: Sequence[Path], show: Callable[[str], None]
) -> tuple[int, int, int, int]:
    job = await service.desk.start_job(collection, _CALLER, "upload")
    intake = Intake(service.content, collection, tenant_of(collection, _CALLER.name), job)
    received = await asyncio.to_thread(lambda: [_received(service.content.incoming, path) for path in files])
    await service.desk.accept(intake, received)
    await service.desk.close_job(intake)
    last = 0.0
    while not (found := await service.desk.job(collection, _CALLER, job)).finished:
        if time.perf_counter() - last > _SHOWN_S:
            last = time.perf_counter()
            ended = found.total - found.in_progress
            show(f"    {ended:,}/{found.total:,} documents, {found.chunks:,} chunks")
        await asyncio.sleep(0.1)
    return found.completed, found.failed, found.characters, found.chunks


def _received(incoming: Path, path: Path) -> Received:
    data = path.read_bytes()
    place = incoming / f"{len(list(incoming.iterdir()))}-{path.name}"
    shutil.copyfile(path, place)
    return Received(path.name, hashlib.sha256(data).hexdigest(), len(data), place)

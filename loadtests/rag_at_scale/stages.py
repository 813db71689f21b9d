"""The stages of the job, as Ray runs them: each in processes of its own, with the service's own code."""

import asyncio
import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from services.rag.library import ChunkOptions

Batch = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Job:
    """What every stage knows.

    Args:
        folder: that the documents are named below.
        collection: in Qdrant: the id (`vs_…`) of a collection of the service.
        qdrant: address of the server.
        model: of the embeddings service's list (services/embeddings/models.yaml).
    """

    folder: str
    collection: str
    qdrant: str
    qdrant_key: str
    model: str
    tenant: str
    options: ChunkOptions


class Cut:
    """Bytes of a file to its chunks; a file that can't be read is told of by a row of its own."""

    def __init__(self, job: Job) -> None:
        from services.rag.chunking import tokenizer_counter

        self._job = job
        self._counter = tokenizer_counter()

    def __call__(self, row: Mapping[str, Any]) -> list[dict[str, str]]:
        """Return a row for each chunk."""
        from services.rag.chunking import chunk
        from services.rag.documents import payload, point_id
        from services.rag.loading import Limits, LoadError, load

        name = str(row["path"]).partition(self._job.folder)[2].lstrip("/") or Path(str(row["path"])).name
        content: bytes = row["bytes"]
        version = hashlib.sha256(f"{self._job.options}{self._job.model}".encode() + content).hexdigest()[:32]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "content"
            path.write_bytes(content)
            try:
                document = load(path, name, Limits())
                chunks = chunk(document, self._job.options, self._counter)
            except LoadError as error:
                return [_row(name, problem=error.message)]
        return [
            _row(
                name,
                id=point_id(name, version, each.index),
                version=version,
                text=each.indexed_text,
                # As text: Arrow would make of it a column with the type of the first row's values.
                payload=json.dumps(
                    payload(
                        each,
                        document_id=name,
                        version=version,
                        tenant=self._job.tenant,
                        name=name,
                        title=document.title,
                        attributes={},
                    )
                ),
            )
            for each in chunks
        ]


def _row(document: str, **known: str) -> dict[str, str]:
    return {"document": document, "id": "", "version": "", "text": "", "payload": "", "problem": "", **known}


class Embed:
    """Texts to vectors, with the model loaded once a process."""

    def __init__(self, job: Job) -> None:
        from services.embeddings.catalogue import chosen, locate, read_cards
        from services.embeddings.loading import open_backend
        from services.embeddings.settings import EmbeddingsSettings

        (card,) = chosen(read_cards(), [job.model])
        settings = EmbeddingsSettings()
        # Any: of the backends those that embed have `embed`; the catalogue says that this model does.
        self._backend: Any = open_backend(card, locate(card, settings.state), settings)
        if card.capability != "embeddings":
            raise ValueError(f"{card.id} makes no vectors: it is a model for {card.capability}")

    def __call__(self, batch: Batch) -> Batch:
        """Add `vector`, `(n, dimensions)` float32; zeros for a file that could not be read."""
        read = np.flatnonzero(batch["problem"] == "")
        vectors = np.zeros((len(batch["id"]), self._backend.dimensions), dtype=np.float32)
        if read.size:
            vectors[read] = self._backend.embed([str(batch["text"][at]) for at in read])
        return {**batch, "vector": vectors}


class Write:
    """Points to the Qdrant server, then what an earlier version of the same documents left is removed.

    Writing a point twice leaves one, so a batch that Ray runs again does no harm.
    """

    def __init__(self, job: Job) -> None:
        from services.rag.vectors.bm25 import Bm25

        self._job = job
        self._terms = Bm25()

    def __call__(self, batch: Batch) -> Batch:
        """Return the document of each point that was written, and of each file that could not be read, why."""
        read = batch["problem"] == ""
        if read.any():
            asyncio.run(self._write({name: column[read] for name, column in batch.items()}))
        return {"document": batch["document"], "problem": batch["problem"]}

    async def _write(self, batch: Batch) -> None:
        from services.rag.vectors import CollectionSpec, Point
        from services.rag.vectors.filters import OneOf, eq, every
        from services.rag.vectors.qdrant import QdrantVectorStore

        store = QdrantVectorStore(where={"url": self._job.qdrant}, key=self._job.qdrant_key)
        try:
            vectors = np.asarray(list(batch["vector"]), dtype=np.float32)
            await store.create(self._job.collection, CollectionSpec(vectors.shape[1]))
            points = [
                Point(str(point), vector, self._terms.document(str(text)), json.loads(carried))
                for point, vector, text, carried in zip(
                    batch["id"], vectors, batch["text"], batch["payload"], strict=True
                )
            ]
            await store.upsert(self._job.collection, points)
            for document, version in {*zip(batch["document"], batch["version"], strict=True)}:
                stale = every(eq("document_id", str(document)), OneOf("version", (str(version),), "nin"))
                assert stale is not None
                await store.delete(self._job.collection, stale)
        finally:
            await store.close()

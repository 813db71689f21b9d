"""The default models in this process, behind the ports that the service asks over HTTP."""

import asyncio
import hashlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from services.embeddings.backends.maxsim import MaxSim
from services.embeddings.backends.onnx import OnnxEmbeddings
from services.embeddings.catalogue import Card, Files, chosen, locate, read_cards
from services.embeddings.loading import open_backend
from services.embeddings.settings import EmbeddingsSettings
from services.rag.ports import Caller, EmbeddingModel

EMBEDDINGS, RERANKING = "all-minilm-l6-v2", "all-minilm-l6-v2-maxsim"
Vectors = npt.NDArray[np.float32]


class VectorCache:
    """Vectors of texts by the digest of the text, in one file: chunks of one setting come again in the next.

    Args:
        model: whose vectors these are.
    """

    def __init__(self, path: Path, model: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._model = model
        self._rows = sqlite3.connect(path, check_same_thread=False)
        self._rows.execute("create table if not exists vectors (digest blob primary key, vector blob)")

    def get(self, texts: Sequence[str]) -> list[Vectors | None]:
        """Return each text's vector, or None where it has to be made."""
        find = "select vector from vectors where digest = ?"
        rows = [self._rows.execute(find, (self._digest(text),)).fetchone() for text in texts]
        return [None if row is None else np.frombuffer(row[0], np.float32) for row in rows]

    def put(self, texts: Sequence[str], vectors: Vectors) -> None:
        """Keep vectors."""
        rows = [(self._digest(text), vector.tobytes()) for text, vector in zip(texts, vectors, strict=True)]
        self._rows.executemany("insert or ignore into vectors values (?, ?)", rows)
        self._rows.commit()

    def _digest(self, text: str) -> bytes:
        return hashlib.sha256(f"{self._model}\n{text}".encode()).digest()


class LocalEmbedder:
    """The embeddings port without HTTP.

    Args:
        cache: for documents; questions are always computed, so that their time is real.
    """

    def __init__(self, cache: VectorCache) -> None:
        card, files = _found(EMBEDDINGS)
        backend = open_backend(card, files, EmbeddingsSettings())
        assert isinstance(backend, OnnxEmbeddings)
        self.backend = backend
        self._cache = cache
        self._card = card

    async def model(self) -> EmbeddingModel:
        """Return the model."""
        return EmbeddingModel(self._card.id, self._card.dimensions, self._card.context_tokens)

    async def embed(self, texts: Sequence[str], caller: Caller | None = None) -> Vectors:
        """Return `(n_texts, dimensions)` float32, L2-normalised."""
        return await asyncio.to_thread(self.backend.embed, texts)

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """Return the same, from the cache where it has them."""
        found = self._cache.get(texts)
        missing = [at for at, vector in enumerate(found) if vector is None]
        for start in range(0, len(missing), 256):
            part = missing[start : start + 256]
            wanted = [texts[at] for at in part]
            made = self.backend.embed(wanted)
            self._cache.put(wanted, made)
            for at, vector in zip(part, made, strict=True):
                found[at] = vector
        return np.stack([vector for vector in found if vector is not None])


class LocalReranker:
    """The reranking port without HTTP."""

    def __init__(self) -> None:
        backend: Any = open_backend(*_found(RERANKING), EmbeddingsSettings())
        assert isinstance(backend, MaxSim)
        self._backend = backend

    async def scores(self, query: str, documents: Sequence[str], caller: Caller | None = None) -> list[float]:
        """Return a score for each document."""
        return [float(each) for each in await asyncio.to_thread(self._backend.score, query, documents)]


def _found(model: str) -> tuple[Card, Files]:
    (card,) = chosen(read_cards(), [model])
    return card, locate(card, Path(".state"))

"""Stand-ins for what the service needs of others: deterministic, in memory, and able to be down."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from services.kit.errors import InvalidRequest
from services.rag.documents import Chunk
from services.rag.errors import EmbeddingsUnavailable
from services.rag.generator import ModelFacts
from services.rag.library import ChunkOptions
from services.rag.loading.limits import LoadError
from services.rag.ports import Caller, EmbeddingModel, Generated
from services.rag.reading import Cut
from services.rag.service import Parts
from services.rag.vectors import CollectionSpec, Hit, Point, SparseVector, VectorQuery, VectorStoreError
from services.rag.vectors.filters import Compare, Either, Every, Filter, OneOf


def hash_vector(text: str, dimensions: int = 16) -> np.ndarray:
    """Return a vector that depends on the words alone: texts that share words are near each other."""
    vector = np.zeros(dimensions, np.float32)
    for word in text.lower().split():
        digest = hashlib.blake2b(word.strip(".,?!").encode(), digest_size=8).digest()
        vector[digest[0] % dimensions] += 1 if digest[1] % 2 else -1
    norm = float(np.linalg.norm(vector))
    if norm == 0:
        vector[0], norm = 1, 1
    return vector / norm


def hash_terms(text: str) -> SparseVector:
    """Return each word as a term of weight 1."""
    words = {int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest()) for word in text.lower().split()}
    indices = np.array(sorted(words), np.uint32)
    return SparseVector(indices, np.ones(len(indices), np.float32))


class FakeEmbedder:
    """Hash vectors. `down` makes it unavailable; `gate` holds each batch until it is set."""

    def __init__(self, dimensions: int = 16) -> None:
        self.about = EmbeddingModel("fake-embedder", dimensions, 256)
        self.down = ""
        self.refuses = ""
        self.gate = asyncio.Event()
        self.gate.set()
        self.batches: list[list[str]] = []

    async def model(self) -> EmbeddingModel:
        self._check()
        return self.about

    async def embed(self, texts: Sequence[str], caller: Caller | None = None) -> np.ndarray:
        self._check()
        await self.gate.wait()
        if self.refuses and any(self.refuses in text for text in texts):
            raise InvalidRequest("a text is too long")
        self.batches.append(list(texts))
        return np.stack([hash_vector(text, self.about.dimensions) for text in texts])

    def _check(self) -> None:
        if self.down:
            raise EmbeddingsUnavailable(self.down)


class MemoryStore:
    """A vector store in a dictionary. `down` makes every method fail."""

    def __init__(self) -> None:
        self.points: dict[str, dict[str, Point]] = {}
        self.down = ""
        self.optimized: list[str] = []

    async def create(self, collection: str, spec: CollectionSpec) -> None:
        self._check()
        self.points.setdefault(collection, {})

    async def drop(self, collection: str) -> None:
        self._check()
        self.points.pop(collection, None)

    async def collections(self) -> list[str]:
        self._check()
        return list(self.points)

    async def upsert(self, collection: str, points: Sequence[Point]) -> None:
        there = self._of(collection)
        await asyncio.sleep(0)
        there.update({point.id: point for point in points})

    async def delete(self, collection: str, where: Filter) -> None:
        there = self._of(collection)
        for point in [each for each in there.values() if matches(each.payload, where)]:
            del there[point.id]

    async def count(self, collection: str, where: Filter | None = None) -> int:
        return sum(1 for each in self._of(collection).values() if where is None or matches(each.payload, where))

    async def search(self, collection: str, query: VectorQuery) -> list[Hit]:
        found = []
        for point in self._of(collection).values():
            if query.filter is not None and not matches(point.payload, query.filter):
                continue
            score = 0.0
            if query.dense is not None:
                score += float(point.dense @ query.dense)
            if query.sparse is not None:
                score += len(np.intersect1d(point.sparse.indices, query.sparse.indices))
            found.append(Hit(point.id, score, point.payload, point.dense if query.with_vectors else None))
        return sorted(found, key=lambda hit: -hit.score)[: query.limit]

    async def fetch(self, collection: str, where: Filter, limit: int = 1000, with_vectors: bool = False) -> list[Hit]:
        found = [each for each in self._of(collection).values() if matches(each.payload, where)]
        return [Hit(each.id, 0.0, each.payload, each.dense if with_vectors else None) for each in found[:limit]]

    async def optimize(self, collection: str) -> None:
        self._of(collection)
        self.optimized.append(collection)

    async def ready(self) -> str:
        return self.down or "ok"

    async def close(self) -> None:
        pass

    def documents(self, collection: str) -> dict[str, set[str]]:
        """Return the versions of each document name that have points."""
        versions: dict[str, set[str]] = {}
        for point in self.points[collection].values():
            versions.setdefault(point.payload["name"], set()).add(point.payload["version"])
        return versions

    def _of(self, collection: str) -> dict[str, Point]:
        self._check()
        if collection not in self.points:
            raise VectorStoreError(f"there is no collection {collection}")
        return self.points[collection]

    def _check(self) -> None:
        if self.down:
            raise VectorStoreError(self.down)


class WordReaders:
    """Cuts a text into chunks of `words` words. A text that begins with `!` can't be read; `gate` holds readers."""

    size = 2

    def __init__(self, words: int = 20) -> None:
        self._words = words
        self.gate = asyncio.Event()
        self.gate.set()
        self.read_names: list[str] = []

    async def read(self, path: Path, name: str, options: ChunkOptions, embed: object = None) -> Cut:
        await self.gate.wait()
        self.read_names.append(name)
        text = (await asyncio.to_thread(path.read_bytes)).decode()
        if text.startswith("!"):
            raise LoadError("damaged", f"{name!r} is damaged; save it again")
        if not text.split():
            raise LoadError("empty", f"{name!r} has no text in it")
        return cut(text, name, min(self._words, options.tokens))


def cut(text: str, name: str, words_in_a_chunk: int) -> Cut:
    words = text.split()
    groups = [words[start : start + words_in_a_chunk] for start in range(0, len(words), words_in_a_chunk)]
    chunks = tuple(Chunk(index, " ".join(group), name, len(group)) for index, group in enumerate(groups))
    return Cut(name, "text/plain", len(text), None, {}, chunks)


def matches(payload: Any, where: Filter) -> bool:
    """Say whether a point's payload is taken by a filter."""
    if isinstance(where, Every):
        return all(matches(payload, each) for each in where.filters)
    if isinstance(where, Either):
        return any(matches(payload, each) for each in where.filters)
    value = payload
    for part in where.key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if isinstance(where, OneOf):
        return (value in where.values) == (where.type == "in")
    assert isinstance(where, Compare)
    if where.type == "ne":
        return bool(value != where.value)
    if value is None:
        return False
    other: Any = where.value
    return {
        "eq": lambda: value == other,
        "gt": lambda: value > other,
        "gte": lambda: value >= other,
        "lt": lambda: value < other,
        "lte": lambda: value <= other,
    }[where.type]()


class FakeReranker:
    """Scores by shared words."""

    async def scores(self, query: str, documents: Sequence[str], caller: Caller | None = None) -> list[float]:
        words = set(query.lower().split())
        return [float(len(words & set(document.lower().split()))) for document in documents]


class EchoModel:
    """A chat model that says one sentence."""

    def __init__(self, text: str = "It is so.") -> None:
        self.text = text

    async def facts(self, model: str, caller: Caller | None = None) -> ModelFacts:
        return ModelFacts(model or "fake-chat", 4096, 1_000_000_000)

    async def generate(
        self, messages: Sequence[Mapping[str, Any]], caller: Caller, *, max_tokens: int, **options: Any
    ) -> Generated:
        return Generated(self.text, "stop", 1, 1)

    async def stream(
        self, messages: Sequence[Mapping[str, Any]], caller: Caller, *, max_tokens: int, **options: Any
    ) -> AsyncIterator[dict[str, Any]]:
        yield {"choices": [{"delta": {"content": self.text}, "finish_reason": "stop"}]}
        yield {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}


class WordEncoder:
    """Words as terms."""

    def document(self, text: str) -> SparseVector:
        return hash_terms(text)

    def query(self, text: str) -> SparseVector:
        return hash_terms(text)


def fake_parts(store: Any, embedder: Any = None, readers: Any = None) -> Callable[[Any], Parts]:
    """Return what `create_app` makes its parts with."""

    def make(_settings: Any) -> Parts:
        return Parts(
            store=store,
            embedder=embedder or FakeEmbedder(),
            reranker=FakeReranker(),
            generator=EchoModel(),
            encoder=WordEncoder(),
            readers=readers or WordReaders(),
        )

    return make

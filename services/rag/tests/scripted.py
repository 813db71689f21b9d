"""Stand-ins for what answers need: a store in memory, vectors of words, a model that says what it is told."""

import asyncio
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from services.kit.errors import AppError
from services.kit.metrics import new_registry
from services.rag.documents import Chunk, Passage, passage, payload, point_id
from services.rag.errors import CollectionNotFound, EmbeddingsUnavailable
from services.rag.generator import ModelFacts
from services.rag.library import Collection
from services.rag.metrics import RagMetrics
from services.rag.ports import Caller, EmbeddingModel, Generated
from services.rag.retrieving.pipeline import Retriever
from services.rag.retrieving.presets import Presets, parse_preset
from services.rag.retrieving.state import Tools
from services.rag.retrieving.words import content_words
from services.rag.vectors import Hit, Point, SparseVector, VectorQuery, VectorStoreError
from services.rag.vectors.filters import Compare, Either, Every, Filter, OneOf

DIMENSIONS = 256
COLLECTION = Collection("vs_1", "handbook", "default", "words", DIMENSIONS, revision=1)
CALLER = Caller("alice")


def vector(text: str) -> np.ndarray:
    """Return a text's words as a vector: two texts are as near as they share words."""
    found = np.zeros(DIMENSIONS, dtype=np.float32)
    for stem in content_words(text):
        found[zlib.crc32(stem.encode()) % DIMENSIONS] += 1.0
    return found / max(float(np.linalg.norm(found)), 1e-9)


class WordTerms:
    """Terms by hash, each with the weight 1."""

    def query(self, text: str) -> SparseVector:
        stems = sorted({zlib.crc32(stem.encode()) for stem in content_words(text)})
        return SparseVector(np.array(stems, dtype=np.uint32), np.ones(len(stems), dtype=np.float32))


class WordEmbedder:
    """Vectors of words; counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.down = False

    async def model(self) -> EmbeddingModel:
        return EmbeddingModel("words", DIMENSIONS, 512)

    async def embed(self, texts: Sequence[str], caller: Caller | None = None) -> np.ndarray:
        if self.down:
            raise EmbeddingsUnavailable("the embeddings service does not answer")
        self.asked += texts
        return np.stack([vector(text) for text in texts])


class MemoryStore:
    """Points in a list, compared one by one."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        self.queries: list[VectorQuery] = []
        self.down = False

    def add(
        self,
        text: str,
        *,
        document: str = "d1",
        index: int = 0,
        tenant: str = "default",
        name: str = "",
        title: str = "",
        page: int | None = None,
        version: str = "v1",
        attributes: Mapping[str, Any] | None = None,
    ) -> None:
        """Add a chunk."""
        chunk = Chunk(index, text, title, len(text.split()), page)
        carried = payload(
            chunk,
            document_id=document,
            version=version,
            tenant=tenant,
            name=name or f"{document}.md",
            title=title or document,
            attributes=attributes or {},
        )
        terms = WordTerms().query(chunk.indexed_text)
        self.points.append(Point(point_id(document, version, index), vector(chunk.indexed_text), terms, carried))

    async def search(self, collection: str, query: VectorQuery) -> list[Hit]:
        self.queries.append(query)
        self._answer()
        there = [point for point in self.points if _takes(query.filter, point.payload)]
        rankings = []
        if query.dense is not None:
            rankings.append({point.id: float(point.dense @ query.dense) for point in there})
        if query.sparse is not None:
            asked = set(query.sparse.indices.tolist())
            found = {point.id: float(len(asked & set(point.sparse.indices.tolist()))) for point in there}
            rankings.append({each: score for each, score in found.items() if score})
        scores = rankings[0] if len(rankings) == 1 else _fused(rankings)
        by_id = {point.id: point for point in there}
        best = sorted(scores, key=lambda each: -scores[each])[: query.limit]
        return [
            Hit(each, scores[each], by_id[each].payload, by_id[each].dense if query.with_vectors else None)
            for each in best
        ]

    async def fetch(self, collection: str, where: Filter, limit: int = 1000, with_vectors: bool = False) -> list[Hit]:
        self._answer()
        return [Hit(point.id, 0.0, point.payload) for point in self.points if _takes(where, point.payload)][:limit]

    def _answer(self) -> None:
        if self.down:
            raise VectorStoreError("Qdrant at http://127.0.0.1:6333 does not answer")


def _fused(rankings: list[dict[str, float]]) -> dict[str, float]:
    scores: dict[str, float] = {}
    for ranking in rankings:
        for rank, each in enumerate(sorted(ranking, key=lambda key: -ranking[key])):
            scores[each] = scores.get(each, 0.0) + 1 / (2 + rank)
    return scores


def _takes(where: Filter | None, carried: Mapping[str, Any]) -> bool:
    match where:
        case None:
            return True
        case Every(parts):
            return all(_takes(part, carried) for part in parts)
        case Either(parts):
            return any(_takes(part, carried) for part in parts)
    value: Any = carried
    for part in where.key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if isinstance(where, OneOf):
        return (value in where.values) == (where.type == "in")
    assert isinstance(where, Compare)
    return {"eq": value == where.value, "ne": value != where.value}[where.type]


class ShoutingReranker:
    """Scores by the number of exclamation marks."""

    def __init__(self) -> None:
        self.down = False
        self.asked: list[int] = []

    async def scores(self, query: str, documents: Sequence[str], caller: Caller | None = None) -> list[float]:
        self.asked.append(len(documents))
        if self.down:
            raise EmbeddingsUnavailable("the embeddings service does not answer")
        return [float(document.count("!")) for document in documents]


class ScriptedModel:
    """Says `says`, one list of deltas an answer, the last again and again. Errors among the deltas are raised."""

    def __init__(self, *says: Sequence[str | AppError], facts: ModelFacts | None = None) -> None:
        self.says = list(says) or [["Yes."]]
        self.known = facts or ModelFacts("small-135m", 4096, 135_000_000)
        self.prompts: list[list[dict[str, Any]]] = []
        self.options: list[dict[str, Any]] = []
        self.callers: list[Caller] = []
        self.stall_after: int | None = None
        self.closed = asyncio.Event()
        self.stalled = asyncio.Event()

    async def facts(self, model: str, caller: Caller | None = None) -> ModelFacts:
        return self.known

    async def generate(
        self, messages: Sequence[Mapping[str, Any]], caller: Caller, *, max_tokens: int, **options: Any
    ) -> Generated:
        said = self._next(messages, caller, max_tokens, options)
        for each in said:
            if isinstance(each, AppError):
                raise each
        return Generated("".join(map(str, said)), "stop", 10, len(said))

    async def stream(
        self, messages: Sequence[Mapping[str, Any]], caller: Caller, *, max_tokens: int, **options: Any
    ) -> AsyncIterator[dict[str, Any]]:
        said = self._next(messages, caller, max_tokens, options)
        try:
            for at, each in enumerate(said):
                if isinstance(each, AppError):
                    raise each
                yield {"choices": [{"index": 0, "delta": {"content": each}, "finish_reason": None}]}
                if self.stall_after == at:
                    self.stalled.set()
                    await asyncio.Event().wait()
            yield {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
            yield {"choices": [], "usage": {"prompt_tokens": 100, "completion_tokens": len(said)}}
        finally:
            self.closed.set()

    def _next(self, messages: Any, caller: Caller, max_tokens: int, options: dict[str, Any]) -> Sequence[Any]:
        self.prompts.append([dict(message) for message in messages])
        self.options.append({"max_tokens": max_tokens, **options})
        self.callers.append(caller)
        return self.says.pop(0) if len(self.says) > 1 else self.says[0]


class OneShelf:
    """A library of a few collections."""

    def __init__(self, *collections: Collection) -> None:
        self.there = {each.name: each for each in collections or (COLLECTION,)}

    def change(self, name: str, **fields: Any) -> None:
        """Change a collection's fields."""
        self.there[name] = replace(self.there[name], **fields)

    async def collection(self, name: str) -> Collection:
        if name not in self.there:
            raise CollectionNotFound(f"there is no collection {name!r}; there are {', '.join(self.there)}")
        return self.there[name]

    async def collections(self) -> list[Collection]:
        return list(self.there.values())

    async def searchable(self) -> list[Collection]:
        return list(self.there.values())


def new_metrics() -> RagMetrics:
    """Return counters in a registry of their own."""
    return RagMetrics(new_registry())


def make_tools(store: MemoryStore | None = None, model: ScriptedModel | None = None) -> Tools:
    """Return tools that need no other process."""
    return Tools(
        store=store or MemoryStore(),  # type: ignore[arg-type]
        embedder=WordEmbedder(),
        terms=WordTerms(),
        reranker=ShoutingReranker(),
        generator=model or ScriptedModel(),
    )


class OnePreset(Presets):
    """One preset, whatever its name."""

    def __init__(self, steps: str) -> None:
        super().__init__()
        self._only = parse_preset("test", f"steps: [{steps}]", "test.yaml")

    def get(self, name: str) -> Any:
        return self._only


def retriever(steps: str, tools: Tools, metrics: RagMetrics | None = None) -> Retriever:
    """Return a retriever that takes these steps, written as in a preset, by comma."""
    return Retriever(tools, OnePreset(steps), preset="test", metrics=metrics or new_metrics())


def make_passage(text: str, *, document: str = "d1", index: int = 0, title: str = "", **fields: Any) -> Passage:
    """Return a passage as a search gives it."""
    carried = payload(
        Chunk(index, text, "", len(text.split())),
        document_id=document,
        version="v1",
        tenant="default",
        name=f"{document}.md",
        title=title or document,
        attributes={},
    )
    return replace(passage(point_id(document, "v1", index), 1.0, carried, 0.9), **fields)

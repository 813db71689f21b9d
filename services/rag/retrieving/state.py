"""What the steps of one retrieval hand on to each other, and what they may use."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from services.kit.errors import AppError
from services.rag.documents import Passage, passage
from services.rag.errors import VectorStoreUnavailable
from services.rag.library import Collection
from services.rag.ports import Caller, Embedder, Generator, Reranker
from services.rag.vectors import Hit, SparseVector, Vector, VectorQuery, VectorStore, VectorStoreError
from services.rag.vectors.filters import Filter

GENERATED_S = 20.0
"""How long a step waits for a model; then it does without."""


class Terms(Protocol):
    """A question's terms and weights (services/rag/vectors/bm25.py)."""

    def query(self, text: str) -> SparseVector:
        """Return what the sparse side is asked for."""


@dataclass(frozen=True)
class Tools:
    """What steps may use. All but the reranker and the generator have to be there for any answer."""

    store: VectorStore
    embedder: Embedder
    terms: Terms
    reranker: Reranker
    generator: Generator


@dataclass(frozen=True)
class Query:
    """One thing to look for: the question first, then what widens it.

    Args:
        weight: of its ranking when several are fused.
        hypothetical: texts whose vectors are averaged with the question's own.
        more_terms: added on the sparse side alone.
    """

    text: str
    weight: float = 1.0
    hypothetical: tuple[str, ...] = ()
    more_terms: str = ""
    vector: Vector | None = None


@dataclass
class State:
    """One retrieval on its way.

    Args:
        limit: passages that the request wants; None for what the preset gives.
        model: that the request asks for an answer of; steps that generate use it too.
    """

    question: str
    collection: Collection
    caller: Caller
    filter: Filter | None = None
    limit: int | None = None
    model: str = ""
    queries: list[Query] = field(default_factory=list)
    question_vector: Vector | None = None
    passages: list[Passage] = field(default_factory=list)
    hits: dict[str, Hit] = field(default_factory=dict)
    pages: dict[str, tuple[tuple[int, int | None], ...]] = field(default_factory=dict)
    best_similarity: float | None = None

    def wanted(self, limit: int) -> int:
        """Return a step's own limit, or the request's where that is larger."""
        return max(limit, self.limit or 0)

    def keep(self, ranking: Sequence[tuple[str, float]]) -> None:
        """Set the passages to these hits, by id and score, with the cosine of each where it can be had."""
        self.passages = [self._passage(self.hits[each], score) for each, score in ranking]
        similarities = [each.similarity for each in self.passages if each.similarity is not None]
        if similarities:
            self.best_similarity = max(
                [*similarities, *([] if self.best_similarity is None else [self.best_similarity])]
            )

    def rescore(self, scores: Mapping[str, float]) -> None:
        """Order the passages by new scores; those without one are left out."""
        scored = [replace(each, score=scores[each.id]) for each in self.passages if each.id in scores]
        self.passages = sorted(scored, key=lambda each: -each.score)

    def _passage(self, hit: Hit, score: float) -> Passage:
        similarity = None
        if hit.vector is not None and self.question_vector is not None:
            similarity = float(np.dot(hit.vector, self.question_vector))
        return passage(hit.id, score, hit.payload, similarity)


async def search(tools: Tools, collection: str, query: VectorQuery) -> list[Hit]:
    """Return the store's hits.

    Raises:
        VectorStoreUnavailable
    """
    try:
        return await tools.store.search(collection, query)
    except VectorStoreError as error:
        raise VectorStoreUnavailable(str(error), retry_after_s=2) from None


async def fetch(tools: Tools, collection: str, where: Filter, limit: int) -> list[Hit]:
    """Return the points that a filter takes.

    Raises:
        VectorStoreUnavailable
    """
    try:
        return await tools.store.fetch(collection, where, limit)
    except VectorStoreError as error:
        raise VectorStoreUnavailable(str(error), retry_after_s=2) from None


async def ask_model(tools: Tools, state: State, prompt: str, max_tokens: int) -> tuple[str, str]:
    """Return what the model says, and a note: empty, or why there is nothing. Its failures fail no request."""
    options: dict[str, Any] = {"temperature": 0.0}
    if state.model:
        options["model"] = state.model
    try:
        async with asyncio.timeout(GENERATED_S):
            messages = [{"role": "user", "content": prompt}]
            answer = await tools.generator.generate(messages, state.caller, max_tokens=max_tokens, **options)
    except TimeoutError:
        return "", f"the model took over {GENERATED_S:.0f} s"
    except AppError as error:
        return "", f"the model failed: {error.code}"
    return answer.text, "" if answer.text.strip() else "the model said nothing"

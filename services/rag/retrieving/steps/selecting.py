"""`mmr`, `dedupe`, `threshold` and `top`: fewer passages, and different ones.

Source: Carbonell and Goldstein: The Use of MMR, Diversity-Based Reranking (SIGIR 1998).
"""

from typing import Literal

import numpy as np
from pydantic import Field

from services.rag.documents import Passage
from services.rag.retrieving.state import State, Tools
from services.rag.retrieving.steps.step import Step
from services.rag.retrieving.words import words


class Mmr(Step):
    """Pick passages that are near the question and far from those picked before. Comes after a search with vectors."""

    step: Literal["mmr"] = "mmr"
    limit: int = Field(10, ge=1, le=1000, description="passages that are picked")
    relevance: float = Field(0.7, ge=0, le=1, description="1: nearness to the question alone; 0: difference alone")

    async def run(self, state: State, tools: Tools) -> str:
        """Pick, one after the other."""
        found = [(each, state.hits[each.id].vector) for each in state.passages if each.id in state.hits]
        there = [(each, vector) for each, vector in found if vector is not None]
        if state.question_vector is None or not there:
            return "as before: no vectors were looked at"
        with_vectors = [each for each, _ in there]
        vectors = np.stack([vector for _, vector in there])  # (n_passages, dimensions)
        near = vectors @ state.question_vector
        alike = vectors @ vectors.T
        left, picked = list(range(len(with_vectors))), list[int]()
        while left and len(picked) < state.wanted(self.limit):
            repeated = alike[left][:, picked].max(axis=1) if picked else np.zeros(len(left))
            worth = self.relevance * near[left] - (1 - self.relevance) * repeated
            picked.append(left.pop(int(np.argmax(worth))))
        before = len(state.passages)
        state.passages = [with_vectors[at] for at in picked]
        return f"{len(picked)} of {before}"


class Dedupe(Step):
    """Leave out passages that repeat a better one."""

    step: Literal["dedupe"] = "dedupe"
    overlap: float = Field(0.9, gt=0, le=1, description="share of a passage's words that a better one has")
    per_document: int = Field(0, ge=0, description="passages of one document, at most (0: any number)")

    async def run(self, state: State, tools: Tools) -> str:
        """Keep each passage that says something new."""
        kept: list[tuple[Passage, set[str]]] = []
        for each in state.passages:
            own = set(words(each.text))
            same_document = sum(other.document_id == each.document_id for other, _ in kept)
            if self.per_document and same_document >= self.per_document:
                continue
            if own and any(len(own & others) / len(own) >= self.overlap for _, others in kept):
                continue
            kept.append((each, own))
        gone = len(state.passages) - len(kept)
        state.passages = [each for each, _ in kept]
        return f"{gone} left out" if gone else "none repeated"


class Threshold(Step):
    """Leave out what is too far from the question."""

    step: Literal["threshold"] = "threshold"
    similarity: float = Field(0.2, ge=-1, le=1, description="least cosine; passages without one stay")

    async def run(self, state: State, tools: Tools) -> str:
        """Keep the near ones."""
        before = len(state.passages)
        state.passages = [
            each for each in state.passages if each.similarity is None or each.similarity >= self.similarity
        ]
        return f"{len(state.passages)} of {before} at {self.similarity:g} or nearer"


class Top(Step):
    """Keep the best; a request's own limit takes this one's place."""

    step: Literal["top"] = "top"
    limit: int = Field(5, ge=1, le=1000, description="passages that are kept")

    async def run(self, state: State, tools: Tools) -> str:
        """Cut the list."""
        before = len(state.passages)
        state.passages = state.passages[: state.limit or self.limit]
        return f"{len(state.passages)} of {before}"

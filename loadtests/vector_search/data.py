"""Chunks as embeddings of real texts lie: in clusters of few effective dimensions; words by Zipf's law. Seeded."""

import uuid
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from services.rag.vectors import Point, SparseVector
from services.rag.vectors.bm25 import Bm25

DIMENSIONS = 384
_WORDS = 30_000
_CHUNKS_A_CLUSTER, _CHUNKS_A_DOCUMENT = 60, 12
# The spread of a direction falls with its number, as in all-MiniLM-L6-v2's vectors of one corpus.
_DECAY = 0.75


@dataclass(frozen=True)
class Question:
    """A search: the vector and terms of a chunk of its own, that is not among those stored."""

    dense: npt.NDArray[np.float32]
    sparse: SparseVector


class Corpus:
    """Points and questions of one size; points are made when they are asked for, so that memory shows the store's.

    Args:
        chunks: how many.
        questions: how many.
    """

    def __init__(self, chunks: int, questions: int = 100) -> None:
        dice = np.random.default_rng(20261121)
        scale = (1 + np.arange(DIMENSIONS)) ** (-_DECAY / 2)
        centres = dice.normal(size=(max(8, chunks // _CHUNKS_A_CLUSTER), DIMENSIONS)) * scale
        chosen = dice.integers(len(centres), size=chunks + questions)
        noise = dice.normal(size=(chunks + questions, DIMENSIONS)) * scale
        dense = (centres[chosen] + 0.7 * noise).astype(np.float32)
        dense /= np.linalg.norm(dense, axis=1, keepdims=True)
        self.dense = dense[:chunks]
        self._bm25 = Bm25()
        self.years = 2000 + dice.integers(25, size=chunks)
        self.questions = [
            Question(
                dense[chunks + number], self._bm25.query(" ".join(_words(np.random.default_rng(-number % 2**32), 8)))
            )
            for number in range(1, questions)
        ]

    def points(self, start: int, end: int) -> list[Point]:
        """Return chunks by number, the same at every call."""
        return [self._point(number) for number in range(start, min(end, len(self.dense)))]

    def _point(self, number: int) -> Point:
        text = " ".join(_words(np.random.default_rng(number), 130))
        payload: dict[str, Any] = {
            "tenant": f"tenant-{number % 4}",
            "document_id": f"document-{number // _CHUNKS_A_DOCUMENT}",
            "version": "1",
            "text": text,
            "attributes": {"year": int(self.years[number])},
        }
        return Point(str(uuid.UUID(int=number + 1)), self.dense[number], self._bm25.document(text), payload)

    def nearest(self, question: Question, among: npt.NDArray[np.bool_] | None, limit: int = 10) -> set[str]:
        """Return the ids of the nearest of all, by comparing with each."""
        scores = self.dense @ question.dense
        if among is not None:
            scores = np.where(among, scores, -2)
        return {str(uuid.UUID(int=int(number) + 1)) for number in np.argsort(-scores, kind="stable")[:limit]}


def _words(dice: np.random.Generator, count: int) -> list[str]:
    return [f"word{number}" for number in dice.zipf(1.2, size=count) % _WORDS]

"""Answers that are kept: by the very same question, and, where that is switched on, by a very similar one.

An answer belongs to the collection's revision, the preset, the model, the filters and the caller's documents; with a
change of any of them it is another answer. The semantic cache compares the vectors of questions, and vectors do not
tell "load" from "unload": so numbers, names and opposites have to agree besides. How often that still gives a wrong
answer is measured by `python -m loadtests.rag_cache`, table in docs/rag-pipeline.md.
"""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from services.rag.retrieving.words import content_words, names, words
from services.rag.vectors import Vector

SEMANTIC_THRESHOLDS = {"all-minilm-l6-v2": 0.92}
"""Least cosine of two questions with one answer, by embedding model; from the table of `loadtests.rag_cache`."""
_UNMEASURED_THRESHOLD = 0.98
_NO = "not no never without cannot can't don't doesn't isn't won't aren't didn't wasn't shouldn't except unless"
_NEGATIONS = frozenset(_NO.split())
_OPPOSITES = (
    "load unload|start stop|on off|enable disable|enabled disabled|first last|before after|minimum maximum|min max|"
    "increase decrease|more less|most least|longest shortest|largest smallest|larger smaller|faster slower|"
    "input output|read write|upload download|install uninstall|add remove|add delete|create delete|import export|"
    "open close|lock unlock|encrypt decrypt|client server|public private|allow deny|request response|prompt completion|"
    "highest lowest|high low|inside outside|local remote|pin unpin|push pull|send receive|up down|win lose|buy sell"
)


def _sides() -> dict[str, tuple[int, int]]:
    sides: dict[str, tuple[int, int]] = {}
    for at, pair in enumerate(_OPPOSITES.split("|")):
        for side, word in enumerate(pair.split()):
            sides.setdefault(content_words(word)[0] if content_words(word) else word, (at, side))
    return sides


_SIDES = _sides()


@dataclass(frozen=True)
class Kept:
    """An answer as it was given. Only those that ended by themselves are kept."""

    text: str
    annotations: tuple[Mapping[str, Any], ...]
    own: Mapping[str, Any]
    sources: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class CacheKey:
    """What an answer depends on.

    Args:
        scope: all but the question: collection and revision, preset, model, filters, tenant, options, history.
    """

    scope: str
    question: str


def cache_key(question: str, **scope: Any) -> CacheKey:
    """Return the key of a question; whitespace and case of it do not count."""
    text = msgspec.json.encode(scope, order="deterministic", enc_hook=repr)
    return CacheKey(hashlib.sha256(text).hexdigest(), " ".join(question.lower().split()))


def semantic_threshold(embedding_model: str) -> float:
    """Return the least cosine for this model's vectors; a strict one where nobody has measured it."""
    return SEMANTIC_THRESHOLDS.get(embedding_model, _UNMEASURED_THRESHOLD)


def same_facts(one: str, two: str) -> bool:
    """Say whether two questions agree in what vectors blur: numbers and names, negation, and words with an opposite."""
    if names(one) != names(two):
        return False
    if bool(_NEGATIONS & set(words(one))) != bool(_NEGATIONS & set(words(two))):
        return False
    return _opposites(one) == _opposites(two)


def _opposites(text: str) -> set[tuple[int, int]]:
    stems = {*content_words(text), *words(text)}
    return {_SIDES[stem] for stem in stems if stem in _SIDES}


@dataclass
class _Entry:
    kept: Kept
    question: str
    vector: Vector | None
    until: float


class AnswerCache:
    """The latest answers, in memory.

    Args:
        entries: at most; the one that was used longest ago goes first. 0: nothing is kept.
        ttl_s: how long an answer is good.
    """

    def __init__(
        self,
        entries: int,
        ttl_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = entries
        self._ttl_s = ttl_s
        self._clock = clock
        self._entries: OrderedDict[CacheKey, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def exact(self, key: CacheKey) -> Kept | None:
        """Return the answer to this very question."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.until <= self._clock():
            del self._entries[key]
            return None
        self._entries.move_to_end(key)
        return entry.kept

    def similar(self, key: CacheKey, question: str, vector: Vector, threshold: float) -> tuple[Kept, float] | None:
        """Return the answer to the nearest question of the same scope and its cosine, where it asks the same.

        Args:
            threshold: least cosine.
        """
        now = self._clock()
        near = [
            (float(np.dot(entry.vector, vector)), other)
            for other, entry in self._entries.items()
            if other.scope == key.scope and entry.vector is not None and entry.until > now
        ]
        for cosine, other in sorted(near, key=lambda each: -each[0]):
            if cosine < threshold:
                return None
            if same_facts(question, self._entries[other].question):
                self._entries.move_to_end(other)
                return self._entries[other].kept, cosine
        return None

    def keep(self, key: CacheKey, question: str, kept: Kept, vector: Vector | None = None) -> None:
        """Keep an answer."""
        if not self._limit:
            return
        self._entries[key] = _Entry(kept, question, vector, self._clock() + self._ttl_s)
        self._entries.move_to_end(key)
        while len(self._entries) > self._limit:
            self._entries.popitem(last=False)

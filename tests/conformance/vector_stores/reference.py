"""What every store must answer, worked out one point at a time."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from services.rag.vectors import Point, SparseVector, VectorQuery
from services.rag.vectors.filters import Compare, Either, Every, Filter, OneOf

RRF_K = 60
TIE = 2e-6


def takes(wanted: Filter, payload: Any) -> bool:
    """Say whether a filter takes a point with this payload."""
    if isinstance(wanted, Every):
        return all(takes(part, payload) for part in wanted.filters)
    if isinstance(wanted, Either):
        return any(takes(part, payload) for part in wanted.filters)
    found = _values(wanted.key, payload)
    if isinstance(wanted, OneOf):
        inside = any(_same(value, each) for value in found for each in wanted.values)
        return inside if wanted.type == "in" else not inside
    return _compares(wanted, found)


def _compares(wanted: Compare, found: Sequence[Any]) -> bool:
    if wanted.type in ("eq", "ne"):
        return any(_same(value, wanted.value) for value in found) == (wanted.type == "eq")
    orders = {
        "gt": lambda value: value > wanted.value,
        "gte": lambda value: value >= wanted.value,
        "lt": lambda value: value < wanted.value,
        "lte": lambda value: value <= wanted.value,
    }
    return any(_number(value) and orders[wanted.type](value) for value in found)


def _values(key: str, payload: Any) -> list[Any]:
    for name in _path(key):
        if not isinstance(payload, dict) or name not in payload:
            return []
        payload = payload[name]
    return payload if isinstance(payload, list) else [payload]


def _path(key: str) -> list[str]:
    if '"' in key:
        first, rest = key.split(".", 1)
        return [first, rest.strip('"')]
    return key.split(".")


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _same(one: Any, other: Any) -> bool:
    if _number(one) and _number(other):
        return one == other
    return type(one) is type(other) and one == other


def answer(points: Iterable[Point], query: VectorQuery) -> list[tuple[str, float]]:
    """Return ids and scores of a search by one side, best first. IDF is of all points, whatever the filter takes."""
    (side,) = _sides(list(points), query)
    return sorted(side.items(), key=lambda each: (-each[1], each[0]))[: query.limit]


def fused(points: Iterable[Point], query: VectorQuery) -> dict[str, tuple[float, float]]:
    """Return the least and the most that each fused score may be: equal scores of a side may rank either way."""
    bounds: dict[str, tuple[float, float]] = {}
    for side in _sides(list(points), query):
        scores = np.array(list(side.values()))
        for name, score in side.items():
            better = int((scores > score + TIE).sum())
            equal = int((abs(scores - score) <= TIE).sum())
            least, most = bounds.get(name, (0.0, 0.0))
            bounds[name] = (least + _share(better + equal - 1, query), most + _share(better, query))
    return {name: (least, most) for name, (least, most) in bounds.items() if most > 0}


def _share(rank: int, query: VectorQuery) -> float:
    return 1 / (RRF_K + rank) if rank < query.candidates else 0.0


def _sides(everything: list[Point], query: VectorQuery) -> list[dict[str, float]]:
    taken = [each for each in everything if query.filter is None or takes(query.filter, each.payload)]
    sides = []
    if query.dense is not None:
        sides.append({each.id: float(each.dense @ query.dense) for each in taken})
    if query.sparse is not None:
        scored = {each.id: _bm25(each.sparse, query.sparse, everything) for each in taken}
        sides.append({name: score for name, score in scored.items() if score > 0})
    return sides


def _bm25(document: SparseVector, question: SparseVector, everything: Sequence[Point]) -> float:
    total = 0.0
    for term, weight in zip(question.indices, question.values, strict=True):
        total += float(document.values[document.indices == term].sum() * weight) * _idf(int(term), everything)
    return total


_known: dict[tuple[int, int, str], float] = {}


def _idf(term: int, everything: Sequence[Point]) -> float:
    key = (term, len(everything), everything[0].id)
    if key not in _known:
        # A point without terms has no vector of them, and is not in the count.
        population = [each for each in everything if each.sparse.indices.size]
        holding = sum(1 for each in population if term in each.sparse.indices)
        _known[key] = math.log((len(population) - holding + 0.5) / (holding + 0.5) + 1)
    return _known[key]

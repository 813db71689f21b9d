"""FAISS: an index of vectors in memory and nothing else. Payloads, filters and files are ours, and it shows.

A filter is looked at after the search: the search is repeated for ever more neighbours until enough of them pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from services.rag.vectors import CollectionSpec, Hit, Point, Vector, VectorQuery
from services.rag.vectors.comparison import lacks
from services.rag.vectors.comparison.matching import takes
from services.rag.vectors.comparison.threaded import ThreadedStore
from services.rag.vectors.filters import Filter
from services.rag.vectors.layout import has_terms, in_order, missing


@dataclass
class _Held:
    index: Any
    numbers: dict[str, int] = field(default_factory=dict)
    points: dict[int, tuple[str, dict[str, Any], Vector]] = field(default_factory=dict)
    following: int = 0


class Faiss:
    """Collections in memory; they are written to the folder when they are optimized or closed."""

    name = "FAISS"

    def __init__(self, folder: Path) -> None:
        import faiss  # not installed with the service

        self._faiss: Any = faiss
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._held = {path.stem: self._load(path) for path in folder.glob("*.index")}

    def create(self, collection: str, spec: CollectionSpec) -> None:
        """Make a graph with the others' effort, by inner product."""
        if spec.quantization != "none":
            raise lacks(self.name, "quantization")
        if collection not in self._held:
            graph = self._faiss.IndexHNSWFlat(spec.dimensions, 16, self._faiss.METRIC_INNER_PRODUCT)
            graph.hnsw.efConstruction, graph.hnsw.efSearch = 100, 128
            self._held[collection] = _Held(graph)

    def drop(self, collection: str) -> None:
        """Remove a collection."""
        self._held.pop(collection, None)
        for ending in ("index", "points"):
            (self._folder / f"{collection}.{ending}").unlink(missing_ok=True)

    def collections(self) -> list[str]:
        """Return the names of all collections."""
        return sorted(self._held)

    def _of(self, collection: str) -> _Held:
        if collection not in self._held:
            raise missing(collection)
        return self._held[collection]

    def upsert(self, collection: str, points: Sequence[Point]) -> None:
        """Write points; those that they replace stay in the graph, and are passed over."""
        held = self._of(collection)
        if not points:
            return
        held.index.add(np.stack([point.dense for point in points]))
        for point in points:
            if (before := held.numbers.get(point.id)) is not None:
                del held.points[before]
            held.numbers[point.id] = held.following
            held.points[held.following] = (point.id, dict(point.payload), point.dense)
            held.following += 1

    def delete(self, collection: str, where: Filter) -> None:
        """Forget what the filter takes; the graph can remove nothing."""
        held = self._of(collection)
        for number in [number for number, point in held.points.items() if takes(where, point[1])]:
            del held.numbers[held.points.pop(number)[0]]

    def count(self, collection: str, where: Filter | None) -> int:
        """Return how many there are."""
        return sum(where is None or takes(where, point[1]) for point in self._of(collection).points.values())

    def search(self, collection: str, query: VectorQuery) -> list[Hit]:
        """Return the nearest that the filter takes."""
        if has_terms(query) or query.dense is None:
            raise lacks(self.name, "search by terms")
        if query.exact:
            raise lacks(self.name, "exact search with this index")
        held, depth = self._of(collection), query.limit
        while True:
            depth = min(depth, held.following)
            hits = self._nearest(held, query, depth) if depth else []
            if len(hits) >= query.limit or depth >= held.following:
                return in_order(hits, query.limit)
            depth *= 4

    def _nearest(self, held: _Held, query: VectorQuery, depth: int) -> list[Hit]:
        assert query.dense is not None
        effort = self._faiss.SearchParametersHNSW(efSearch=max(128, depth))
        scores, numbers = held.index.search(query.dense[None], depth, params=effort)
        hits = []
        for score, number in zip(scores[0], numbers[0], strict=True):
            point = held.points.get(int(number))
            if point is not None and (query.filter is None or takes(query.filter, point[1])):
                hits.append(Hit(point[0], float(score), point[1], point[2] if query.with_vectors else None))
        return hits

    def fetch(self, collection: str, where: Filter, limit: int, with_vectors: bool) -> list[Hit]:
        """Return what the filter takes, looking at every point."""
        taken = [point for point in self._of(collection).points.values() if takes(where, point[1])]
        return [Hit(name, 0.0, payload, dense if with_vectors else None) for name, payload, dense in taken[:limit]]

    def optimize(self, collection: str) -> None:
        """Write the collection to disk."""
        held = self._of(collection)
        self._faiss.write_index(held.index, str(self._folder / f"{collection}.index"))
        about = {
            "points": {number: (name, payload) for number, (name, payload, _dense) in held.points.items()},
            "following": held.following,
        }
        (self._folder / f"{collection}.points").write_bytes(msgspec.msgpack.encode(about))

    def _load(self, path: Path) -> _Held:
        index = self._faiss.read_index(str(path))
        about = msgspec.msgpack.decode(path.with_suffix(".points").read_bytes(), strict=False)
        points = {number: (*point, index.reconstruct(number)) for number, point in about["points"].items()}
        return _Held(index, {point[0]: number for number, point in points.items()}, points, about["following"])

    def close(self) -> None:
        """Write all collections to disk."""
        for collection in self._held:
            self.optimize(collection)


def open_faiss(folder: Path) -> ThreadedStore:
    """Return a store in a folder."""
    return ThreadedStore(Faiss(folder))

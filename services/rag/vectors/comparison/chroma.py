"""Chroma in process: HNSW on disk, its own filters on flat metadata; no sparse vectors in its local form."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from services.rag.vectors import CollectionSpec, Hit, Point, VectorQuery
from services.rag.vectors.comparison import lacks
from services.rag.vectors.comparison.threaded import ThreadedStore
from services.rag.vectors.filters import Compare, Every, Filter, OneOf
from services.rag.vectors.layout import has_terms, in_order

_NAMES = {"eq": "$eq", "ne": "$ne", "gt": "$gt", "gte": "$gte", "lt": "$lt", "lte": "$lte"}
_PAYLOAD = "payload"


class Chroma:
    """Collections of a Chroma folder. Its metadata is flat: payload paths are the keys, the whole payload is JSON."""

    name = "Chroma"

    def __init__(self, folder: Path) -> None:
        import chromadb  # not installed with the service

        settings = chromadb.Settings(anonymized_telemetry=False)
        self._client: Any = chromadb.PersistentClient(str(folder), settings=settings)

    def create(self, collection: str, spec: CollectionSpec) -> None:
        """Make a collection with cosine distance and twice the default's effort, as the others have."""
        if spec.quantization != "none":
            raise lacks(self.name, "quantization")
        configuration = {"hnsw": {"space": "cosine", "ef_construction": 100, "ef_search": 128, "max_neighbors": 16}}
        self._client.get_or_create_collection(collection, embedding_function=None, configuration=configuration)

    def _of(self, collection: str) -> Any:
        return self._client.get_collection(collection, embedding_function=None)

    def drop(self, collection: str) -> None:
        """Remove a collection."""
        if collection in self.collections():
            self._client.delete_collection(collection)

    def collections(self) -> list[str]:
        """Return the names of all collections."""
        return sorted(each.name for each in self._client.list_collections())

    def upsert(self, collection: str, points: Sequence[Point]) -> None:
        """Write points, without their terms."""
        if points:
            self._of(collection).upsert(
                ids=[point.id for point in points],
                embeddings=np.stack([point.dense for point in points]),
                metadatas=[_flat(point) for point in points],
            )

    def delete(self, collection: str, where: Filter) -> None:
        """Remove what the filter takes."""
        self._of(collection).delete(where=_where(where))

    def count(self, collection: str, where: Filter | None) -> int:
        """Return how many there are."""
        found = self._of(collection)
        return int(found.count()) if where is None else len(found.get(where=_where(where), include=[])["ids"])

    def search(self, collection: str, query: VectorQuery) -> list[Hit]:
        """Return the nearest."""
        if has_terms(query) or query.dense is None:
            raise lacks(self.name, "search by terms")
        if query.exact:
            raise lacks(self.name, "exact search")
        include = ["metadatas", "distances", *(["embeddings"] if query.with_vectors else [])]
        where = None if query.filter is None else _where(query.filter)
        found = self._of(collection).query([query.dense], n_results=query.limit, where=where, include=include)
        vectors = found["embeddings"][0] if query.with_vectors else [None] * len(found["ids"][0])
        rows = zip(found["ids"][0], found["distances"][0], found["metadatas"][0], vectors, strict=True)
        hits = [_hit(name, 1 - distance, carried, vector) for name, distance, carried, vector in rows]
        return in_order(hits, query.limit)

    def fetch(self, collection: str, where: Filter, limit: int, with_vectors: bool) -> list[Hit]:
        """Return what the filter takes."""
        include = ["metadatas", *(["embeddings"] if with_vectors else [])]
        found = self._of(collection).get(where=_where(where), limit=limit, include=include)
        vectors = found["embeddings"] if with_vectors else [None] * len(found["ids"])
        rows = zip(found["ids"], found["metadatas"], vectors, strict=True)
        return [_hit(name, 0.0, carried, vector) for name, carried, vector in rows]

    def optimize(self, collection: str) -> None:
        """Do nothing: Chroma builds its graph as it writes."""

    def close(self) -> None:
        """Do nothing: every write is on disk."""


def open_chroma(folder: Path) -> ThreadedStore:
    """Return a store in a folder."""
    return ThreadedStore(Chroma(folder))


def _flat(point: Point) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    _flatten("", point.payload, flat)
    return flat | {_PAYLOAD: json.dumps(point.payload)}


def _flatten(prefix: str, payload: Any, flat: dict[str, Any]) -> None:
    for key, value in payload.items():
        if isinstance(value, dict):
            _flatten(f"{prefix}{key}.", value, flat)
        elif isinstance(value, (str, int, float, bool)) and key != "text":
            flat[f"{prefix}{key}"] = value


def _where(wanted: Filter) -> dict[str, Any]:
    if isinstance(wanted, Compare):
        return {wanted.key: {_NAMES[wanted.type]: wanted.value}}
    if isinstance(wanted, OneOf):
        return {wanted.key: {f"${wanted.type}": list(wanted.values)}}
    parts = [_where(part) for part in wanted.filters]
    if not parts:
        raise lacks("Chroma", "filter of no conditions")
    return parts[0] if len(parts) == 1 else {"$and" if isinstance(wanted, Every) else "$or": parts}


def _hit(name: str, score: float, carried: dict[str, Any], vector: Any) -> Hit:
    payload = json.loads(carried[_PAYLOAD])
    return Hit(name, float(score), payload, None if vector is None else np.asarray(vector, np.float32))

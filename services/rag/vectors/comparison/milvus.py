"""Milvus Lite in process: dense and sparse vectors, filters on JSON; it applies no IDF to vectors that come made."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from services.rag.vectors import CollectionSpec, Hit, Point, VectorQuery
from services.rag.vectors.comparison import lacks
from services.rag.vectors.comparison.threaded import ThreadedStore
from services.rag.vectors.filters import Compare, Every, Filter, OneOf
from services.rag.vectors.layout import DENSE, has_terms, in_order

_SIGNS = {"eq": "==", "ne": "!=", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_MOST = 16_384


class Milvus:
    """Collections in a Milvus Lite file. Points without terms, or a search by them, are left to Qdrant."""

    name = "Milvus Lite"

    def __init__(self, file: Path) -> None:
        from pymilvus import DataType, MilvusClient  # not installed with the service

        self._types: Any = DataType
        file.parent.mkdir(parents=True, exist_ok=True)
        self._client: Any = MilvusClient(str(file))

    def create(self, collection: str, spec: CollectionSpec) -> None:
        """Make a collection with a graph, by cosine."""
        if spec.quantization != "none":
            raise lacks(self.name, "quantization")
        if self._client.has_collection(collection):
            return
        schema = self._client.create_schema(auto_id=False)
        schema.add_field("id", self._types.VARCHAR, is_primary=True, max_length=64)
        schema.add_field(DENSE, self._types.FLOAT_VECTOR, dim=spec.dimensions)
        schema.add_field("payload", self._types.JSON)
        index = self._client.prepare_index_params()
        effort = {"M": 16, "efConstruction": 100}
        index.add_index(DENSE, index_type="HNSW", metric_type="COSINE", params=effort)
        self._client.create_collection(collection, schema=schema, index_params=index)

    def drop(self, collection: str) -> None:
        """Remove a collection."""
        if self._client.has_collection(collection):
            self._client.drop_collection(collection)

    def collections(self) -> list[str]:
        """Return the names of all collections."""
        return sorted(self._client.list_collections())

    def upsert(self, collection: str, points: Sequence[Point]) -> None:
        """Write points, without their terms."""
        rows = [{"id": point.id, DENSE: point.dense, "payload": dict(point.payload)} for point in points]
        if rows:
            self._client.upsert(collection, rows)

    def delete(self, collection: str, where: Filter) -> None:
        """Remove what the filter takes."""
        self._client.delete(collection, filter=_expression(where))

    def count(self, collection: str, where: Filter | None) -> int:
        """Return how many there are."""
        wanted = "" if where is None else _expression(where)
        return int(self._client.query(collection, filter=wanted, output_fields=["count(*)"])[0]["count(*)"])

    def search(self, collection: str, query: VectorQuery) -> list[Hit]:
        """Return the nearest."""
        if has_terms(query) or query.dense is None:
            raise lacks(self.name, "search by BM25 of vectors that come made")
        if query.exact:
            raise lacks(self.name, "exact search with this index")
        (found,) = self._client.search(
            collection,
            data=[query.dense],
            filter="" if query.filter is None else _expression(query.filter),
            limit=query.limit,
            anns_field=DENSE,
            search_params={"metric_type": "COSINE", "params": {"ef": 128}},
            output_fields=["payload", *([DENSE] if query.with_vectors else [])],
        )
        return in_order([_hit(each["id"], each["distance"], each["entity"]) for each in found], query.limit)

    def fetch(self, collection: str, where: Filter, limit: int, with_vectors: bool) -> list[Hit]:
        """Return what the filter takes."""
        fields = ["payload", *([DENSE] if with_vectors else [])]
        found = self._client.query(collection, filter=_expression(where), output_fields=fields, limit=min(limit, _MOST))
        return [_hit(each["id"], 0.0, each) for each in found]

    def optimize(self, collection: str) -> None:
        """Bring every write into the index."""
        self._client.flush(collection)

    def close(self) -> None:
        """Let go of the file."""
        self._client.close()


def open_milvus(folder: Path) -> ThreadedStore:
    """Return a store in a folder."""
    return ThreadedStore(Milvus(folder / "milvus.db"))


def _expression(wanted: Filter) -> str:
    if isinstance(wanted, Compare):
        return f"{_field(wanted.key)} {_SIGNS[wanted.type]} {json.dumps(wanted.value)}"
    if not (wanted.values if isinstance(wanted, OneOf) else wanted.filters):
        raise lacks("Milvus Lite", "filter of no conditions")
    if isinstance(wanted, OneOf):
        # Its `in` takes whole fields alone, not what is inside of a JSON one.
        sign, joined = ("==", " or ") if wanted.type == "in" else ("!=", " and ")
        return joined.join(f"{_field(wanted.key)} {sign} {json.dumps(value)}" for value in wanted.values)
    joined = " and " if isinstance(wanted, Every) else " or "
    return joined.join(f"({_expression(part)})" for part in wanted.filters)


def _field(key: str) -> str:
    return "payload" + "".join(f"[{json.dumps(part.strip(chr(34)))}]" for part in key.split(".", 1))


def _hit(name: str, score: float, row: dict[str, Any]) -> Hit:
    payload = row["payload"]
    vector = row.get(DENSE)
    return Hit(
        str(name),
        float(score),
        json.loads(payload) if isinstance(payload, (str, bytes)) else payload,
        None if vector is None else np.asarray(vector, np.float32),
    )

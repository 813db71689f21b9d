"""What goes to Qdrant's engine and what comes back, in its own types and in those that travel between processes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import qdrant_edge as engine

from services.rag.vectors import CollectionSpec, Vector
from services.rag.vectors.conditions import Conditions
from services.rag.vectors.layout import (
    DENSE,
    HNSW_BUILD_EF,
    HNSW_EF,
    HNSW_M,
    KEYWORDS,
    OVERSAMPLING,
    RRF_K,
    TENANT,
    TERMS,
)

_KINDS: Mapping[str, engine.PayloadSchemaType] = {
    "keyword": engine.PayloadSchemaType.Keyword,
    "integer": engine.PayloadSchemaType.Integer,
    "float": engine.PayloadSchemaType.Float,
    "bool": engine.PayloadSchemaType.Bool,
}


def config(spec: CollectionSpec, exact_bytes: int) -> engine.EdgeConfig:
    """Return the engine's configuration of a collection.

    Args:
        exact_bytes: of vectors, up to which they are compared one by one: all, or those that a filter takes.
    """
    return engine.EdgeConfig(
        vectors={DENSE: engine.EdgeVectorParams(size=spec.dimensions, distance=engine.Distance.Cosine)},
        sparse_vectors={TERMS: engine.EdgeSparseVectorParams(modifier=engine.Modifier.Idf)},
        hnsw_config=engine.HnswIndexConfig(
            m=HNSW_M, ef_construct=HNSW_BUILD_EF, full_scan_threshold=max(1, exact_bytes // 1000)
        ),
        quantization_config=_quantization(spec),
        optimizers=engine.EdgeOptimizersConfig(
            indexing_threshold=max(1, exact_bytes // 1000), deleted_threshold=0.1, default_segment_number=1
        ),
    )


def _quantization(spec: CollectionSpec) -> Any:
    if spec.quantization == "scalar":
        return engine.ScalarQuantizationConfig(engine.ScalarType.Int8, quantile=0.99, always_ram=True)
    return engine.BinaryQuantizationConfig(always_ram=True) if spec.quantization == "binary" else None


def indexes(spec: CollectionSpec) -> list[engine.UpdateOperation]:
    """Return the operations that make the payload indexes."""
    make = engine.UpdateOperation.create_field_index
    return [
        make(TENANT, engine.KeywordIndexParams(is_tenant=True)),
        *(make(key, engine.PayloadSchemaType.Keyword) for key in KEYWORDS),
        *(make(key, _KINDS[kind]) for key, kind in spec.filterable.items()),
    ]


def upsert(points: Sequence[Sequence[Any]]) -> engine.UpdateOperation:
    """Return the operation that writes points `[id, dense, indices, values, payload]`, arrays as bytes."""
    return engine.UpdateOperation.upsert_points([_point(*each) for each in points])


def _point(name: str, dense: bytes, indices: bytes, values: bytes, payload: dict[str, Any]) -> engine.Point:
    vectors: dict[str, Any] = {DENSE: np.frombuffer(dense, np.float32)}
    if indices:
        vectors[TERMS] = _terms(indices, values)
    return engine.Point(name, vectors, payload)


def _terms(indices: bytes, values: bytes) -> engine.SparseVector:
    return engine.SparseVector(
        np.frombuffer(indices, np.uint32),  # type: ignore[arg-type]
        np.frombuffer(values, np.float32),  # type: ignore[arg-type]
    )


def filter_of(wanted: Conditions) -> engine.Filter:
    """Return conditions in the engine's types."""
    parts: dict[str, Any] = {kind: [_condition(each) for each in listed] for kind, listed in wanted.items()}
    return engine.Filter(**parts)


def _condition(each: Conditions) -> Any:
    if "has_id" in each:
        return engine.HasIdCondition(set(each["has_id"]))
    if "key" not in each:
        return filter_of(each)
    if "range" in each:
        return engine.FieldCondition(each["key"], range=engine.RangeFloat(**each["range"]))
    if "any" in each["match"]:
        return engine.FieldCondition(each["key"], match=engine.MatchAny(each["match"]["any"]))
    value = each["match"]["value"]
    # The engine's binding reads a Python bool as the number 1 or 0, and numpy's as what it is.
    matched: Any = np.bool_(value) if isinstance(value, bool) else value
    return engine.FieldCondition(each["key"], match=engine.MatchValue(matched))


def query(asked: Mapping[str, Any], spec: CollectionSpec) -> engine.QueryRequest:
    """Return a search.

    Args:
        asked: `dense`, `indices`, `values` (bytes or None), `filter`, `limit`, `candidates`, `vectors`, `exact`.
    """
    where = None if asked["filter"] is None else filter_of(asked["filter"])
    params = _params(asked["exact"], spec)
    common = {"limit": asked["limit"], "with_payload": True, "with_vector": [DENSE] if asked["vectors"] else False}
    dense = asked["dense"] and engine.Query.Nearest(np.frombuffer(asked["dense"], np.float32), using=DENSE)  # type: ignore[arg-type]
    terms = asked["indices"] and engine.Query.Nearest(_terms(asked["indices"], asked["values"]), using=TERMS)
    if dense and terms:
        sides = [
            engine.Prefetch(limit=asked["candidates"], query=side, filter=where, params=params)
            for side in (dense, terms)
        ]
        fused: Any = engine.Fusion.Rrf(k=RRF_K)
        return engine.QueryRequest(query=fused, prefetches=sides, **common)
    return engine.QueryRequest(query=dense or terms, filter=where, params=params, **common)


def _params(exact: bool, spec: CollectionSpec) -> engine.SearchParams:
    quantized = engine.QuantizationSearchParams(rescore=True, oversampling=OVERSAMPLING[spec.quantization])
    return engine.SearchParams(
        hnsw_ef=HNSW_EF, exact=exact, quantization=None if exact or spec.quantization == "none" else quantized
    )


def scroll(where: Conditions, limit: int, with_vectors: bool) -> engine.ScrollRequest:
    """Return the request for points that the filter takes."""
    return engine.ScrollRequest(
        limit=limit, filter=filter_of(where), with_payload=True, with_vector=[DENSE] if with_vectors else False
    )


def found(each: "engine.ScoredPoint | engine.Record", score: float) -> list[Any]:
    """Return `[id, score, payload, vector]` of what the engine found."""
    vector: Vector | None = None
    if isinstance(each.vector, dict) and DENSE in each.vector:
        vector = np.asarray(each.vector[DENSE], np.float32)
    return [str(each.id), float(score), each.payload or {}, None if vector is None else vector.tobytes()]

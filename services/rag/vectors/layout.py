"""How every Qdrant collection is laid out, by the engine in process and by the server alike."""

import re
from collections.abc import Sequence

from services.rag.vectors import CollectionSpec, Hit, Point, Quantization, VectorQuery, VectorStoreError

DENSE, TERMS = "dense", "terms"
# Cormack, Clarke and Büttcher 2009; Qdrant's own default of 2 lets the first ranks decide all but alone.
RRF_K = 60
HNSW_M, HNSW_BUILD_EF = 16, 100
# Graph searches look at this many candidates at least: Qdrant's own default is what the graph was built with, 100.
HNSW_EF = 128
# Up to this size vectors are compared one by one, and nothing is missed: a collection has no graph; and of a larger one
# what a filter takes, where a graph searched with the filter missed one of twelve.
EXACT_BYTES = 75_000_000
# Found by the quantized vectors for each one wanted, then ordered by the whole ones.
OVERSAMPLING: dict[Quantization, float] = {"none": 1.0, "scalar": 2.0, "binary": 4.0}
KEYWORDS = ("document_id", "version")
TENANT = "tenant"

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,127}", re.ASCII)


def check_name(collection: str) -> str:
    """Return the name, which may become a folder's.

    Raises:
        VectorStoreError
    """
    if not _NAME.fullmatch(collection):
        raise VectorStoreError(
            f"{collection!r} can't be a collection: letters, digits, '.', '_' and '-', not first a dot, 128 at most"
        )
    return collection


def check_points(points: Sequence[Point], spec: CollectionSpec, collection: str) -> None:
    """Raise VectorStoreError where a point's vector is not of the collection's dimensions."""
    for point in points:
        if point.dense.shape != (spec.dimensions,):
            raise VectorStoreError(
                f"a vector of shape {point.dense.shape} can't go into collection {collection!r} of "
                f"{spec.dimensions} dimensions: was it made by another embedding model?"
            )


def missing(collection: str) -> VectorStoreError:
    """Return the error for a collection that is not there."""
    return VectorStoreError(f"there is no collection {collection!r} in the vector store: make it first")


def other_layout(collection: str, there: str, wanted: str) -> VectorStoreError:
    """Return the error for a collection that is there, but otherwise."""
    return VectorStoreError(
        f"collection {collection!r} is there with {there}, not with {wanted}: drop it, or take another name"
    )


def has_terms(query: VectorQuery) -> bool:
    """Say whether there is anything to look for by terms; a question of stop words has nothing."""
    return query.sparse is not None and query.sparse.indices.size > 0


def asked(query: VectorQuery) -> int:
    """Return how many hits the engine is asked for: one more, so that a tie at the end is cut by id, not by chance."""
    return query.limit + 1


def in_order(hits: list[Hit], limit: int) -> list[Hit]:
    """Return the best hits; ties, up to rounding, by id: the engines order them each in their own way."""
    return sorted(hits, key=lambda hit: (-round(hit.score, 6), hit.id))[:limit]

"""The port to a vector store, and what goes through it. One file an adapter; all give the same answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from services.rag.vectors.filters import Filter

Vector = npt.NDArray[np.float32]
Quantization = Literal["none", "scalar", "binary"]


@dataclass(frozen=True)
class SparseVector:
    """Terms and their weights: `indices` uint32 and distinct, `values` float32, both `(n_terms,)`."""

    indices: npt.NDArray[np.uint32]
    values: Vector


@dataclass(frozen=True)
class CollectionSpec:
    """How a collection is laid out.

    Args:
        dimensions: of its dense vectors.
        quantization: of its dense vectors in memory; searches rescore with the whole ones.
        filterable: attributes with an index, as payload paths (`attributes.year`) and their kind.
    """

    dimensions: int
    quantization: Quantization = "none"
    filterable: Mapping[str, Literal["keyword", "integer", "float", "bool"]] = field(default_factory=dict)


@dataclass(frozen=True)
class Point:
    """One chunk in the store.

    Args:
        id: a UUID as text.
        dense: `(dimensions,)` float32, L2-normalised.
        sparse: BM25 weights without IDF, which the store applies. It is that of the whole collection, whatever a
            search's filter takes; removed points count until the store has optimized.
    """

    id: str
    dense: Vector
    sparse: SparseVector
    payload: Mapping[str, Any]


@dataclass(frozen=True)
class Hit:
    """A point that was found; `vector` where it was asked for."""

    id: str
    score: float
    payload: Mapping[str, Any]
    vector: Vector | None = None


@dataclass(frozen=True)
class VectorQuery:
    """What to look for: by the dense vector, by the terms, or by both, fused by reciprocal ranks.

    Args:
        limit: hits wanted; with both, each side is asked for `candidates` first.
        with_vectors: give the dense vectors back (MMR needs them).
        exact: compare with every point instead of by the graph.
    """

    dense: Vector | None = None
    sparse: SparseVector | None = None
    filter: Filter | None = None
    limit: int = 10
    candidates: int = 50
    with_vectors: bool = False
    exact: bool = False


class VectorStoreError(Exception):
    """The store can't be reached or refused; the message says what to do."""


class VectorStore(Protocol):
    """Where the points are. Every method raises VectorStoreError when the store is down.

    Those that take a filter also raise filters.FilterError, for one that no store can take.
    """

    async def create(self, collection: str, spec: CollectionSpec) -> None:
        """Make a collection; nothing happens where it is there with this layout."""

    async def drop(self, collection: str) -> None:
        """Remove a collection with its points; nothing happens where there is none."""

    async def collections(self) -> list[str]:
        """Return the names of all collections."""

    async def upsert(self, collection: str, points: Sequence[Point]) -> None:
        """Write points; they are searchable, and survive a kill of any process, when this returns.

        A power cut may take the last second's (a Qdrant server: five seconds').
        """

    async def delete(self, collection: str, where: Filter) -> None:
        """Remove every point that the filter takes."""

    async def count(self, collection: str, where: Filter | None = None) -> int:
        """Return how many points there are, exactly."""

    async def search(self, collection: str, query: VectorQuery) -> list[Hit]:
        """Return hits, best first. Scores are cosines (dense), BM25 (sparse) or fused ranks (both)."""

    async def fetch(self, collection: str, where: Filter, limit: int = 1000, with_vectors: bool = False) -> list[Hit]:
        """Return points that the filter takes, in no order, with score 0."""

    async def optimize(self, collection: str) -> None:
        """Build what makes searches quick after many writes; may take long, searches go on meanwhile."""

    async def ready(self) -> str:
        """Return `ok`, or a sentence on what is wrong; at once."""

    async def close(self) -> None:
        """Let go of files and connections."""

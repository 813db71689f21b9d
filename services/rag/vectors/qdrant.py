"""A Qdrant server by its client; and the client's own pure-Python store, which checks the others.

The pure-Python store compares with every point, has no indexes, and is not thread-safe: for tests, not for use.
"""

import asyncio
import warnings
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import httpx
import numpy as np
from qdrant_client import AsyncQdrantClient, models
from qdrant_client.common.client_exceptions import QdrantException
from qdrant_client.http.exceptions import ApiException, ResponseHandlingException, UnexpectedResponse

from services.rag.vectors import CollectionSpec, Hit, Point, SparseVector, Vector, VectorQuery, VectorStoreError
from services.rag.vectors.conditions import conditions
from services.rag.vectors.filters import Filter
from services.rag.vectors.layout import (
    DENSE,
    EXACT_BYTES,
    HNSW_BUILD_EF,
    HNSW_EF,
    HNSW_M,
    KEYWORDS,
    OVERSAMPLING,
    RRF_K,
    TENANT,
    TERMS,
    asked,
    check_name,
    check_points,
    has_terms,
    in_order,
    missing,
    other_layout,
)

_TIMEOUT_S, _READY_S = 30, 1.0
# A request of more would come near the server's bound of 32 MB with long payloads.
_POINTS_A_REQUEST = 256
_KINDS: Mapping[str, models.PayloadSchemaType] = {
    "keyword": models.PayloadSchemaType.KEYWORD,
    "integer": models.PayloadSchemaType.INTEGER,
    "float": models.PayloadSchemaType.FLOAT,
    "bool": models.PayloadSchemaType.BOOL,
}


class QdrantVectorStore:
    """Collections of a Qdrant server, or of the client's pure-Python store.

    Args:
        where: `url`, `path` or `location` of AsyncQdrantClient.
    """

    def __init__(self, *, where: Mapping[Literal["url", "path", "location"], str], key: str = "") -> None:
        self._remote = "url" in where
        self._named = where.get("url", "in this process")
        self._specs: dict[str, CollectionSpec] = {}
        with warnings.catch_warnings():
            # It warns of a key over plain HTTP, which is what a compose network has.
            warnings.simplefilter("ignore", UserWarning)
            self._client = AsyncQdrantClient(
                **where,  # type: ignore[arg-type]
                api_key=key or None,
                timeout=_TIMEOUT_S,
                check_compatibility=False,
            )

    @classmethod
    def at_url(cls, url: str, key: str = "") -> "QdrantVectorStore":
        """Return the store at a server."""
        return cls(where={"url": url}, key=key)

    @classmethod
    def in_memory(cls) -> "QdrantVectorStore":
        """Return a pure-Python store that is gone with the process."""
        return cls(where={"location": ":memory:"})

    @classmethod
    def at_path(cls, folder: Path) -> "QdrantVectorStore":
        """Return the pure-Python store in a folder.

        Raises:
            VectorStoreError: another process has it.
        """
        try:
            return cls(where={"path": str(folder)})
        except RuntimeError as error:
            raise VectorStoreError(f"the vector store in {folder} is open in another process: stop that one") from error

    async def create(self, collection: str, spec: CollectionSpec) -> None:
        """Make a collection; nothing happens where it is there with this layout."""
        async with self._told(check_name(collection)):
            if await self._client.collection_exists(collection):
                await self._check_layout(collection, spec)
            else:
                await self._make(collection, spec)
        self._specs[collection] = spec

    async def _make(self, collection: str, spec: CollectionSpec) -> None:
        await self._client.create_collection(
            collection,
            vectors_config={DENSE: models.VectorParams(size=spec.dimensions, distance=models.Distance.COSINE)},
            sparse_vectors_config={TERMS: models.SparseVectorParams(modifier=models.Modifier.IDF)},
            hnsw_config=models.HnswConfigDiff(
                m=HNSW_M, ef_construct=HNSW_BUILD_EF, full_scan_threshold=EXACT_BYTES // 1000
            ),
            quantization_config=_quantization(spec),
            optimizers_config=models.OptimizersConfigDiff(indexing_threshold=EXACT_BYTES // 1000),
            metadata={"filterable": dict(spec.filterable), "quantization": spec.quantization},
        )
        if not self._remote:
            return
        tenant = models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True)
        await self._client.create_payload_index(collection, TENANT, tenant, wait=True)
        for key in KEYWORDS:
            await self._client.create_payload_index(collection, key, models.PayloadSchemaType.KEYWORD, wait=True)
        for key, kind in spec.filterable.items():
            await self._client.create_payload_index(collection, key, _KINDS[kind], wait=True)

    async def _check_layout(self, collection: str, spec: CollectionSpec) -> None:
        config = (await self._client.get_collection(collection)).config
        vectors, noted = config.params.vectors, config.metadata or {}
        dense = vectors.get(DENSE) if isinstance(vectors, dict) else None
        if dense is None or TERMS not in (config.params.sparse_vectors or {}):
            raise other_layout(collection, "other vectors", f"{DENSE!r} and {TERMS!r}")
        there = CollectionSpec(dense.size, noted.get("quantization", "none"), noted.get("filterable", {}))
        if there != spec:
            raise other_layout(collection, str(there), str(spec))

    async def drop(self, collection: str) -> None:
        """Remove a collection with its points; nothing happens where there is none."""
        self._specs.pop(collection, None)
        async with self._told(check_name(collection)):
            await self._client.delete_collection(collection)

    async def collections(self) -> list[str]:
        """Return the names of all collections."""
        async with self._told(""):
            return sorted(each.name for each in (await self._client.get_collections()).collections)

    async def upsert(self, collection: str, points: Sequence[Point]) -> None:
        """Write points; they are searchable, and survive a kill, when this returns."""
        check_points(points, await self._spec(collection), collection)
        async with self._told(collection):
            for start in range(0, len(points), _POINTS_A_REQUEST):
                part = [_struct(point) for point in points[start : start + _POINTS_A_REQUEST]]
                await self._client.upsert(collection, part, wait=True)

    async def delete(self, collection: str, where: Filter) -> None:
        """Remove every point that the filter takes."""
        wanted = _filter(where)
        async with self._told(collection):
            await self._client.delete(collection, models.FilterSelector(filter=wanted), wait=True)

    async def count(self, collection: str, where: Filter | None = None) -> int:
        """Return how many points there are, exactly."""
        wanted = None if where is None else _filter(where)
        async with self._told(collection):
            return (await self._client.count(collection, count_filter=wanted, exact=True)).count

    async def search(self, collection: str, query: VectorQuery) -> list[Hit]:
        """Return hits, best first. Scores are cosines (dense), BM25 (sparse) or fused ranks (both)."""
        spec = await self._spec(collection)
        where = None if query.filter is None else _filter(query.filter)
        params = _params(query.exact, spec)
        common: dict[str, Any] = {
            "limit": asked(query),
            "with_payload": True,
            "with_vectors": [DENSE] if query.with_vectors else False,
        }
        sides: list[tuple[str, Any]] = []
        if query.dense is not None:
            check_points([Point("", query.dense, _NO_TERMS, {})], spec, collection)
            sides.append((DENSE, query.dense.tolist()))
        if query.sparse is not None and has_terms(query):
            sides.append((TERMS, _terms(query.sparse)))
        if not sides:
            return []
        async with self._told(collection):
            if len(sides) == 1:
                ((using, vector),) = sides
                answer = await self._client.query_points(
                    collection, query=vector, using=using, query_filter=where, search_params=params, **common
                )
            else:
                depth = max(query.candidates, asked(query))
                prefetch = [
                    models.Prefetch(query=vector, using=using, filter=where, params=params, limit=depth)
                    for using, vector in sides
                ]
                fused = models.RrfQuery(rrf=models.Rrf(k=RRF_K))
                answer = await self._client.query_points(collection, query=fused, prefetch=prefetch, **common)
        return in_order([_hit(each, each.score) for each in answer.points], query.limit)

    async def fetch(self, collection: str, where: Filter, limit: int = 1000, with_vectors: bool = False) -> list[Hit]:
        """Return points that the filter takes, in no order, with score 0."""
        wanted, vectors = _filter(where), [DENSE] if with_vectors else False
        async with self._told(collection):
            records, _next = await self._client.scroll(
                collection, scroll_filter=wanted, limit=limit, with_payload=True, with_vectors=vectors
            )
        return [_hit(each, 0.0) for each in records]

    async def optimize(self, collection: str) -> None:
        """Do nothing but look: a server optimizes by itself, the pure-Python store has nothing to build."""
        await self._spec(collection)

    async def ready(self) -> str:
        """Return `ok`, or a sentence on what is wrong; at once."""
        if not self._remote:
            return "ok"
        try:
            async with asyncio.timeout(_READY_S), self._told(""):
                await self._client.get_collections()
        except VectorStoreError as error:
            return str(error)
        except TimeoutError:
            return f"the Qdrant server at {self._named} has not answered for {_READY_S:.0f} s"
        return "ok"

    async def close(self) -> None:
        """Let go of files and connections."""
        await self._client.close()

    async def _spec(self, collection: str) -> CollectionSpec:
        if (spec := self._specs.get(collection)) is None:
            async with self._told(check_name(collection)):
                config = (await self._client.get_collection(collection)).config
            vectors, noted = config.params.vectors, config.metadata or {}
            dense = vectors[DENSE] if isinstance(vectors, dict) else models.VectorParams.model_validate(vectors)
            spec = CollectionSpec(dense.size, noted.get("quantization", "none"), noted.get("filterable", {}))
            self._specs[collection] = spec
        return spec

    @asynccontextmanager
    async def _told(self, collection: str) -> AsyncIterator[None]:
        """Turn the client's errors into VectorStoreError."""
        try:
            with nullcontext() if self._remote else warnings.catch_warnings():
                if not self._remote:
                    warnings.simplefilter("ignore", UserWarning)  # that it is slow above 20,000 points
                yield
        except (ResponseHandlingException, httpx.HTTPError, OSError) as error:
            raise VectorStoreError(
                f"the Qdrant server at {self._named} can't be reached ({error or type(error).__name__}): start it, or "
                "correct RAG_QDRANT_URL"
            ) from error
        except UnexpectedResponse as error:
            if error.status_code == 404 and collection:
                raise missing(collection) from error
            if error.status_code in (401, 403):
                raise VectorStoreError(
                    f"the Qdrant server at {self._named} refuses the key: correct RAG_QDRANT_KEY"
                ) from error
            raise VectorStoreError(
                f"the Qdrant server at {self._named} refused: {' '.join(str(error).split())}"
            ) from error
        except (ApiException, QdrantException) as error:
            raise VectorStoreError(f"the Qdrant server at {self._named} failed: {error}") from error
        except ValueError as error:
            if not self._remote and "not found" in str(error):
                raise missing(collection) from error
            raise VectorStoreError(f"the vector store refused: {error}") from error


_NO_TERMS = SparseVector(np.zeros(0, np.uint32), np.zeros(0, np.float32))


def _quantization(spec: CollectionSpec) -> "models.ScalarQuantization | models.BinaryQuantization | None":
    if spec.quantization == "scalar":
        config = models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99, always_ram=True)
        return models.ScalarQuantization(scalar=config)
    if spec.quantization == "binary":
        return models.BinaryQuantization(binary=models.BinaryQuantizationConfig(always_ram=True))
    return None


def _params(exact: bool, spec: CollectionSpec) -> models.SearchParams:
    quantized = models.QuantizationSearchParams(rescore=True, oversampling=OVERSAMPLING[spec.quantization])
    return models.SearchParams(
        hnsw_ef=HNSW_EF, exact=exact, quantization=None if exact or spec.quantization == "none" else quantized
    )


def _filter(where: Filter) -> models.Filter:
    return models.Filter.model_validate(conditions(where))


def _terms(sparse: SparseVector) -> models.SparseVector:
    return models.SparseVector(indices=sparse.indices.tolist(), values=sparse.values.tolist())


def _struct(point: Point) -> models.PointStruct:
    vector: dict[str, Any] = {DENSE: point.dense.tolist()}
    if point.sparse.indices.size:
        vector[TERMS] = _terms(point.sparse)
    return models.PointStruct(id=point.id, vector=vector, payload=dict(point.payload))


def _hit(each: "models.ScoredPoint | models.Record", score: float) -> Hit:
    vector: Vector | None = None
    if isinstance(each.vector, dict) and DENSE in each.vector:
        vector = np.asarray(each.vector[DENSE], np.float32)
    return Hit(str(each.id), score, each.payload or {}, vector)

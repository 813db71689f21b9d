"""Calls of the vector store as spans, by the semantic conventions of databases.

Source: https://opentelemetry.io/docs/specs/semconv/database/database-spans/
"""

from collections.abc import Sequence

from services.kit import tracing
from services.kit.tracing import Span
from services.rag.vectors import CollectionSpec, Hit, Point, VectorQuery, VectorStore
from services.rag.vectors.filters import Filter


class TracedStore:
    """Passes everything on; what a request or an ingest waits for is a client span of its own."""

    def __init__(self, store: VectorStore) -> None:
        self._store = store

    async def create(self, collection: str, spec: CollectionSpec) -> None:
        """Make a collection; nothing happens where it is there with this layout."""
        await self._store.create(collection, spec)

    async def drop(self, collection: str) -> None:
        """Remove a collection with its points; nothing happens where there is none."""
        await self._store.drop(collection)

    async def collections(self) -> list[str]:
        """Return the names of all collections."""
        return await self._store.collections()

    async def upsert(self, collection: str, points: Sequence[Point]) -> None:
        """Write points; they are searchable, and safe on disk, when this returns."""
        with _call("upsert", collection) as span:
            span.set({"db.operation.batch.size": len(points)})
            await self._store.upsert(collection, points)

    async def delete(self, collection: str, where: Filter) -> None:
        """Remove every point that the filter takes."""
        with _call("delete", collection):
            await self._store.delete(collection, where)

    async def count(self, collection: str, where: Filter | None = None) -> int:
        """Return how many points there are, exactly."""
        with _call("count", collection):
            return await self._store.count(collection, where)

    async def search(self, collection: str, query: VectorQuery) -> list[Hit]:
        """Return hits, best first."""
        with _call("search", collection) as span:
            hits = await self._store.search(collection, query)
            if span.recording:
                sides = [name for name in ("dense", "sparse") if getattr(query, name) is not None]
                span.set(
                    {
                        "db.response.returned_rows": len(hits),
                        "db.query.summary": f"{' + '.join(sides)}, {query.limit} wanted",
                    }
                )
            return hits

    async def fetch(self, collection: str, where: Filter, limit: int = 1000, with_vectors: bool = False) -> list[Hit]:
        """Return points that the filter takes, in no order, with score 0."""
        with _call("fetch", collection) as span:
            hits = await self._store.fetch(collection, where, limit, with_vectors)
            span.set({"db.response.returned_rows": len(hits)})
            return hits

    async def optimize(self, collection: str) -> None:
        """Build what makes searches quick after many writes."""
        await self._store.optimize(collection)

    async def ready(self) -> str:
        """Return `ok`, or a sentence on what is wrong; at once."""
        return await self._store.ready()

    async def close(self) -> None:
        """Let go of files and connections."""
        await self._store.close()


def _call(operation: str, collection: str) -> Span:
    attributes = {"db.system.name": "qdrant", "db.operation.name": operation, "db.collection.name": collection}
    return tracing.client_span(f"{operation} {collection}", attributes)

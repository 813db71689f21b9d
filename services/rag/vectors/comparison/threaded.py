"""What the compared databases share: their libraries block, so that each call has the one thread of its store."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from services.rag.vectors import CollectionSpec, Hit, Point, VectorQuery, VectorStoreError
from services.rag.vectors.filters import Filter

_T = TypeVar("_T")


class Database(Protocol):
    """A database by its own blocking library; methods as in VectorStore."""

    name: str

    def create(self, collection: str, spec: CollectionSpec) -> None: ...
    def drop(self, collection: str) -> None: ...
    def collections(self) -> list[str]: ...
    def upsert(self, collection: str, points: Sequence[Point]) -> None: ...
    def delete(self, collection: str, where: Filter) -> None: ...
    def count(self, collection: str, where: Filter | None) -> int: ...
    def search(self, collection: str, query: VectorQuery) -> list[Hit]: ...
    def fetch(self, collection: str, where: Filter, limit: int, with_vectors: bool) -> list[Hit]: ...
    def optimize(self, collection: str) -> None: ...
    def close(self) -> None: ...


class ThreadedStore:
    """A VectorStore of a blocking database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=database.name)

    async def _call(self, work: Callable[[], _T]) -> _T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except VectorStoreError:
            raise
        except Exception as error:  # three libraries, each with errors of its own
            raise VectorStoreError(f"{self._database.name} failed: {error}") from error

    async def create(self, collection: str, spec: CollectionSpec) -> None:
        """Make a collection; nothing happens where it is there."""
        await self._call(lambda: self._database.create(collection, spec))

    async def drop(self, collection: str) -> None:
        """Remove a collection with its points; nothing happens where there is none."""
        await self._call(lambda: self._database.drop(collection))

    async def collections(self) -> list[str]:
        """Return the names of all collections."""
        return await self._call(self._database.collections)

    async def upsert(self, collection: str, points: Sequence[Point]) -> None:
        """Write points."""
        await self._call(lambda: self._database.upsert(collection, points))

    async def delete(self, collection: str, where: Filter) -> None:
        """Remove every point that the filter takes."""
        await self._call(lambda: self._database.delete(collection, where))

    async def count(self, collection: str, where: Filter | None = None) -> int:
        """Return how many points there are, exactly."""
        return await self._call(lambda: self._database.count(collection, where))

    async def search(self, collection: str, query: VectorQuery) -> list[Hit]:
        """Return hits, best first."""
        return await self._call(lambda: self._database.search(collection, query))

    async def fetch(self, collection: str, where: Filter, limit: int = 1000, with_vectors: bool = False) -> list[Hit]:
        """Return points that the filter takes, in no order, with score 0."""
        return await self._call(lambda: self._database.fetch(collection, where, limit, with_vectors))

    async def optimize(self, collection: str) -> None:
        """Build what makes searches quick after many writes."""
        await self._call(lambda: self._database.optimize(collection))

    async def ready(self) -> str:
        """Return `ok`: there is no server that could be down."""
        return "ok"

    async def close(self) -> None:
        """Let go of files."""
        await self._call(self._database.close)
        self._thread.shutdown()

"""A vector store that may come later: the service starts without it, says so, and has it when it is there."""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from services.rag.vectors import CollectionSpec, Hit, Point, VectorQuery, VectorStore, VectorStoreError
from services.rag.vectors.filters import Filter

_log = structlog.get_logger("rag")
_PAUSE_S = 2.0


class LateStore:
    """Opens a store in the background, again and again until it opens; raises VectorStoreError until then.

    Args:
        make: opens the store; called in a thread.
    """

    def __init__(self, make: Callable[[], VectorStore], pause_s: float = _PAUSE_S) -> None:
        self._make = make
        self._pause_s = pause_s
        self._store: VectorStore | None = None
        self._problem = "it is being opened"
        self._opening: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Try once; where that fails, go on trying in the background."""
        if not await self._try():
            self._opening = asyncio.create_task(self._keep_trying())

    async def close(self) -> None:
        """Let go of the store."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        if self._store is not None:
            await self._store.close()

    async def ready(self) -> str:
        """Return `ok`, or a sentence on what is wrong; at once."""
        return self._problem if self._store is None else await self._store.ready()

    async def create(self, collection: str, spec: CollectionSpec) -> None:
        """Make a collection; nothing happens where it is there with this layout."""
        await self._there().create(collection, spec)

    async def drop(self, collection: str) -> None:
        """Remove a collection with its points; nothing happens where there is none."""
        await self._there().drop(collection)

    async def collections(self) -> list[str]:
        """Return the names of all collections."""
        return await self._there().collections()

    async def upsert(self, collection: str, points: Sequence[Point]) -> None:
        """Write points; they are searchable, and safe on disk, when this returns."""
        await self._there().upsert(collection, points)

    async def delete(self, collection: str, where: Filter) -> None:
        """Remove every point that the filter takes."""
        await self._there().delete(collection, where)

    async def count(self, collection: str, where: Filter | None = None) -> int:
        """Return how many points there are, exactly."""
        return await self._there().count(collection, where)

    async def search(self, collection: str, query: VectorQuery) -> list[Hit]:
        """Return hits, best first."""
        return await self._there().search(collection, query)

    async def fetch(self, collection: str, where: Filter, limit: int = 1000, with_vectors: bool = False) -> list[Hit]:
        """Return points that the filter takes, in no order, with score 0."""
        return await self._there().fetch(collection, where, limit, with_vectors)

    async def optimize(self, collection: str) -> None:
        """Build what makes searches quick after many writes."""
        await self._there().optimize(collection)

    def _there(self) -> VectorStore:
        if self._store is None:
            raise VectorStoreError(f"the vector store is not there: {self._problem}")
        return self._store

    async def _try(self) -> bool:
        try:
            self._store = await asyncio.to_thread(self._make)
        except Exception as error:  # each store's own; whatever it is, the service stays up and tries again
            problem = f"it can't be opened: {error}"
            if problem != self._problem:
                _log.warning("store.not_open", reason=str(error))
            self._problem = problem
            return False
        return True

    async def _keep_trying(self) -> None:
        while True:
            await asyncio.sleep(self._pause_s)
            if await self._try():
                _log.info("store.open")
                return

"""Chunks of many documents in full batches: documents are small, and batches are what makes embedding quick."""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from services.kit.tracing import NOTHING, Span
from services.rag.documents import Chunk
from services.rag.ingesting.rows import DocumentRow
from services.rag.library import Collection
from services.rag.reading import Cut

# How long a batch that is not full waits for a document that is still being read.
_LINGER_S = 0.1


@dataclass(eq=False)
class Run:
    """One document on its way through the pipeline.

    Args:
        row: as it was claimed.
        remaining: chunks that have not been dealt with.
        written: chunks that are in the store.
        void: a newer order has come: nothing more of it is written.
        wrote: points of it may be in the store.
        failure: code and sentence, where it can't be ingested: nothing more of it is written.
    """

    row: DocumentRow
    collection: Collection
    cut: Cut | None = None
    remaining: int = 0
    written: int = 0
    void: bool = False
    wrote: bool = False
    failure: tuple[str, str] | None = None
    span: Span = NOTHING

    @property
    def key(self) -> tuple[str, str]:
        """Which document it is."""
        return self.row.collection, self.row.id

    @property
    def wanted(self) -> bool:
        """Its chunks are still to be written."""
        return not self.void and self.failure is None


class Reading(Protocol):
    """Says how many documents may still bring chunks."""

    def __call__(self) -> int:
        """Return their number."""


class Batcher:
    """A bounded queue of chunks. Who reads waits when it is full; who embeds takes full batches.

    Args:
        size: chunks in a batch.
        bound: chunks that may wait; a document with more than that comes in when nothing else waits.
    """

    def __init__(self, size: int, bound: int, reading: Reading) -> None:
        self._size = size
        self._bound = bound
        self._reading = reading
        self._waiting: deque[tuple[Run, Chunk]] = deque()
        self._changed = asyncio.Condition()

    @property
    def full(self) -> bool:
        """No more documents should be read for now."""
        return len(self._waiting) >= self._bound

    async def put(self, run: Run, chunks: Sequence[Chunk]) -> None:
        """Add a document's chunks, in their order, as soon as there is room."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self.full or not run.wanted)
            self._waiting.extend((run, chunk) for chunk in chunks)
            self._changed.notify_all()

    async def take(self) -> list[tuple[Run, Chunk]]:
        """Return a full batch; a smaller one where nothing more is on its way, or it is slow.

        Chunks of runs that are void come too: whoever takes them counts them off.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: bool(self._waiting))
            if len(self._waiting) < self._size and self._reading():
                await self._linger()
            taken = [self._waiting.popleft() for _ in range(min(self._size, len(self._waiting)))]
            self._changed.notify_all()
        return taken

    async def _linger(self) -> None:
        try:
            async with asyncio.timeout(_LINGER_S):
                await self._changed.wait_for(lambda: len(self._waiting) >= self._size or not self._reading())
        except TimeoutError:
            return

    async def nudge(self) -> None:
        """Let those who wait look again: a document is read, or void."""
        async with self._changed:
            self._changed.notify_all()

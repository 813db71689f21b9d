"""Work that is tried again, with growing pauses, for as long as a neighbour is down."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from services.rag.errors import EmbeddingsUnavailable
from services.rag.reading import ReadersBroken
from services.rag.vectors import VectorStoreError

T = TypeVar("T")
_LONGEST_PAUSE_S = 20.0
_log = structlog.get_logger("ingest")


class Patience:
    """Tries until it works, and knows what it waits for.

    Args:
        first_pause_s: doubled each time, up to 20 s.
    """

    def __init__(self, first_pause_s: float = 0.25) -> None:
        self._first_pause_s = first_pause_s
        self._waiting: dict[object, str] = {}

    @property
    def waiting_for(self) -> str:
        """What is being waited for, in a sentence; empty where nothing is."""
        return next(iter(self._waiting.values()), "")

    async def insist(self, work: Callable[[], Awaitable[T]], wanted: Callable[[], bool] = lambda: True) -> T | None:
        """Return what `work` returns, however often it takes.

        Args:
            wanted: asked before each further try; None is returned when it says no.
        """
        pause_s = self._first_pause_s
        ticket = object()
        try:
            while True:
                try:
                    return await work()
                except (EmbeddingsUnavailable, VectorStoreError, ReadersBroken) as error:
                    if not wanted():
                        return None
                    if ticket not in self._waiting:
                        _log.warning("ingest.waiting", reason=str(error))
                    self._waiting[ticket] = str(error)
                # Spread out, so that several do not come back in the same moment.
                await asyncio.sleep(pause_s * random.uniform(0.75, 1.25))  # noqa: S311 - no secret
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        finally:
            self._waiting.pop(ticket, None)

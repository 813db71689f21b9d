"""Requests that can wait: what a chat page asks for beside the conversation, such as a title or tags.

Open WebUI says in `X-OpenWebUI-Task` what it asks for. What nobody waits for lets people go first: it waits until no
other request is under way with the same model, and goes alone; where that takes too long it goes all the same, so that
a busy model makes titles late, not never. The header needs no proof: who sends it puts nobody back but themselves.
Source: github.com/open-webui/open-webui, backend/open_webui/constants.py, TASKS
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.gateway.exchange import Live
from services.gateway.metrics import GatewayMetrics
from services.kit.asgi import Scope, header

HEADER = b"x-openwebui-task"
_NOBODY_WAITS_FOR = frozenset({b"title_generation", b"tags_generation", b"follow_up_generation", b"emoji_generation"})
"""Others, such as the query for a search, stand before the answer that somebody waits for."""


def can_wait(scope: Scope) -> bool:
    """Say whether nobody waits for the answer to a request."""
    return header(scope, HEADER) in _NOBODY_WAITS_FOR


class Background:
    """The turns of such requests.

    Args:
        most_s: how long one waits at most.
    """

    def __init__(self, live: Live, most_s: float, metrics: GatewayMetrics) -> None:
        self._live = live
        self._most_s = most_s
        self._metrics = metrics
        self._turns: dict[str, asyncio.Lock] = {}

    @asynccontextmanager
    async def turn(self, model: str) -> AsyncIterator[float]:
        """Wait for a quiet moment of a model, and tell how long; the next turn is given when this one is over."""
        turn = self._turns.setdefault(model, asyncio.Lock())
        began = time.monotonic()
        mine = False
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._most_s):
                    mine = await turn.acquire()
                    while self._live.in_flight(model):
                        await self._live.next_end()
            waited_s = time.monotonic() - began
            self._metrics.background_wait.labels(model).observe(waited_s)
            yield waited_s
        finally:
            if mine:
                turn.release()

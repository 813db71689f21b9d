"""How a request waits for its model, and what its client sees meanwhile."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from services.gateway.control import Progress
from services.gateway.demands import Patience
from services.gateway.exchange import Exchange
from services.gateway.leases import Lease, Leases
from services.gateway.metrics import GatewayMetrics
from services.kit import tracing
from services.kit.errors import AppError, EngineUnreachable, ModelLoading

_QUIETLY_S = 0.2
"""What ends sooner is not worth a word: a refusal keeps its status, an answer the engine's own head."""
_EVERY_S = 2.0
_LOOK_S = 10.0
"""For the engines service to see that an engine has gone."""
_LOOK_AGAIN_S = 0.2
_ANSWER_S = 1.0


class TalkingPatience:
    """Of a stream that may carry comments: waits as long as its client does, and says what for.

    Args:
        say: sends a comment; the first one comes when the client really has to wait.
        every_s: the longest silence between two.
    """

    def __init__(self, model: str, say: Callable[[bytes, Progress], Awaitable[None]], every_s: float) -> None:
        self._model = model
        self._say = say
        self._every_s = min(every_s, _EVERY_S)
        now = time.monotonic()
        self._due = now + _QUIETLY_S
        self._due_unknowing = now + _EVERY_S
        """When a word is due though nothing is known of the wait: a busy machine, not a queue."""
        self._said: tuple[str, int | None] | None = None

    def pause_s(self, progress: Progress | None) -> float:
        return max(0.0, self._due_with(progress) - time.monotonic())

    def _due_with(self, progress: Progress | None) -> float:
        return self._due if progress is not None else max(self._due, self._due_unknowing)

    async def wait_on(self, progress: Progress | None) -> bool:
        known = progress or Progress()
        now = time.monotonic()
        news = self._said is not None and self._said != (known.state, known.position)
        if now >= self._due_with(progress) or news:
            self._said = (known.state, known.position)
            self._due = now + self._every_s
            await self._say(comment(self._model, known), known)
        return True


class SilentPatience:
    """Of a stream whose format has no comments: waits as long as its client does."""

    def pause_s(self, progress: Progress | None) -> float:
        return 3600.0

    async def wait_on(self, progress: Progress | None) -> bool:
        return True


class BoundedPatience:
    """Of a plain request: waits for so long, and not at all where the load is known to take longer."""

    def __init__(self, at_most_s: float) -> None:
        self._until = time.monotonic() + at_most_s

    def pause_s(self, progress: Progress | None) -> float:
        return max(0.0, self._until - time.monotonic())

    async def wait_on(self, progress: Progress | None) -> bool:
        left = self._until - time.monotonic()
        return left > 0 and (progress is None or progress.eta_s is None or progress.eta_s <= left)


def comment(model: str, progress: Progress) -> bytes:
    """Return an SSE comment: `: loading MODEL, position 1, about 12 s`."""
    place = "" if not progress.position else f", position {progress.position}"
    left = "" if progress.eta_s is None else f", about {progress.eta_s:.0f} s"
    return f": {progress.state} {model}{place}{left}\n\n".encode()


class LeaseHolder:
    """One exchange's place on a lease: taken, waited for, replaced where its engine is lost, given back."""

    def __init__(self, exchange: Exchange, leases: Leases, metrics: GatewayMetrics) -> None:
        self.lease: Lease | None = None
        self._exchange = exchange
        self._leases = leases
        self._metrics = metrics

    async def take(self, patience: Callable[[], Patience]) -> Lease:
        """Return a lease with this exchange on it; `patience` is made where it must be waited for.

        Raises:
            AppError: there is none to be had, or not in time.
        """
        exchange = self._exchange
        lease = self._leases.take(exchange.target.upstream_id) or await self._wait(patience())
        self.lease = lease
        exchange.engine, exchange.upstream_id = lease.engine, lease.upstream_id
        return lease

    async def _wait(self, patience: Patience) -> Lease:
        exchange = self._exchange
        began = time.monotonic()
        outcome = "left"
        exchange.held = True
        try:
            with tracing.child_span("gateway.lease", {"gateway.model": exchange.model}):
                lease = await self._leases.wait(exchange.target.upstream_id, patience)
            outcome = "granted"
            return lease
        except AppError as error:
            outcome = "sent away" if isinstance(error, ModelLoading) else "refused"
            raise
        finally:
            exchange.held = False
            seconds = time.monotonic() - began
            exchange.held_s += seconds
            self._metrics.load_wait.labels(exchange.model, outcome).observe(seconds)

    async def replace(self, reason: str, patience: Callable[[], Patience]) -> Lease:
        """Return another lease in place of one whose engine is lost.

        Where the same engine is named again, nobody may have looked at it yet: it must show that it answers.

        Raises:
            AppError: there is none to be had, or not in time.
        """
        give_up_at = time.monotonic() + _LOOK_S
        while True:
            lost = self.lease
            assert lost is not None
            self.give_back(None)
            await asyncio.shield(self._leases.lost(lost, reason))
            lease = await self.take(patience)
            if not lease.is_at(lost) or await _answers(lease):
                return lease
            if time.monotonic() > give_up_at:
                raise EngineUnreachable(reason)
            await asyncio.sleep(_LOOK_AGAIN_S)

    def lost(self, reason: str) -> None:
        """Have the engines service told that the engine is lost; nobody waits for that."""
        if self.lease is not None:
            self._leases.lost(self.lease, reason)

    def give_back(self, keep_alive_s: float | None) -> None:
        """Leave the lease."""
        if self.lease is not None:
            self._leases.give_back(self.lease, keep_alive_s)
            self.lease = None


async def _answers(lease: Lease) -> bool:
    try:
        await lease.api.models(_ANSWER_S)
    except AppError:
        return False
    return True

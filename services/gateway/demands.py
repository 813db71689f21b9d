"""Asking for leases: one demand a model at the engines service, shared by all requests that wait for the model."""

import asyncio
import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from services.gateway.control import EnginesService, Grant, Progress
from services.kit.errors import AppError, EngineUnreachable, Internal, ModelLoading

_log = structlog.get_logger("leases")
_SLACK = 1.1
_LEAST_SLACK_S = 1.0


@dataclass(frozen=True)
class LeaseTimes:
    """Seconds: how often a lease is renewed, how long an idle one is kept, how often that is looked at."""

    renew_s: float = 3.0
    idle_s: float = 1.0
    tick_s: float = 0.5
    reconnect_s: float = 10.0
    """How long a demand goes on trying when the engines service ends in the middle of a load."""
    stop_s: float = 2.0


class Events(Protocol):
    """What is counted of leases: `granted`, `released`, `lapsed`, `draining`, `lost`, `refused`, `unleased`."""

    def lease(self, event: str) -> None:
        """Count one event."""


class Patience(Protocol):
    """How somebody waits for a model."""

    def pause_s(self, progress: Progress | None) -> float:
        """Return after how many seconds it wants to be asked again, whatever happens."""

    async def wait_on(self, progress: Progress | None) -> bool:
        """Note how far the model is; return whether to go on waiting."""


class Demand:
    """One `POST /leases` that is waiting."""

    def __init__(self) -> None:
        self.progress: Progress | None = None
        self.waiters = 0
        self.error: AppError | None = None
        self.ended = False
        self.changed = asyncio.Event()
        self.task: asyncio.Task[None] | None = None

    def note(self, progress: Progress) -> None:
        """Wake everybody who waits with the latest progress."""
        self.progress = progress
        self._wake()

    def end(self, error: AppError | None = None) -> None:
        """Let everybody go: there is a lease, or `error` says why there is none."""
        self.error, self.ended = error, True
        self._wake()

    def _wake(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    async def follow(self, patience: Patience) -> bool:
        """Wait until the demand has ended; return False where patience ended first.

        Raises:
            AppError: the model can't be had.
        """
        while not self.ended:
            changed = self.changed
            try:
                async with asyncio.timeout(patience.pause_s(self.progress)):
                    await changed.wait()
            except TimeoutError:
                pass
            if not self.ended and not await patience.wait_on(self.progress):
                return False
        if self.error is not None:
            raise copy.copy(self.error)  # each waiter raises its own
        return True


class Demands:
    """All demands of this process.

    Args:
        granted: takes what the engines service grants.
        serve_without: finds a way to serve a model while that service can't be reached; returns whether it has one.
    """

    def __init__(
        self,
        engines: EnginesService,
        holder: str,
        events: Events,
        times: LeaseTimes,
        *,
        granted: Callable[[Grant, str], None],
        serve_without: Callable[[str], bool],
    ) -> None:
        self._engines = engines
        self._holder = holder
        self._events = events
        self._times = times
        self._granted = granted
        self._serve_without = serve_without
        self._demands: dict[str, Demand] = {}
        self._later: dict[str, asyncio.Task[None]] = {}

    def held(self) -> int:
        """Return how many requests wait."""
        return sum(demand.waiters for demand in self._demands.values())

    def tasks(self) -> "list[asyncio.Task[None]]":
        """Return what is under way."""
        return [*(d.task for d in self._demands.values() if d.task is not None), *self._later.values()]

    async def wait(self, model: str, patience: Patience) -> None:
        """Wait until there is a lease; who is cancelled takes its demand back.

        Raises:
            ModelLoading: patience ended; the load goes on, and the error says when to come back.
            AppError: the model can't be had.
        """
        demand = self._demands.get(model) or self._ask(model)
        demand.waiters += 1
        try:
            if not await demand.follow(patience):
                await self._come_back_later(model)
        finally:
            demand.waiters -= 1
            if not demand.waiters and demand.task is not None:
                del self._demands[model]
                demand.task.cancel()
                demand.task = None

    def _ask(self, model: str) -> Demand:
        demand = self._demands[model] = Demand()
        demand.task = asyncio.create_task(self._answer(model, demand))
        return demand

    async def _answer(self, model: str, demand: Demand) -> None:
        error: AppError | None = None
        crash: Exception | None = None
        try:
            await self._until_granted(model, demand)
        except AppError as failure:
            self._events.lease("refused")
            error = failure
        except Exception as failure:  # nobody must wait for ever
            crash = failure
            error = Internal(f"asking for {model} failed; the gateway's log says how")
        del self._demands[model]
        demand.task = None
        demand.end(error)
        if crash is not None:
            _log.error("demand.crashed", model=model, exc_info=crash)

    async def _until_granted(self, model: str, demand: Demand) -> None:
        """Ask; a service that ends in the middle of a load, to be started again, is asked again for a while."""
        give_up_at = None
        while True:
            try:
                await self._ask_once(model, demand)
                return
            except EngineUnreachable:
                if self._serve_without(model):
                    return
                now = time.monotonic()
                if demand.progress is not None and give_up_at is None:
                    give_up_at = now + self._times.reconnect_s
                if give_up_at is None or now >= give_up_at:
                    raise
            await asyncio.sleep(self._times.tick_s)

    async def _ask_once(self, model: str, demand: Demand) -> None:
        answers = self._engines.lease(model, self._holder)
        try:
            async for said in answers:
                if isinstance(said, Grant):
                    self._granted(said, model)
                    return
                demand.note(said)
        finally:
            await answers.aclose()

    async def _come_back_later(self, model: str) -> None:
        """Have the demand remembered for a client that is sent away; who is lucky finds a lease all the same."""
        task = self._later.get(model)
        if task is None:
            task = self._later[model] = asyncio.create_task(self._have_remembered(model))
            task.add_done_callback(lambda _: self._later.pop(model, None))
        try:
            await asyncio.shield(task)
        except AppError as error:
            own = copy.copy(error)
            if isinstance(own, ModelLoading):
                own.retry_after_s = _retry_after_s(own.eta_s, own.retry_after_s)
            raise own from None

    async def _have_remembered(self, model: str) -> None:
        # A holder of its own: what is remembered must outlive the demand of those who are still waiting.
        self._granted(await self._engines.lease_now(model, f"{self._holder}-later"), model)


def _retry_after_s(eta_s: float | None, told_s: float | None) -> float:
    """Return when a client that was sent away finds the model loaded: the estimate with some slack."""
    estimate = 0.0 if eta_s is None else eta_s * _SLACK
    return max(estimate + _LEAST_SLACK_S, told_s or 0.0)

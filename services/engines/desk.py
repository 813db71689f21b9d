"""What clients of the service ask for: leases at once or when they can be had, loads and unloads on purpose."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import structlog

from services.engines.admission import Need, Room
from services.engines.fleet import Fleet
from services.engines.host_memory import HostMemory
from services.engines.metrics import EnginesMetrics
from services.engines.offers import Offer, find_offer
from services.engines.planning.machines import Machine
from services.engines.recipes import RecipeError
from services.engines.residency import DoesNotFitError, NotServedError, Residency
from services.engines.residents import Lease
from services.kit import tracing
from services.kit.errors import ModelNotFound
from services.kit.tracing import Span

_log = structlog.get_logger("engines")
_PROGRESS_S = 2.0
_SLACK_S = 15.0
OPERATOR = "operator"
"""Who waits for a model that was loaded on purpose."""


@dataclass(frozen=True)
class Granted:
    """A lease, and where its requests go."""

    lease: Lease
    document: Mapping[str, Any]


@dataclass(frozen=True)
class Progress:
    """How far somebody's model is."""

    state: str
    position: int | None
    eta_s: float | None
    elapsed_s: float
    message: str


class Desk:
    """The models of this machine, as clients see them. All state is the event loop's.

    Args:
        offers: what can be served here; the first is the default.
        reserve_bytes: what stays free for the host.
        cap_bytes: what all engines together may take; None for what the machine has.
    """

    def __init__(
        self,
        *,
        offers: list[Offer],
        machine: Machine,
        reserve_bytes: int,
        cap_bytes: int | None,
        residency: Residency,
        fleet: Fleet,
        metrics: EnginesMetrics,
        read_memory: Callable[[], HostMemory],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.offers = {offer.id: offer for offer in offers}
        self.machine = machine
        self.residency = residency
        self.fleet = fleet
        self.metrics = metrics
        self.needs: dict[str, Need] = {offer.id: offer.need(machine) for offer in offers}
        self.quarantined: str | None = None
        """The model that was being loaded when the machine stopped."""
        self.suspects: set[str] = set()
        """Models whose engines somebody could not reach, and nobody has looked at since."""
        self.forced: set[str] = set()
        """To be unloaded without waiting for requests under way."""
        self.refusals: dict[str, NotServedError] = {}
        """Why a model can't be had, by the last try."""
        self.last_memory = HostMemory(0, 0, 0)
        self.change = asyncio.Event()
        self.clock = clock
        self.load_task: asyncio.Task[None] | None = None
        self.asked_in: dict[str, Span] = {}
        """The latest request for a model that is not loaded, by model: its load stands in that trace."""
        self._reserve_bytes = reserve_bytes
        self._cap_bytes = cap_bytes
        self._read_memory = read_memory
        self._last_room = Room(0, 0)

    def find(self, name: str) -> Offer:
        """Return the offer of a name.

        Raises:
            ModelNotFound
        """
        try:
            return find_offer(name, self.offers.values())
        except RecipeError as error:
            raise ModelNotFound(str(error), param="model") from None

    async def lease_at_once(self, offer: Offer, holder: str) -> Granted | Progress:
        """Return a lease, or how far the model is; it is wanted then until a client that obeys `eta_s` is back.

        Raises:
            NotServedError
        """
        await self.want(offer, holder, promise=True)
        granted = self._grant(offer, holder, waiter="")
        return granted or await self.progress(offer, self.clock())

    async def lease_when_ready(self, offer: Offer, holder: str) -> AsyncIterator[Progress | Granted]:
        """Yield how far the model is, at each change and every other second, and the lease at the end.

        Raises:
            NotServedError: at once, or later when the load fails.
        """
        waiter, began = f"{holder}:{secrets.token_hex(4)}", self.clock()
        with tracing.ending(tracing.child_span("engines.lease", {"engines.model": offer.id})):
            async with aclosing(self._lease_when_ready(offer, holder, waiter, began)) as events:
                async for event in events:
                    yield event

    async def _lease_when_ready(
        self, offer: Offer, holder: str, waiter: str, began: float
    ) -> AsyncGenerator[Progress | Granted, None]:
        await self.want(offer, waiter, promise=False)
        try:
            while True:
                change = self.change
                granted = self._grant(offer, holder, waiter)
                if granted is not None:
                    yield granted
                    return
                if waiter not in self.residency.models[offer.id].waiters:
                    raise self.refusals.get(offer.id) or NotServedError(f"{offer.id} was unloaded meanwhile", 5)
                yield await self.progress(offer, began)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_PROGRESS_S):
                        await change.wait()
        finally:
            self.residency.leave(offer.id, waiter, self.clock())
            self.changed()

    def renew(self, lease_id: str, in_flight: int) -> bool:
        """Prolong a lease; return whether its model drains.

        Raises:
            LeaseLapsedError
        """
        lease = self.residency.renew(lease_id, in_flight, self.clock())
        model = self.residency.models[lease.model]
        return model.draining or model.unload_asked

    def release(self, lease_id: str, keep_alive_s: float | None) -> None:
        """End a lease.

        Raises:
            LeaseLapsedError
        """
        self.residency.release(lease_id, self.clock(), keep_alive_s)
        self.changed()

    def lost(self, lease_id: str, reason: str) -> None:
        """End a lease whose holder could not reach the engine, and look at that engine at once.

        Raises:
            LeaseLapsedError
        """
        model = self.residency.release(lease_id, self.clock())
        _log.warning("engine.lost", model=model, reason=reason)
        self.suspects.add(model)  # no new leases before it was looked at
        self.fleet.look_now()
        self.changed()

    async def want_loaded(self, model_id: str, *, pin: bool | None = None, by_itself: bool = False) -> None:
        """Load a model on purpose and keep it; the operator's word also ends a quarantine.

        Raises:
            NotServedError
        """
        if model_id == self.quarantined and not by_itself:
            self.quarantined = None
        self.residency.keep_loaded(model_id, pinned=pin)
        await self.want(self.offers[model_id], OPERATOR, promise=False)

    async def until_loaded(self, model_id: str) -> None:
        """Wait until a model that was wanted is ready.

        Raises:
            NotServedError: it failed.
        """
        while self.residency.models[model_id].state != "ready":
            change = self.change
            if OPERATOR not in self.residency.models[model_id].waiters:
                raise self.refusals.get(model_id) or NotServedError(f"{model_id} was unloaded meanwhile")
            await change.wait()

    def unload(self, model_id: str, *, force: bool) -> None:
        """Unload a model when nobody holds it, or at once."""
        self.residency.ask_unload(model_id, self.clock())
        self.refusals.pop(model_id, None)
        loading = self.residency.loading()
        if force:
            self.residency.models[model_id].leases.clear()
            # At once: a gateway that finds its lease gone asks for another, and would have the model loaded again.
            self.forced.add(model_id)
            if loading is not None and loading.id == model_id and self.load_task is not None:
                self.load_task.cancel()
        self.changed()

    async def room(self) -> Room:
        """Return what engines may take now."""
        self.last_memory = memory = await asyncio.to_thread(self._read_memory)
        self._last_room = Room.of(memory, self._reserve_bytes, self._cap_bytes)
        return self._last_room

    async def progress(self, offer: Offer, began: float) -> Progress:
        """Return how far a model is that somebody waits for."""
        now, room = self.clock(), await self.room()
        position = self.residency.position(offer.id)
        eta_s = self.residency.eta_s(offer.id, now, room)
        state = "loading" if position == 0 else "queued"
        if any(model.state == "unloading" for model in self.residency.models.values()):
            state = "unloading"
        about = f", about {eta_s:.0f} s" if eta_s is not None else ""
        place = f", position {position} in the queue" if position else ""
        return Progress(state, position, eta_s, now - began, f"{state} {offer.id}{place}{about}")

    def why_not(self, model_id: str) -> str:
        """Return why a model was not loaded the last time that it was to be; empty where it was."""
        return str(self.refusals.get(model_id, ""))

    def eta_hint(self, model_id: str, now: float) -> float | None:
        """Return about how long it is until a model answers, by the memory that was last looked at."""
        return self.residency.eta_s(model_id, now, self._last_room)

    async def want(self, offer: Offer, waiter: str, *, promise: bool) -> None:
        if offer.id == self.quarantined:
            raise NotServedError(
                f"{offer.id} is not loaded by itself: the machine stopped while it was being loaded. Look at "
                f"`sparkstack plan {offer.id} --machine this`, then try again with `sparkstack load {offer.id}`"
            )
        room, now = await self.room(), self.clock()
        try:
            self.residency.want(offer.id, waiter, now, room, until=now + 1 if promise else None)
        except DoesNotFitError:
            self.metrics.refusals.labels(offer.id).inc()
            raise
        if offer.id not in self.fleet.engines:
            self.asked_in[offer.id] = tracing.current()
        if promise:  # what it was told to wait, and then some
            eta_s = self.residency.eta_s(offer.id, now, room) or 0.0
            self.residency.want(offer.id, waiter, now, room, until=now + 1.5 * eta_s + _SLACK_S)
        self.changed()

    def _grant(self, offer: Offer, holder: str, waiter: str) -> Granted | None:
        engine = self.fleet.engines.get(offer.id)
        if engine is None or offer.id in self.suspects:
            return None
        lease = self.residency.lease(offer.id, holder, self.clock(), waiter)
        if lease is None:
            return None
        document = {
            "lease": lease.id,
            "model": offer.id,
            "engine": offer.engine,
            "url": engine.target.url,
            "upstream_id": engine.target.upstream_id,
            "api_key": engine.target.api_key or None,
            "expires_in_s": self.residency.limits.lease_s,
        }
        return Granted(lease, document)

    def changed(self) -> None:
        change, self.change = self.change, asyncio.Event()
        change.set()

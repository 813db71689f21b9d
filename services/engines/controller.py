"""Does what the residency decides: loads, unloads, watches, restarts, and tells those who wait.

Two tasks: one takes the residency's steps one after another, so that one engine starts at a time; one looks at what
runs every other second. All state is the event loop's; what blocks goes to threads.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog

from services.engines.admission import Need, Room
from services.engines.fleet import Fleet
from services.engines.host_memory import HostMemory
from services.engines.loading.journal import Journal
from services.engines.loading.receipts import Receipts
from services.engines.loading.starting import Engine, LoadFailedError, Starter
from services.engines.metrics import EnginesMetrics
from services.engines.offers import Offer, find_offer
from services.engines.planning.machines import Machine
from services.engines.recipes import RecipeError
from services.engines.residency import DoesNotFitError, Load, NotServedError, Refuse, Residency, Rest, Step, Unload
from services.engines.residents import Lease
from services.engines.runtimes import RuntimeUnreachableError
from services.kit.errors import ModelNotFound

_log = structlog.get_logger("engines")
_PROGRESS_S = 2.0
_LONGEST_REST_S = 5.0
_OPERATOR = "operator"
_SLACK_S = 15.0
_RUNTIME_S = 30.0
"""For supervisord or Docker to come up when the machine starts."""
_RUNTIME_AGAIN_S = 0.5


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


class Controller:
    """The models of this machine, as clients of the service see them.

    Args:
        offers: what can be served here; the first is the default.
        preload: loaded at the start, in this order, and kept.
    """

    def __init__(
        self,
        *,
        offers: list[Offer],
        preload: list[Offer],
        aliases: Mapping[str, list[str]],
        machine: Machine,
        reserve_bytes: int,
        cap_bytes: int | None,
        residency: Residency,
        fleet: Fleet,
        starter: Starter,
        journal: Journal,
        receipts: Receipts,
        metrics: EnginesMetrics,
        read_memory: Callable[[], HostMemory],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.offers = {offer.id: offer for offer in offers}
        self.preload = preload
        self.aliases = aliases
        self.machine = machine
        self.residency = residency
        self.fleet = fleet
        self.receipts = receipts
        self.needs: dict[str, Need] = {offer.id: offer.need(machine) for offer in offers}
        self.quarantined: str | None = None
        self._reserve_bytes = reserve_bytes
        self._cap_bytes = cap_bytes
        self._starter = starter
        self._journal = journal
        self._metrics = metrics
        self._read_memory = read_memory
        self._clock = clock
        self._suspects: set[str] = set()
        self._forced: set[str] = set()
        """To be unloaded without waiting for requests under way."""
        self._why_not: dict[str, NotServedError] = {}
        self.last_memory = HostMemory(0, 0, 0)
        self._last_room = Room(0, 0)
        self._change = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._loading: asyncio.Task[None] | None = None

    # Life

    async def open(self) -> None:
        """Take over what an earlier service has left running, then load what is to be loaded at the start."""
        for offer in self.offers.values():
            known = await asyncio.to_thread(self.receipts.load_s, offer.id, offer.engine)
            self.residency.define(offer.id, self.needs[offer.id], known or offer.arguments.load_s)
        for engine in await self._adopt():
            now = self._clock()
            self.residency.load_began(engine.offer.id, now)
            self.residency.load_ended(engine.offer.id, now, taken=engine.taken)
        unfinished = await asyncio.to_thread(self._journal.unfinished_load)
        if unfinished in self.offers:
            self.quarantined = unfinished
            _log.error("engine.quarantined", model=unfinished, reason="the machine stopped while it was being loaded")
        await asyncio.to_thread(self._journal.end_load)
        for offer in self.preload:
            try:
                await self.want_loaded(offer.id, by_itself=True)
            except NotServedError as error:  # whoever looks at the list of models is told
                self._why_not[offer.id] = error
        self._tasks = [asyncio.create_task(self._drive()), asyncio.create_task(self._watch())]

    async def _adopt(self) -> list[Engine]:
        give_up_at = self._clock() + _RUNTIME_S
        while True:
            try:
                return await self.fleet.adopt(self.offers)
            except RuntimeUnreachableError as error:
                if self._clock() >= give_up_at:
                    raise
                _log.warning("engines.runtime_unreachable", reason=str(error), doing="trying again")
                await asyncio.sleep(_RUNTIME_AGAIN_S)

    async def close(self) -> None:
        """Stop deciding. Engines run on: a restarted service takes them over, and `down` ends them."""
        for task in [*self._tasks, *([self._loading] if self._loading else [])]:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    # What clients ask

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
        await self._want(offer, holder, promise=True)
        granted = self._grant(offer, holder, waiter="")
        return granted or await self.progress(offer, self._clock())

    async def lease_when_ready(self, offer: Offer, holder: str) -> AsyncIterator[Progress | Granted]:
        """Yield how far the model is, at each change and every other second, and the lease at the end.

        Raises:
            NotServedError: at once, or later when the load fails.
        """
        waiter, began = f"{holder}:{secrets.token_hex(4)}", self._clock()
        await self._want(offer, waiter, promise=False)
        try:
            while True:
                change = self._change
                granted = self._grant(offer, holder, waiter)
                if granted is not None:
                    yield granted
                    return
                if waiter not in self.residency.models[offer.id].waiters:
                    raise self._why_not.get(offer.id) or NotServedError(f"{offer.id} was unloaded meanwhile", 5)
                yield await self.progress(offer, began)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_PROGRESS_S):
                        await change.wait()
        finally:
            self.residency.leave(offer.id, waiter, self._clock())
            self._changed()

    def renew(self, lease_id: str, in_flight: int) -> bool:
        """Prolong a lease; return whether its model drains.

        Raises:
            LeaseLapsedError
        """
        lease = self.residency.renew(lease_id, in_flight, self._clock())
        model = self.residency.models[lease.model]
        return model.draining or model.unload_asked

    def release(self, lease_id: str, keep_alive_s: float | None) -> None:
        """End a lease.

        Raises:
            LeaseLapsedError
        """
        self.residency.release(lease_id, self._clock(), keep_alive_s)
        self._changed()

    def lost(self, lease_id: str, reason: str) -> None:
        """End a lease whose holder could not reach the engine, and look at that engine at once.

        Raises:
            LeaseLapsedError
        """
        model = self.residency.release(lease_id, self._clock())
        _log.warning("engine.lost", model=model, reason=reason)
        self._suspects.add(model)  # no new leases before it was looked at
        self.fleet.look_now()
        self._changed()

    async def want_loaded(self, model_id: str, *, pin: bool | None = None, by_itself: bool = False) -> None:
        """Load a model on purpose and keep it; the operator's word also ends a quarantine.

        Raises:
            NotServedError
        """
        if model_id == self.quarantined and not by_itself:
            self.quarantined = None
        self.residency.keep_loaded(model_id, pinned=pin)
        await self._want(self.offers[model_id], _OPERATOR, promise=False)

    async def until_loaded(self, model_id: str) -> None:
        """Wait until a model that was wanted is ready.

        Raises:
            NotServedError: it failed.
        """
        while self.residency.models[model_id].state != "ready":
            change = self._change
            if _OPERATOR not in self.residency.models[model_id].waiters:
                raise self._why_not.get(model_id) or NotServedError(f"{model_id} was unloaded meanwhile")
            await change.wait()

    def unload(self, model_id: str, *, force: bool) -> None:
        """Unload a model when nobody holds it, or at once."""
        self.residency.ask_unload(model_id, self._clock())
        self._why_not.pop(model_id, None)
        loading = self.residency.loading()
        if force:
            self.residency.models[model_id].leases.clear()
            # At once: a gateway that finds its lease gone asks for another, and would have the model loaded again.
            self._forced.add(model_id)
            if loading is not None and loading.id == model_id and self._loading is not None:
                self._loading.cancel()
        self._changed()

    async def room(self) -> Room:
        """Return what engines may take now."""
        self.last_memory = memory = await asyncio.to_thread(self._read_memory)
        self._last_room = Room.of(memory, self._reserve_bytes, self._cap_bytes)
        return self._last_room

    async def progress(self, offer: Offer, began: float) -> Progress:
        """Return how far a model is that somebody waits for."""
        now, room = self._clock(), await self.room()
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
        return str(self._why_not.get(model_id, ""))

    def eta_hint(self, model_id: str, now: float) -> float | None:
        """Return about how long it is until a model answers, by the memory that was last looked at."""
        return self.residency.eta_s(model_id, now, self._last_room)

    # Deciding and doing

    async def _want(self, offer: Offer, waiter: str, *, promise: bool) -> None:
        if offer.id == self.quarantined:
            raise NotServedError(
                f"{offer.id} is not loaded by itself: the machine stopped while it was being loaded. Look at "
                f"`sparkstack plan {offer.id} --machine this`, then try again with `sparkstack load {offer.id}`"
            )
        room, now = await self.room(), self._clock()
        try:
            self.residency.want(offer.id, waiter, now, room, until=now + 1 if promise else None)
        except DoesNotFitError:
            self._metrics.refusals.labels(offer.id).inc()
            raise
        if promise:  # what it was told to wait, and then some
            eta_s = self.residency.eta_s(offer.id, now, room) or 0.0
            self.residency.want(offer.id, waiter, now, room, until=now + 1.5 * eta_s + _SLACK_S)
        self._changed()

    def _grant(self, offer: Offer, holder: str, waiter: str) -> Granted | None:
        engine = self.fleet.engines.get(offer.id)
        if engine is None or offer.id in self._suspects:
            return None
        lease = self.residency.lease(offer.id, holder, self._clock(), waiter)
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

    def _changed(self) -> None:
        change, self._change = self._change, asyncio.Event()
        change.set()

    async def _drive(self) -> None:
        while True:
            change = self._change
            try:
                await self.fleet.ending.try_again()
                await self._starter.ending.try_again()
                step = self.residency.next_step(self._clock(), await self.room())
                await self._do(step, change)
            except Exception:  # a bug, or a machine in trouble: the next step may go well
                _log.exception("engines.step")
                await asyncio.sleep(1)

    async def _do(self, step: Step, change: asyncio.Event) -> None:
        match step:
            case Load(model):
                self._loading = asyncio.create_task(self._load(self.offers[model]))
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.shield(self._loading)
                if not self._loading.done():  # it is this task that was cancelled
                    raise asyncio.CancelledError
                self._loading = None
            case Unload(model, reason):
                await self._unload(model, reason)
            case Refuse(model, refused):
                self._why_not[model] = DoesNotFitError(refused)
                self._metrics.refusals.labels(model).inc()
                self.residency.refused(model, self._clock())
            case Rest(until, _):
                left = _LONGEST_REST_S if until is None else max(0.01, until - self._clock())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(left, _LONGEST_REST_S)):
                        await change.wait()
                return
        self._changed()

    async def _load(self, offer: Offer) -> None:
        self._why_not.pop(offer.id, None)
        model = self.residency.models[offer.id]
        self.residency.load_began(offer.id, self._clock())
        self._forced.discard(offer.id)
        self._changed()
        try:
            engine = await self._starter.start(offer, model.need, offer.plan(self.machine).short_ceiling_tok_per_s)
        except asyncio.CancelledError:
            self.residency.unloaded(offer.id, self._clock())
            self._metrics.loads.labels(offer.id, "cancelled").inc()
            raise
        except Exception as error:
            if not isinstance(error, LoadFailedError):  # a bug, or a machine in trouble: others are served all the same
                _log.exception("engine.load_crashed", model=offer.id)
            self._fail(offer.id, str(error) or type(error).__name__)
            self._metrics.loads.labels(offer.id, "failed").inc()
            return
        self._metrics.loads.labels(offer.id, "ready").inc()
        self.residency.load_ended(offer.id, self._clock(), taken=engine.taken)
        await self.fleet.add(engine)
        self.residency.leave(offer.id, _OPERATOR, self._clock())
        known = await asyncio.to_thread(self.receipts.load_s, offer.id, offer.engine)
        model.load_s = known or model.load_s

    async def _unload(self, model_id: str, reason: str) -> None:
        _log.info("engine.unload", model=model_id, reason=reason)
        self.residency.unload_began(model_id, self._clock())
        self._changed()
        await self.fleet.remove(model_id, at_once=model_id in self._forced)
        self._forced.discard(model_id)
        self._metrics.unloads.labels(model_id).inc()
        self.residency.unloaded(model_id, self._clock())

    def _fail(self, model_id: str, reason: str) -> None:
        now = self._clock()
        self.residency.failed(model_id, now, reason)
        again_in_s = self.residency.models[model_id].retry_at - now
        self._why_not[model_id] = NotServedError(reason, retry_after_s=again_in_s)

    # Watching

    async def _watch(self) -> None:
        while True:
            suspects = set(self._suspects)
            try:
                for death in await self.fleet.look(self._open_requests):
                    await self._end(death.model, death.reason, death.retry_after_s)
            except Exception:  # watching must not end
                _log.exception("engines.watch")
            self._suspects -= suspects
            self._changed()
            await self.fleet.until_next_look()

    def _open_requests(self, model_id: str) -> int:
        return self.residency.models[model_id].in_flight

    async def _end(self, model_id: str, reason: str, retry_after_s: float | None) -> None:
        """Clear a dead or wedged engine away; it is loaded again where anybody needs it."""
        model = self.residency.models[model_id]
        if model.state != "ready":  # it is being unloaded
            return
        _log.error("engine.ended", model=model_id, reason=reason)
        self._metrics.crashes.labels(model_id).inc()
        needed = model.keep or bool(model.leases)
        self.residency.unload_began(model_id, self._clock())
        self._changed()
        await self.fleet.remove(model_id, at_once=True)
        if retry_after_s is None:
            self._fail(model_id, reason)
        else:
            waiter = _OPERATOR if needed else ""
            self.residency.crashed(model_id, self._clock(), reason, retry_after_s, waiter)
        self._changed()

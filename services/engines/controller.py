"""Does what the residency decides: loads, unloads, watches, restarts, and tells those who wait.

Two tasks: one takes the residency's steps one after another, so that one engine starts at a time; one looks at what
runs every other second. All state is the event loop's; what blocks goes to threads.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

import structlog

from services.engines.admission import Need
from services.engines.desk import OPERATOR, Desk
from services.engines.loading.journal import Journal
from services.engines.loading.receipts import Receipts
from services.engines.loading.starting import Engine, LoadFailedError, Starter
from services.engines.offers import Offer
from services.engines.residency import DoesNotFitError, Load, NotServedError, Refuse, Rest, Step, Unload
from services.engines.runtimes import RuntimeUnreachableError
from services.kit.tracing import NOTHING, Attributes

_log = structlog.get_logger("engines")
_LONGEST_REST_S = 5.0
_RUNTIME_S = 30.0
"""For supervisord or Docker to come up when the machine starts."""
_RUNTIME_AGAIN_S = 0.5


class Controller(Desk):
    """Does what has been decided for the desk's clients.

    Args:
        preload: loaded at the start, in this order, and kept.
        aliases: further names of models, by id.
        desk: the arguments of `Desk`.
    """

    def __init__(
        self,
        *,
        preload: list[Offer],
        aliases: Mapping[str, list[str]],
        starter: Starter,
        journal: Journal,
        receipts: Receipts,
        **desk: Any,
    ) -> None:
        super().__init__(**desk)
        self.preload = preload
        self.aliases = aliases
        self.receipts = receipts
        self._starter = starter
        self._journal = journal
        self._tasks: list[asyncio.Task[None]] = []

    # Life

    async def open(self) -> None:
        """Take over what an earlier service has left running, then load what is to be loaded at the start."""
        for offer in self.offers.values():
            known = await asyncio.to_thread(self.receipts.load_s, offer.id, offer.engine)
            self.residency.define(offer.id, self.needs[offer.id], known or offer.arguments.load_s)
        for engine in await self._adopt():
            now = self.clock()
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
                self.refusals[offer.id] = error
        self._tasks = [asyncio.create_task(self._drive()), asyncio.create_task(self._watch())]

    async def _adopt(self) -> list[Engine]:
        give_up_at = self.clock() + _RUNTIME_S
        while True:
            try:
                return await self.fleet.adopt(self.offers)
            except RuntimeUnreachableError as error:
                if self.clock() >= give_up_at:
                    raise
                _log.warning("engines.runtime_unreachable", reason=str(error), doing="trying again")
                await asyncio.sleep(_RUNTIME_AGAIN_S)

    async def close(self) -> None:
        """Stop deciding. Engines run on: a restarted service takes them over, and `down` ends them."""
        for task in [*self._tasks, *([self.load_task] if self.load_task else [])]:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    # Deciding and doing

    async def _drive(self) -> None:
        while True:
            change = self.change
            try:
                await self.fleet.ending.try_again()
                await self._starter.ending.try_again()
                step = self.residency.next_step(self.clock(), await self.room())
                await self._do(step, change)
            except Exception:  # a bug, or a machine in trouble: the next step may go well
                _log.exception("engines.step")
                await asyncio.sleep(1)

    async def _do(self, step: Step, change: asyncio.Event) -> None:
        match step:
            case Load(model):
                self.load_task = asyncio.create_task(self._load(self.offers[model]))
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.shield(self.load_task)
                if not self.load_task.done():  # it is this task that was cancelled
                    raise asyncio.CancelledError
                self.load_task = None
            case Unload(model, reason):
                await self._unload(model, reason)
            case Refuse(model, refused):
                self.refusals[model] = DoesNotFitError(refused)
                self.metrics.refusals.labels(model).inc()
                self.residency.refused(model, self.clock())
            case Rest(until, _):
                left = _LONGEST_REST_S if until is None else max(0.01, until - self.clock())
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(left, _LONGEST_REST_S)):
                        await change.wait()
                return
        self.changed()

    async def _load(self, offer: Offer) -> None:
        self.refusals.pop(offer.id, None)
        model = self.residency.models[offer.id]
        self.residency.load_began(offer.id, self.clock())
        self.forced.discard(offer.id)
        self.changed()
        try:
            engine = await self._start(offer, model.need)
        except asyncio.CancelledError:
            self.residency.unloaded(offer.id, self.clock())
            self.metrics.loads.labels(offer.id, "cancelled").inc()
            raise
        except Exception as error:
            if not isinstance(error, LoadFailedError):  # a bug, or a machine in trouble: others are served all the same
                _log.exception("engine.load_crashed", model=offer.id)
            self._fail(offer.id, str(error) or type(error).__name__)
            self.metrics.loads.labels(offer.id, "failed").inc()
            return
        self.metrics.loads.labels(offer.id, "ready").inc()
        self.residency.load_ended(offer.id, self.clock(), taken=engine.taken)
        await self.fleet.add(engine)
        self.residency.leave(offer.id, OPERATOR, self.clock())
        known = await asyncio.to_thread(self.receipts.load_s, offer.id, offer.engine)
        model.load_s = known or model.load_s

    async def _start(self, offer: Offer, need: Need) -> Engine:
        """Start an engine; the span of it hangs below the latest request that wanted the model."""
        about: Attributes = {"engines.model": offer.id, "engines.engine": offer.engine}
        with self.asked_in.pop(offer.id, NOTHING).child("engines.load", about) as span:
            engine = await self._starter.start(offer, need, offer.plan(self.machine).short_ceiling_tok_per_s)
            span.set({"engines.taken_bytes": engine.taken})
        return engine

    async def _unload(self, model_id: str, reason: str) -> None:
        _log.info("engine.unload", model=model_id, reason=reason)
        self.residency.unload_began(model_id, self.clock())
        self.changed()
        await self.fleet.remove(model_id, at_once=model_id in self.forced)
        self.forced.discard(model_id)
        self.metrics.unloads.labels(model_id).inc()
        self.residency.unloaded(model_id, self.clock())

    def _fail(self, model_id: str, reason: str) -> None:
        now = self.clock()
        self.residency.failed(model_id, now, reason)
        again_in_s = self.residency.models[model_id].retry_at - now
        self.refusals[model_id] = NotServedError(reason, retry_after_s=again_in_s)

    # Watching

    async def _watch(self) -> None:
        while True:
            suspects = set(self.suspects)
            try:
                for death in await self.fleet.look(self._open_requests):
                    await self._end(death.model, death.reason, death.retry_after_s)
            except RuntimeUnreachableError as error:
                _log.warning("engines.runtime_unreachable", reason=str(error), doing="looking again")
            except Exception:  # watching must not end
                _log.exception("engines.watch")
            self.suspects -= suspects
            self.changed()
            await self.fleet.until_next_look()

    def _open_requests(self, model_id: str) -> int:
        return self.residency.models[model_id].in_flight

    async def _end(self, model_id: str, reason: str, retry_after_s: float | None) -> None:
        """Clear a dead or wedged engine away; it is loaded again where anybody needs it."""
        model = self.residency.models[model_id]
        if model.state != "ready":  # it is being unloaded
            return
        _log.error("engine.ended", model=model_id, reason=reason)
        self.metrics.crashes.labels(model_id).inc()
        needed = model.keep or bool(model.leases)
        self.residency.unload_began(model_id, self.clock())
        self.changed()
        await self.fleet.remove(model_id, at_once=True)
        if retry_after_s is None:
            self._fail(model_id, reason)
        else:
            waiter = OPERATOR if needed else ""
            self.residency.crashed(model_id, self.clock(), reason, retry_after_s, waiter)
        self.changed()

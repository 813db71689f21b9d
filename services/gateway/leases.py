"""Leases on models: while anything is in flight for a model, the gateway holds one renewable lease on its engine.

A request touches a counter (`take`, `give_back`) and nothing else. One task a lease renews it, and ends it about a
second after its last request, so that requests one after another need one lease. What can go wrong with a lease:

- it drains (another model is waiting for the memory): it takes no new requests, and ends with its last;
- it lapses (the engines service was restarted, or this process was held up): it is asked for anew at once, and the
  requests in flight notice nothing;
- its engine is lost: the engines service is told, and whoever has no byte of an answer yet waits for a new lease;
- the engines service can't be reached: requests go where the model was last, without a lease, until it is back.
"""

import asyncio
import os
import secrets
import time
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass, field

import structlog

from services.gateway.adapters.openai_compatible import OpenAICompatible
from services.gateway.control import EnginesService, Grant
from services.gateway.demands import Demands, Events, LeaseTimes, Patience
from services.kit.errors import AppError, EngineUnreachable, LeaseNotFound

_log = structlog.get_logger("leases")


@dataclass(slots=True, eq=False)
class Lease:
    """A right to send requests to a model's engine, and how many are under way.

    Args:
        id: empty when the engines service knows of none: it has lapsed, is lost, or was never had.
    """

    id: str
    model: str
    engine: str
    upstream_id: str
    url: str
    key: str
    api: OpenAICompatible
    in_flight: int = 0
    idle_since: float = field(default_factory=time.monotonic)
    hurried: bool = False
    """It ends with its last request, without waiting for another."""
    over: bool = False
    """Lost, or the model is elsewhere by now: it is not asked for again."""
    keep_alive_s: float | None = None
    loss: "asyncio.Task[None] | None" = None
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def name(self) -> str:
        """What stands in messages."""
        return f"{self.model} on {self.engine}"

    def is_at(self, other: "Lease") -> bool:
        """Return whether both are on the same run of the same engine: each run has a key of its own."""
        return (self.url, self.key) == (other.url, other.key)


LastAddress = Callable[[str], str | None]
"""Where a model's engine was when the engines service was last heard of; None where it had none."""
Connect = Callable[[str, str, str], OpenAICompatible]
"""(name, url, key) → the API there."""


class Leases:
    """All leases of this process."""

    def __init__(
        self,
        engines: EnginesService,
        connect: Connect,
        last_address: LastAddress,
        events: Events,
        *,
        changed: Callable[[], None] = lambda: None,
        times: LeaseTimes | None = None,
    ) -> None:
        self._engines = engines
        self._connect = connect
        self._last_address = last_address
        self._events = events
        self._changed = changed
        self._times = times or LeaseTimes()
        self._holder = f"gateway-{os.getpid()}-{secrets.token_hex(3)}"  # pids are not unique across containers
        self._current: dict[str, Lease] = {}
        self._last_grants: dict[str, Grant] = {}
        self._keepers: dict[Lease, asyncio.Task[None]] = {}
        self._losses: set[asyncio.Task[None]] = set()
        self._demands = Demands(
            engines, self._holder, events, self._times, granted=self._begin, serve_without=self._serve_without
        )

    # What each request does

    def take(self, model: str) -> Lease | None:
        """Return the model's lease with one more request on it; None where there is none that takes new ones."""
        lease = self._current.get(model)
        if lease is not None:
            lease.in_flight += 1
        return lease

    def give_back(self, lease: Lease, keep_alive_s: float | None = None) -> None:
        """End one request; `keep_alive_s` sets how long the model stays when the lease ends."""
        lease.in_flight -= 1
        if keep_alive_s is not None:
            lease.keep_alive_s = keep_alive_s
            lease.hurried = lease.hurried or keep_alive_s == 0
        if not lease.in_flight:
            lease.idle_since = time.monotonic()
            if lease.hurried:
                lease.wake.set()

    # What a request does where there is no lease

    async def wait(self, model: str, patience: Patience) -> Lease:
        """Wait for a lease and take it; who is cancelled takes its demand back.

        Raises:
            ModelLoading: patience ended; the load goes on, and the error says when to come back.
            AppError: the model can't be had.
        """
        while (lease := self.take(model)) is None:
            await self._demands.wait(model, patience)
        return lease

    def lost(self, lease: Lease, reason: str) -> "asyncio.Task[None]":
        """Tell the engines service, once a lease, that its engine can't be reached; nobody is given it any more.

        Returns the task that tells: who asks for a new lease waits for it first, shielded.
        """
        if lease.loss is None:
            self._retire(lease)
            lost_id, lease.id, lease.over = lease.id, "", True
            lease.loss = asyncio.create_task(self._report(lost_id, reason))
            self._losses.add(lease.loss)
            lease.loss.add_done_callback(self._losses.discard)
        return lease.loss

    async def let_go(self, model: str) -> None:
        """End the model's lease now if nothing is in flight on it."""
        lease = self._current.get(model)
        if lease is not None and not lease.in_flight:
            self._retire(lease)
            lease.hurried = True
            lease.wake.set()
            await asyncio.wait([self._keepers[lease]])

    async def stop(self) -> None:
        """Take every demand back and end every lease."""
        tasks = [*self._demands.tasks(), *self._keepers.values(), *self._losses]
        held = [lease for lease in self._keepers if lease.id]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._current.clear()
        try:
            async with asyncio.timeout(self._times.stop_s):
                await asyncio.gather(*(self._release(lease) for lease in held))
        except TimeoutError:
            return

    def all(self) -> list[Lease]:
        """Return the leases that are alive."""
        return [lease for lease in self._keepers if lease.id]

    def held(self) -> int:
        """Return how many requests wait for a model."""
        return self._demands.held()

    # Getting one

    def _begin(self, grant: Grant, model: str) -> None:
        self._events.lease("granted")
        self._last_grants[model] = grant
        self._serve(grant, model, grant.lease)
        self._changed()

    def _serve(self, grant: Grant, model: str, lease_id: str) -> None:
        key = grant.api_key or ""
        api = self._connect(f"{model} on {grant.engine}", grant.url, key)
        lease = Lease(lease_id, model, grant.engine, grant.upstream_id, grant.url, key, api)
        self._current[model] = lease
        # Of no request's trace: it lives longer than the request that has brought it about.
        task = self._keepers[lease] = asyncio.create_task(self._keep(lease), context=Context())
        task.add_done_callback(lambda _: self._keepers.pop(lease, None))

    def _serve_without(self, model: str) -> bool:
        """Go on without a lease where the model was last known to answer."""
        url, last = self._last_address(model), self._last_grants.get(model)
        if url is None:
            return False
        if last is None or last.url != url:
            last = Grant(lease="", model=model, engine="engine", url=url, upstream_id=model)
        self._events.lease("unleased")
        _log.warning("lease.without", model=model, url=url)
        self._serve(last, model, "")
        return True

    # Keeping one

    async def _keep(self, lease: Lease) -> None:
        due = time.monotonic() + self._times.renew_s
        while not self._is_over(lease):
            lease.wake.clear()
            try:
                async with asyncio.timeout(self._times.tick_s):
                    await lease.wake.wait()
            except TimeoutError:
                pass
            if time.monotonic() < due or self._is_over(lease):
                continue
            due = time.monotonic() + self._times.renew_s
            if lease.id:
                await self._renew(lease)
            if not lease.id and lease.in_flight and not lease.over:
                await self._regain(lease)
        self._retire(lease)
        if lease.id:
            await self._release(lease)

    def _is_over(self, lease: Lease) -> bool:
        if lease.in_flight:
            return False
        return lease.hurried or lease.over or time.monotonic() - lease.idle_since >= self._times.idle_s

    async def _renew(self, lease: Lease) -> None:
        try:
            renewal = await self._engines.renew(lease.id, lease.in_flight)
        except LeaseNotFound:
            _log.info("lease.lapsed", model=lease.model, in_flight=lease.in_flight)
            self._events.lease("lapsed")
            self._retire(lease)
            lease.id = ""
        except AppError as error:
            # Its engine may answer all the same: those who find that it does not will say so.
            _log.warning("lease.not_renewed", model=lease.model, reason=error.message)
        else:
            if renewal.draining and not lease.hurried:
                self._events.lease("draining")
                self._retire(lease)
                lease.hurried = True
                self._changed()

    async def _regain(self, lease: Lease) -> None:
        """Ask for a lease for what is in flight; where the model is elsewhere by now, new requests go there."""
        try:
            grant = await self._engines.lease_now(lease.model, self._holder)
        except EngineUnreachable:
            return
        except AppError as error:
            _log.info("lease.not_regained", model=lease.model, reason=error.message)
            self._retire(lease)  # new requests wait for their turn
            return
        if (grant.url, grant.api_key or "") != (lease.url, lease.key):
            lease.over = True
            self._begin(grant, lease.model)
            return
        self._events.lease("granted")
        self._last_grants[lease.model] = grant
        lease.id = grant.lease
        self._current.setdefault(lease.model, lease)

    def _retire(self, lease: Lease) -> None:
        """Give the lease to no new request."""
        if self._current.get(lease.model) is lease:
            del self._current[lease.model]

    async def _release(self, lease: Lease) -> None:
        ended, lease.id = lease.id, ""
        try:
            await self._engines.release(ended, lease.keep_alive_s)
        except AppError as error:  # it lapses by itself
            _log.info("lease.not_released", model=lease.model, reason=error.message)
        self._events.lease("released")
        self._changed()

    async def _report(self, lease_id: str, reason: str) -> None:
        self._events.lease("lost")
        if lease_id:
            try:
                await self._engines.lost(lease_id, reason)
            except AppError as error:
                _log.info("lease.loss_not_reported", lease=lease_id, reason=error.message)
        self._changed()

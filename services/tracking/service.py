"""The service behind the routes: the store, the energy meter, and what is done from time to time."""

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import structlog
from fastapi import Depends, Request

from services.tracking import feedback
from services.tracking.accounts import add_joules
from services.tracking.connecting import explain
from services.tracking.drift.features import measure
from services.tracking.energy import Account, EnergyMeter, EnergyShares
from services.tracking.erasing import Erased, erase_key, erase_old, erase_user
from services.tracking.errors import RecordsUnavailable
from services.tracking.given import Measure, StoreOptions, StoreUnavailable, Work
from services.tracking.metrics import CostRow, TrackingMetrics
from services.tracking.power import Counter, find_counters
from services.tracking.settings import TrackingSettings
from services.tracking.store import Store
from services.tracking.tariff import Use, read_tariff
from services.tracking.writing import DELETED_KEY

T = TypeVar("T")
_DAY_S = 86_400.0
_OPEN_S = 5.0
_WRITE_S = 10.0
_COSTS_EVERY_S = 15.0
_RETAIN_EVERY_S = 3600.0
_AGAIN_S = 1.0
_log = structlog.get_logger("tracking")


@dataclass(frozen=True)
class Parts:
    """What the service is given; tests give other ones."""

    measure: Measure = measure
    counters: Callable[[], list[Counter]] = find_counters


class Service:
    """What the routes call.

    Raises:
        SettingsError: the tariff can't be read.
    """

    def __init__(self, settings: TrackingSettings, metrics: TrackingMetrics, parts: Parts) -> None:
        self.settings = settings
        self.metrics = metrics
        self.tariff = read_tariff(settings.tariff)
        self.shares = EnergyShares()
        self.store = Store(
            settings.folder,
            StoreOptions(queue_records=settings.queue_records, store_text=settings.store_text),
            parts.measure,
            noted=self.shares.note,
        )
        self.meter = EnergyMeter(self.shares, parts.counters, self._keep_joules, settings.power_interval_s)
        metrics.store, metrics.meter, metrics.currency = self.store, self.meter, self.tariff.currency
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Start the threads, and what is done from time to time.

        Whoever asks first is to find the file open; one that can't be opened is no reason not to take records.
        """
        self.store.start()
        await asyncio.to_thread(self.store.wait_until_tried, _OPEN_S)
        self.meter.start()
        self._tasks = [
            asyncio.create_task(self._every(_COSTS_EVERY_S, self.read_costs)),
            asyncio.create_task(self._every(_RETAIN_EVERY_S, self.retain)),
        ]

    async def close(self) -> None:
        """End them; what waits is written first."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self.meter.stop)
        await asyncio.to_thread(self.store.stop)

    def checks(self) -> Mapping[str, str]:
        """Return what is missing, from memory."""
        return {"records": self.store.state}

    async def read(self, work: Work[T]) -> T:
        """Return what `work` finds.

        Raises:
            RecordsUnavailable
        """
        try:
            return await asyncio.to_thread(self.store.read, work)
        except StoreUnavailable as error:
            raise RecordsUnavailable(str(error), retry_after_s=5) from None

    async def write(self, work: Work[T], *, erases: bool = False) -> T:
        """Return what `work` has done, when it is on disk.

        Raises:
            RecordsUnavailable
        """
        future: Future[T] = self.store.write(work, erases=erases)
        try:
            async with asyncio.timeout(_WRITE_S):
                return await asyncio.wrap_future(future)
        except StoreUnavailable as error:
            raise RecordsUnavailable(f"nothing was changed: {error}", retry_after_s=5) from None
        except TimeoutError:
            raise RecordsUnavailable(
                f"the records could not be changed within {_WRITE_S:.0f} s; ask again", retry_after_s=5
            ) from None

    async def keep_feedback(self, given: list[feedback.Feedback]) -> int:
        """Store feedback; return how many of it is about a request that is known."""

        def work(connection: sqlite3.Connection) -> int:
            return sum(feedback.keep(connection, each) for each in given)

        known = await self.write(work)
        for each in given:
            self.metrics.feedback.labels(each.source).inc()
        return known

    async def users(self, names: list[str]) -> list[str]:
        """Return the digests that stand for users, in their order.

        Raises:
            RecordsUnavailable
        """
        try:
            return await asyncio.to_thread(lambda: [self._user(name) for name in names])
        except OSError as error:
            raise RecordsUnavailable(explain(error, self.store.path), retry_after_s=5) from None

    async def erase_user(self, name: str, key: str | None) -> Erased:
        """Delete what is kept of a user; of one key alone where it is given."""
        return await self._erase("user", lambda connection, now: erase_user(connection, self._user(name), now, key))

    async def erase_key(self, key: str, *, keeps_sums: bool) -> Erased:
        """Delete what is kept of a key."""
        erased = await self._erase(
            "key", lambda connection, now: erase_key(connection, key, now, keeps_sums=keeps_sums)
        )
        if not keeps_sums:
            self.shares.rename(key, DELETED_KEY)
        return erased

    async def retain(self) -> None:
        """Delete what is older than it may be, in portions."""
        settings = self.settings
        now = time.time()
        before, texts_before = now - settings.keep_days * _DAY_S, now - settings.keep_text_days * _DAY_S
        gone = 0
        while True:
            rows, texts = await self.write(lambda connection: erase_old(connection, before, texts_before), erases=True)
            gone += rows + texts
            if not rows and not texts:
                break
        if gone:
            self.metrics.deleted.labels("age").inc(gone)
            _log.info("records.expired", rows=gone)

    async def _erase(self, reason: str, erase: Callable[[sqlite3.Connection, float], Erased]) -> Erased:
        now = time.time()

        def work(connection: sqlite3.Connection) -> Erased:
            erased = erase(connection, now)
            self.store.drop_texts(erased.seqs)
            return erased

        erased = await self.write(work, erases=True)
        self.metrics.deleted.labels(reason).inc(erased.requests + erased.feedback)
        _log.info("records.erased", reason=reason, **erased.document())
        return erased

    def _user(self, name: str) -> str:
        return self.store.identities.user(name)

    def _keep_joules(self, shared: Mapping[Account, float]) -> bool:
        kept = dict(shared)
        try:
            self.store.write(lambda connection: add_joules(connection, kept)).result(_WRITE_S)
        except (StoreUnavailable, TimeoutError):
            return False
        return True

    async def read_costs(self) -> None:
        """Read the sums anew for `/metrics`."""
        self.metrics.costs = await self.read(self._costs)

    def _costs(self, connection: sqlite3.Connection) -> list[CostRow]:
        found: dict[tuple[str, str], dict[str, Any]] = {}
        names = ("requests", "prompt_tokens", "completion_tokens", "seconds", "joules")
        for row in connection.execute("SELECT * FROM costs"):
            sums = found.setdefault((row["key"], row["model"]), {"money": None, **dict.fromkeys(names, 0)})
            use = {name: row[name] for name in names}
            money = self.tariff.money(row["day"], row["model"], Use(**use))
            for name, value in use.items():
                sums[name] += value
            if money is not None:
                sums["money"] = (sums["money"] or 0.0) + money
        return [CostRow(key, model, **sums) for (key, model), sums in found.items()]

    async def _every(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except RecordsUnavailable:
                # What is wrong is in /readyz and in the log.
                await asyncio.sleep(min(seconds, _AGAIN_S))
            else:
                await asyncio.sleep(seconds)


def service_of(request: Request) -> Service:
    """Return the app's service."""
    service: Service = request.app.state.service
    return service


ServiceOf = Annotated[Service, Depends(service_of)]
"""A route's parameter: the service."""

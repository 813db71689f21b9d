import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from services.gateway.adapters.openai_compatible import OpenAICompatible
from services.gateway.control import Progress, Renewal
from services.gateway.demands import LeaseTimes
from services.gateway.holding import BoundedPatience, SilentPatience
from services.gateway.leases import Leases
from services.gateway.tests.fake_control import FakeControl
from services.kit.errors import AppError, EngineUnreachable, InsufficientMemory, ModelLoading
from tests.testkit.server import eventually

QUICK = LeaseTimes(renew_s=0.03, idle_s=0.05, tick_s=0.01, reconnect_s=0.2, stop_s=0.5)
LASTING = LeaseTimes(renew_s=0.03, idle_s=60, tick_s=0.01)


class Counts(Counter[str]):
    def lease(self, event: str) -> None:
        self[event] += 1


class World:
    def __init__(self, times: LeaseTimes) -> None:
        self.control = FakeControl()
        self.events = Counts()
        self.address: str | None = None
        connect: Any = lambda name, url, key: OpenAICompatible(None, name, url, key)  # type: ignore[arg-type]  # noqa: E731
        self.leases = Leases(self.control, connect, lambda _model: self.address, self.events, times=times)

    async def taken(self) -> Any:
        """Take a lease that is granted at once."""
        await self.control.answers.put(self.control.grant())
        return await self.leases.wait("m", SilentPatience())


@contextlib.asynccontextmanager
async def world(times: LeaseTimes = QUICK) -> AsyncIterator[World]:
    made = World(times)
    try:
        yield made
    finally:
        await made.leases.stop()


async def test_there_is_nothing_to_take_before_a_lease_is_granted() -> None:
    async with world() as w:
        assert w.leases.take("m") is None
        lease = await w.taken()
        assert w.leases.take("m") is lease
        assert (lease.in_flight, lease.upstream_id, lease.name) == (2, "upstream", "m on llamacpp")
        assert w.leases.take("other") is None


async def test_an_idle_lease_ends_and_a_new_one_is_asked_for() -> None:
    async with world() as w:
        first = await w.taken()
        w.leases.give_back(first)
        await eventually(lambda: w.control.calls("release"))
        assert w.leases.take("m") is None
        assert await w.taken() is not first
        assert w.control.calls("release") == [("release", "lease-1", None)]


async def test_one_that_is_in_use_is_renewed_with_the_count() -> None:
    async with world() as w:
        await w.taken()
        w.leases.take("m")
        await eventually(lambda: len(w.control.calls("renew")) >= 3)
        assert not w.control.calls("release")
    assert w.control.calls("renew")[0] == ("renew", "lease-1", 2)


async def test_what_keeps_the_model_is_said_at_its_end_and_zero_ends_it_at_once() -> None:
    async with world(LASTING) as w:
        lease = await w.taken()
        w.leases.take("m")
        w.leases.give_back(lease, 300)
        w.leases.give_back(lease, 0)
        await eventually(lambda: w.control.calls("release"))
    assert w.control.calls("release") == [("release", "lease-1", 0)]


async def test_waiting_together_is_one_demand_and_each_gets_an_error_of_its_own() -> None:
    async with world() as w:
        waiting = [asyncio.create_task(w.leases.wait("m", SilentPatience())) for _ in range(5)]
        await eventually(lambda: w.leases.held() == 5)
        await w.control.answers.put(InsufficientMemory("m needs more", retry_after_s=3))
        errors = await asyncio.gather(*waiting, return_exceptions=True)
        assert len(w.control.calls("lease")) == 1
        assert len({id(error) for error in errors}) == 5
        assert {(type(e), str(e), e.retry_after_s) for e in errors if isinstance(e, AppError)} == {
            (InsufficientMemory, "m needs more", 3)
        }
        assert w.leases.held() == 0
    assert w.events == {"refused": 1}


async def test_the_last_to_leave_takes_the_demand_back() -> None:
    async with world() as w:
        waiting = [asyncio.create_task(w.leases.wait("m", SilentPatience())) for _ in range(2)]
        await eventually(lambda: w.control.streams == 1)
        waiting[0].cancel()
        await asyncio.gather(waiting[0], return_exceptions=True)
        assert w.control.streams == 1
        waiting[1].cancel()
        await asyncio.gather(waiting[1], return_exceptions=True)
        await eventually(lambda: not w.control.streams)
        lease = await w.taken()
        assert lease.id == "lease-1", "and who comes next asks anew"
    assert len(w.control.calls("lease")) == 2


async def test_who_is_sent_away_is_told_when_to_come_back_and_the_demand_is_remembered() -> None:
    async with world() as w:
        w.control.now = ModelLoading("m is being loaded", retry_after_s=5, queue_position=2, eta_s=100)
        await w.control.answers.put(Progress("queued", 2, 100.0))
        with pytest.raises(ModelLoading) as raised:
            await w.leases.wait("m", BoundedPatience(10))
        assert raised.value.retry_after_s == pytest.approx(111)
        assert (raised.value.queue_position, raised.value.eta_s) == (2, 100)
        (asked,) = w.control.calls("lease_now")
        assert asked[2].endswith("-later")
        await eventually(lambda: not w.control.streams)


async def test_who_is_sent_away_in_the_very_moment_of_the_grant_is_lucky() -> None:
    async with world() as w:
        lease = await w.leases.wait("m", BoundedPatience(0))
        assert lease.in_flight == 1
    assert len(w.control.calls("lease_now")) == 1


async def test_a_draining_lease_takes_nobody_new_and_ends_with_its_last() -> None:
    async with world(LASTING) as w:
        lease = await w.taken()
        w.control.renewal = Renewal(draining=True)
        await eventually(lambda: w.events["draining"] == 1)
        assert w.leases.take("m") is None
        assert not w.control.calls("release")
        w.leases.give_back(lease)
        await eventually(lambda: w.control.calls("release"))


async def test_a_lapsed_lease_is_regained_for_what_is_in_flight() -> None:
    async with world(LASTING) as w:
        lease = await w.taken()
        w.control.alive.clear()
        await eventually(lambda: lease.id == "lease-2")
        assert w.leases.take("m") is lease
        assert len(w.control.calls("lease_now")) == 1
    assert w.events["lapsed"] == 1


async def test_where_the_model_is_elsewhere_by_now_new_requests_go_there() -> None:
    async with world(LASTING) as w:
        old = await w.taken()
        w.control.now = w.control.grant(key="of the next run")
        w.control.alive = {w.control.now.lease}
        await eventually(lambda: len(w.control.calls("lease_now")) == 1)
        new = w.leases.take("m")
        assert new is not None
        assert new is not old
        assert not new.is_at(old)
        await asyncio.sleep(5 * LASTING.renew_s)
        assert len(w.control.calls("lease_now")) == 1, "the old one is not asked for again and again"


async def test_a_loss_is_reported_once_and_the_lease_given_to_nobody() -> None:
    async with world(LASTING) as w:
        lease = await w.taken()
        w.leases.take("m")
        await asyncio.gather(w.leases.lost(lease, "refused"), w.leases.lost(lease, "refused"))
        assert w.leases.take("m") is None
        w.leases.give_back(lease)
        w.leases.give_back(lease)
        await eventually(lambda: not w.leases._keepers)
    assert w.control.calls("lost") == [("lost", "lease-1", "refused")]
    assert not w.control.calls("release")


async def test_renewals_that_fail_leave_the_lease_in_use() -> None:
    async with world(LASTING) as w:
        lease = await w.taken()
        w.control.renewal = EngineUnreachable("gone")
        await eventually(lambda: len(w.control.calls("renew")) >= 3)
        assert w.leases.take("m") is lease


async def test_without_the_service_requests_go_to_the_last_address() -> None:
    async with world() as w:
        w.leases.give_back(await w.taken())
        await eventually(lambda: w.control.calls("release"))
        w.address = "http://engine"
        w.control.now = EngineUnreachable("gone")
        await w.control.answers.put(EngineUnreachable("gone"))
        lease = await w.leases.wait("m", SilentPatience())
        assert (lease.id, lease.url, lease.key) == ("", "http://engine", "k"), "with the key of the last lease"
        await eventually(lambda: w.control.calls("lease_now"))
        w.control.now = w.control.grant()
        await eventually(lambda: lease.id == "lease-2")
    assert w.events["unleased"] == 1


async def test_without_the_service_a_model_that_was_not_loaded_is_an_error_at_once() -> None:
    async with world() as w:
        await w.control.answers.put(EngineUnreachable("gone"))
        with pytest.raises(EngineUnreachable, match="gone"):
            await w.leases.wait("m", SilentPatience())


async def test_a_service_that_ends_in_the_middle_is_asked_again_for_a_while() -> None:
    async with world() as w:
        waiting = asyncio.create_task(w.leases.wait("m", SilentPatience()))
        await w.control.answers.put(Progress("loading", 0, 5.0))
        await w.control.answers.put(EngineUnreachable("ended"))
        await w.control.answers.put(EngineUnreachable("refused"))
        await w.control.answers.put(w.control.grant())
        assert (await waiting).id == "lease-1"
        assert len(w.control.calls("lease")) == 3


async def test_a_crash_in_asking_lets_everybody_go() -> None:
    async with world() as w:
        waiting = [asyncio.create_task(w.leases.wait("m", SilentPatience())) for _ in range(2)]
        await eventually(lambda: w.leases.held() == 2)
        w.leases._demands._granted = lambda _grant, _model: 1 / 0  # type: ignore[assignment,return-value]
        with capture_logs() as logs:
            await w.control.answers.put(w.control.grant())
            errors = await asyncio.gather(*waiting, return_exceptions=True)
            await eventually(lambda: logs)
    assert logs[0]["event"] == "demand.crashed"
    assert [getattr(error, "code", None) for error in errors] == ["internal"] * 2


async def test_the_end_takes_everything_back() -> None:
    async with world(LASTING) as w:
        await w.taken()
        waiting = asyncio.create_task(w.leases.wait("other", SilentPatience()))
        await eventually(lambda: w.control.streams == 1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert w.control.calls("release") == [("release", "lease-1", None)]
    assert w.control.streams == 0


async def test_letting_go_waits_for_nothing_that_is_in_flight() -> None:
    async with world(LASTING) as w:
        lease = await w.taken()
        await w.leases.let_go("m")
        assert not w.control.calls("release")
        w.leases.give_back(lease)
        await w.leases.let_go("m")
        assert w.control.calls("release")

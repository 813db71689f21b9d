import asyncio

import pytest
import structlog

from services.engines.host_memory import HostMemory
from services.engines.loading.guard import MIN_FREE_BYTES, GuardLimits, GuardTrip, LoadGuard, LoadWatch, guard_limits
from services.engines.loading.host_guard import NoRightsError, Relief
from services.engines.planning.machines import machine

GIB = 2**30
SPARK = GuardLimits(reserve_bytes=10 * GIB, min_free_bytes=8 * GIB)
LAPTOP = GuardLimits(reserve_bytes=2 * GIB)


def reading(free_gib, available_gib):
    return HostMemory(total=120 * GIB, free=int(free_gib * GIB), available=int(available_gib * GIB))


def judged(limits, *readings):
    """What the watch says to each reading, a second apart: "trip" for the end."""
    watch = LoadWatch(limits)
    said = [watch.observe(reading(*each), now) for now, each in enumerate(readings)]
    return ["trip" if isinstance(each, GuardTrip) else each for each in said]


def test_a_spark_watches_free_memory_and_a_machine_without_such_a_gpu_does_not():
    assert guard_limits(machine("spark-128"), 10 * GIB) == GuardLimits(10 * GIB, MIN_FREE_BYTES)
    assert guard_limits(machine("24GiB").__class__("x", 24 * GIB, 24 * GIB, GIB, None, gpu=False), GIB) == GuardLimits(
        GIB
    )


def test_on_a_spark_caches_are_dropped_when_a_load_begins_and_while_little_is_free():
    assert judged(SPARK, (50, 90), (40, 80), (7, 70), (20, 60)) == ["relieve", None, "relieve", None]


def test_on_a_spark_little_is_free_for_long_but_the_rest_is_cache():
    assert judged(SPARK, *[(3, 50)] * 30) == ["relieve"] * 30


def test_on_a_spark_the_engine_goes_when_dropping_caches_has_not_helped_for_seconds():
    assert judged(SPARK, (30, 40), *[(5, 9)] * 5) == ["relieve", *["relieve"] * 4, "trip"]


def test_memory_that_comes_back_in_time_is_no_reason():
    short = [(5, 9)] * 4
    assert "trip" not in judged(SPARK, *short, (9, 9), *short, (30, 40), *short)


def test_far_below_the_reserve_there_is_no_time_to_wait():
    assert judged(SPARK, (30, 40), (4, 4.9)) == ["relieve", "trip"]
    assert judged(LAPTOP, (5, 8), (0.5, 0.9)) == [None, "trip"]


def test_without_a_gpu_a_page_cache_that_fills_the_memory_is_no_danger():
    assert judged(LAPTOP, *[(0.2, 8)] * 30) == [None] * 30


def test_without_a_gpu_the_engine_goes_when_too_little_is_available_for_seconds():
    assert judged(LAPTOP, (5, 8), *[(0.5, 1.5)] * 5) == [None, None, None, None, None, "trip"]
    assert "trip" not in judged(LAPTOP, *[(0.5, 1.5)] * 4, (0.5, 2.1), *[(0.5, 1.5)] * 4)


def test_the_reason_names_figures_and_what_to_do():
    watch = LoadWatch(SPARK)
    watch.observe(reading(30, 40), 100.0)
    trip = watch.observe(reading(3, 4), 107.0)
    assert trip.after_s == 7.0
    assert "MemAvailable was 4.0 GiB, below half of the 10.0 GiB that stay free for the host" in trip.reason
    assert "(MemFree 3.0 GiB, floor 8.0 GiB)" in trip.reason
    assert "unload another model, or choose a shorter context" in trip.reason
    assert "MemFree" not in LoadWatch(LAPTOP).observe(reading(0, 0), 0).reason


class Host:
    """A machine whose memory goes by readings, and on which caches can be dropped."""

    def __init__(self, *readings, forbidden=False):
        self.readings = [reading(*each) for each in readings]
        self.last = self.readings[0]
        self.dropped = 0
        self.forbidden = forbidden

    def read(self):
        if self.readings:
            self.last = self.readings.pop(0)
        return self.last

    def relieve(self):
        if self.forbidden:
            raise NoRightsError("not as this user")
        self.dropped += 1
        return Relief(self.last, self.last, 0.01)


def hurried(limits):
    return GuardLimits(limits.reserve_bytes, limits.min_free_bytes, patience_s=0.1, interval_s=0.02)


async def watch(host, limits, marker, on_sample=lambda _: None):
    return await LoadGuard(host.relieve, marker).watch(read=host.read, limits=hurried(limits), on_sample=on_sample)


async def test_the_guard_drops_caches_then_gives_the_engine_up(tmp_path):
    host = Host((50, 60), (7, 12), (5, 9))
    samples = []
    trip = await asyncio.wait_for(watch(host, SPARK, tmp_path / "loading", samples.append), 30)
    assert "for 0 s" in trip.reason
    assert host.dropped >= 2
    assert samples[:3] == [reading(50, 60), reading(7, 12), reading(5, 9)]
    assert trip.memory == reading(5, 9)


async def test_what_may_not_be_dropped_is_said_once_in_the_log_and_in_the_reason(tmp_path):
    with structlog.testing.capture_logs() as logs:
        trip = await asyncio.wait_for(watch(Host((5, 9), forbidden=True), SPARK, tmp_path / "loading"), 30)
    assert [line["event"] for line in logs] == ["load_guard.cannot_drop_caches"]
    assert trip.reason.endswith(". Caches could not be dropped: not as this user")


async def test_the_looks_go_on_while_caches_are_being_dropped(tmp_path):
    host = Host((5, 20), (5, 20), (1, 2))
    stuck = asyncio.get_running_loop().create_future()
    loop = asyncio.get_running_loop()

    def slow():
        return asyncio.run_coroutine_threadsafe(asyncio.wait_for(asyncio.shield(stuck), 30), loop).result()

    host.relieve = slow
    trip = await asyncio.wait_for(watch(host, SPARK, tmp_path / "loading"), 20)
    assert trip.memory == reading(1, 2)
    stuck.set_result(None)


async def test_the_host_guard_is_told_while_a_load_lasts(tmp_path):
    marker = tmp_path / "loading"
    seen = asyncio.Event()
    watching = asyncio.create_task(watch(Host((50, 60)), SPARK, marker, lambda _: seen.set()))
    await asyncio.wait_for(seen.wait(), 20)
    assert marker.exists()
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching
    async with asyncio.timeout(20):
        while marker.exists():
            await asyncio.sleep(0.01)


async def test_without_such_a_gpu_nobody_is_told_and_nothing_dropped(tmp_path):
    host = Host((0.1, 8), (0.1, 8), (0.1, 0.1))
    await asyncio.wait_for(watch(host, LAPTOP, tmp_path / "loading"), 30)
    assert host.dropped == 0
    assert list(tmp_path.iterdir()) == []

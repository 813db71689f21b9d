"""The load guard: from launch to ready it looks at free memory, and says when the engine must go to save the host.

Over-commit on unified memory freezes the whole machine until a person pulls the plug, and no container limit bounds
what a driver takes. Where engines take memory as the driver does, MemFree counts: below the floor caches are dropped;
where that does not help in a few seconds and MemAvailable is below the host's reserve too, the engine must go. Without
such a GPU MemAvailable alone counts: a low MemFree is then the page cache at work, and no danger.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import structlog

from services.engines.host_memory import HostMemory
from services.engines.loading.host_guard import MARKER, NoRightsError, Relief, Reliever, touch, untouch
from services.engines.planning.machines import Machine

GIB = 2**30
MIN_FREE_BYTES = 8 * GIB
_log = structlog.get_logger("engines")
# When memory is short, 2 GiB a second may go: more looks a second then.
_HURRIED_PART = 4


@dataclass(frozen=True)
class GuardLimits:
    """When a load is in danger.

    Args:
        reserve_bytes: of MemAvailable, what the host keeps. Below half of it there is no time to wait.
        min_free_bytes: the floor of MemFree; 0 where MemFree says nothing (no unified memory with a GPU).
        patience_s: how long memory may be short before the engine must go.
    """

    reserve_bytes: int
    min_free_bytes: int = 0
    patience_s: float = 4.0
    interval_s: float = 1.0


def guard_limits(machine: Machine, reserve_bytes: int) -> GuardLimits:
    """Return the limits for loads on a machine."""
    return GuardLimits(reserve_bytes, MIN_FREE_BYTES if machine.gpu else 0)


@dataclass(frozen=True)
class GuardTrip:
    """The engine must go; the reason has the figures and what to do."""

    reason: str
    memory: HostMemory
    after_s: float


class LoadWatch:
    """Judges one load by its readings. Pure."""

    def __init__(self, limits: GuardLimits) -> None:
        self._limits = limits
        self._started_at: float | None = None
        self._short_since: float | None = None

    @property
    def short(self) -> bool:
        """Whether memory was short when it was last looked at."""
        return self._short_since is not None

    def observe(self, memory: HostMemory, now: float) -> GuardTrip | Literal["relieve"] | None:
        """Return that the engine must go, that caches should be dropped, or that all is well."""
        limits = self._limits
        first = self._started_at is None
        started_at = self._started_at = now if self._started_at is None else self._started_at
        low_free = memory.free < limits.min_free_bytes
        low_available = memory.available < limits.reserve_bytes
        if not (low_free if limits.min_free_bytes else low_available):
            self._short_since = None
        elif self._short_since is None:
            self._short_since = now
        if memory.available < limits.reserve_bytes / 2:
            return GuardTrip(self._reason(memory, "half of"), memory, now - started_at)
        short_for = 0.0 if self._short_since is None else now - self._short_since
        if low_available and self._short_since is not None and short_for >= limits.patience_s:
            return GuardTrip(self._reason(memory, ""), memory, now - started_at)
        # At the beginning whatever is free: engines look for all that they want when they start.
        return "relieve" if low_free or (first and limits.min_free_bytes) else None

    def _reason(self, memory: HostMemory, part: str) -> str:
        limits = self._limits
        waited = "" if part else f" for {limits.patience_s:.0f} s"
        floor = f"{limits.min_free_bytes / GIB:.1f} GiB"
        free = f" (MemFree {memory.free / GIB:.1f} GiB, floor {floor})" if limits.min_free_bytes else ""
        return (
            f"MemAvailable was {memory.available / GIB:.1f} GiB, below {part + ' ' if part else ''}the "
            f"{limits.reserve_bytes / GIB:.1f} GiB that stay free for the host{waited}{free}; the load would have "
            "taken the machine down: unload another model, or choose a shorter context, fewer sequences or a smaller "
            "model"
        )


class LoadGuard:
    """Watches a load.

    Args:
        relieve: drops caches; None when it is too early to do so again.
        marker: tells a host guard that an engine loads.
    """

    def __init__(self, relieve: Callable[[], Relief | None] | None = None, marker: Path = MARKER) -> None:
        self._relieve = relieve or Reliever()
        self._marker = marker
        self._no_rights = ""

    async def watch(
        self, *, read: Callable[[], HostMemory], limits: GuardLimits, on_sample: Callable[[HostMemory], None]
    ) -> GuardTrip:
        """Look until the engine must go, and return why; whoever has a ready engine cancels this.

        Args:
            read: the machine's memory; it is called in a thread.
            on_sample: gets each reading.
        """
        watch = LoadWatch(limits)
        loop = asyncio.get_running_loop()
        # Threads of its own: it must not wait behind downloads and checksums.
        pool = ThreadPoolExecutor(2, thread_name_prefix="load-guard")
        relieving: asyncio.Future[None] | None = None
        try:
            while True:
                memory = await loop.run_in_executor(pool, self._look, read, limits)
                on_sample(memory)
                judged = watch.observe(memory, time.monotonic())
                if isinstance(judged, GuardTrip):
                    return replace(judged, reason=judged.reason + self._no_rights)
                # Dropping 100 GB takes seconds: the looks go on beside it.
                if judged == "relieve" and (relieving is None or relieving.done()):
                    relieving = loop.run_in_executor(pool, self._try_to_relieve)
                await asyncio.sleep(limits.interval_s / _HURRIED_PART if watch.short else limits.interval_s)
        finally:
            pool.submit(untouch, self._marker)
            pool.shutdown(wait=False)

    def _look(self, read: Callable[[], HostMemory], limits: GuardLimits) -> HostMemory:
        if limits.min_free_bytes:
            touch(self._marker)
        return read()

    def _try_to_relieve(self) -> None:
        try:
            relief = self._relieve()
        except NoRightsError as error:
            if not self._no_rights:
                self._no_rights = f". Caches could not be dropped: {error}"
                _log.warning("load_guard.cannot_drop_caches", reason=str(error))
            return
        if relief is not None:
            _log.info(
                "load_guard.dropped_caches",
                free_before_gib=round(relief.before.free / GIB, 2),
                free_after_gib=round(relief.after.free / GIB, 2),
                seconds=round(relief.seconds, 2),
            )

"""Send the waiting records to the tracking service, in the background: requests know nothing of it.

While that service is away, full or slow, the records wait; it is asked again after growing pauses.
"""

import asyncio
from typing import Protocol

import msgspec
import structlog

from services.gateway.records import Records

_log = structlog.get_logger("records")
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_LAST_S = 2.0
"""For what waits when the gateway ends."""


class NotTaken(Exception):
    """The batch was not taken now; it may be later.

    Args:
        after_s: when the service wants to be asked again, where it said so.
    """

    def __init__(self, reason: str, after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.after_s = after_s


class NeverTaken(Exception):
    """The batch is one that the service will not take, however often it is sent."""


class TrackingService(Protocol):
    """The port to whoever keeps the records."""

    async def take(self, batch: bytes) -> None:
        """Hand over a `RecordBatch` as JSON; the same records again are no harm.

        Raises:
            NotTaken, NeverTaken
        """


class Sender:
    """One task that sends what waits."""

    def __init__(self, records: Records, service: TrackingService, *, every_s: float, last_s: float = _LAST_S) -> None:
        self._records = records
        self._service = service
        self._every_s = every_s
        self._last_s = last_s
        self._stopping = asyncio.Event()
        self._taken = True
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Send what waits, within two seconds; what is not taken by then is dropped and counted."""
        self._stopping.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=self._last_s)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if lost := self._records.drop_all():
            _log.warning("records.lost", records=lost, reason="the gateway ended before they were taken")

    async def _run(self) -> None:
        ending = False
        while not ending:
            await self._pause(self._every_s)
            ending = self._stopping.is_set()
            await self._send_all()

    async def _send_all(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while (batch := self._records.batch()) is not None:
            last_try = self._stopping.is_set()
            try:
                await self._service.take(msgspec.json.encode(batch))
            except NotTaken as refusal:
                self._note(str(refusal))
                if last_try:
                    return
                await self._pause(min(max(pause_s, refusal.after_s), _LONGEST_PAUSE_S))
                pause_s *= 2
            except NeverTaken as refusal:
                _log.error("records.refused", records=len(batch.records), reason=str(refusal))
                self._records.drop_batch()
            except Exception:  # a bug must not end the sending
                _log.exception("records.crashed", records=len(batch.records))
                self._records.drop_batch()
            else:
                self._note("")
                self._records.sent()
                pause_s = _FIRST_PAUSE_S

    def _note(self, failure: str) -> None:
        """Write a line when records are no longer taken, and when they are again."""
        if self._taken == bool(failure):
            if failure:
                _log.warning("records.wait", waiting=len(self._records), reason=failure)
            else:
                _log.info("records.taken_again", waiting=len(self._records))
        self._taken = not failure

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return

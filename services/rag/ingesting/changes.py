"""A bell that everyone hears: something of the ingest has changed."""

import asyncio


class Changes:
    """Wakes all that wait each time it is rung. Belongs to one event loop."""

    def __init__(self) -> None:
        self._next: asyncio.Event = asyncio.Event()

    def ring(self) -> None:
        """Wake everyone who waits."""
        self._next.set()
        self._next = asyncio.Event()

    def listen(self) -> asyncio.Event:
        """Return what the next ring sets. Listen first, then look: a change between the two is heard."""
        return self._next


async def heard(bell: asyncio.Event, timeout_s: float) -> bool:
    """Wait for the ring; False where it did not come in time."""
    try:
        async with asyncio.timeout(timeout_s):
            await bell.wait()
    except TimeoutError:
        return False
    return True

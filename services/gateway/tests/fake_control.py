"""An engines service without sockets, that says what a test tells it to."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from services.gateway.control import Grant, ManagedList, Progress, Renewal
from services.kit.errors import AppError, LeaseNotFound


class FakeControl:
    """Grants what it is told to; `log` has every call."""

    url = "http://engines"

    def __init__(self) -> None:
        self.log: list[tuple[Any, ...]] = []
        self.answers: asyncio.Queue[Progress | Grant | AppError] = asyncio.Queue()
        self.now: Grant | AppError | None = None
        self.renewal: Renewal | AppError = Renewal()
        self.streams = 0
        self.alive: set[str] = set()
        self._number = 0

    def grant(self, url: str = "http://engine", key: str = "k") -> Grant:
        """Return another lease on `m`."""
        self._number += 1
        self.alive.add(f"lease-{self._number}")
        return Grant(f"lease-{self._number}", "m", "llamacpp", url, "upstream", key)

    def calls(self, kind: str) -> list[tuple[Any, ...]]:
        """Return the calls of a kind."""
        return [call for call in self.log if call[0] == kind]

    async def lease(self, model: str, holder: str) -> AsyncGenerator[Progress | Grant, None]:
        self.log.append(("lease", model))
        self.streams += 1
        try:
            while True:
                said = await self.answers.get()
                if isinstance(said, AppError):
                    raise said
                yield said
        finally:
            self.streams -= 1

    async def lease_now(self, model: str, holder: str) -> Grant:
        self.log.append(("lease_now", model, holder))
        if isinstance(self.now, AppError):
            raise self.now
        return self.now or self.grant()

    async def renew(self, lease_id: str, in_flight: int) -> Renewal:
        self.log.append(("renew", lease_id, in_flight))
        if isinstance(self.renewal, AppError):
            raise self.renewal
        if lease_id not in self.alive:
            raise LeaseNotFound("it has lapsed")
        return self.renewal

    async def release(self, lease_id: str, keep_alive_s: float | None) -> None:
        self.log.append(("release", lease_id, keep_alive_s))
        self.alive.discard(lease_id)

    async def lost(self, lease_id: str, reason: str) -> None:
        self.log.append(("lost", lease_id, reason))
        self.alive.discard(lease_id)

    async def models(self) -> ManagedList:
        raise NotImplementedError

    async def load(self, model: str, *, pin: bool | None, wait: bool) -> dict[str, Any]:
        raise NotImplementedError

    async def unload(self, model: str, *, force: bool) -> dict[str, Any]:
        raise NotImplementedError

    def pull(self, model: str) -> AsyncIterator[bytes]:
        raise NotImplementedError

    async def delete_files(self, model: str) -> None:
        raise NotImplementedError

"""The servers behind the gateway and the background discovery of their models."""

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import structlog

from services.gateway.adapters.openai_compatible import OpenAICompatible
from services.gateway.catalogue import Catalogue, facts_from_listing
from services.gateway.metrics import GatewayMetrics
from services.kit.errors import AppError, ModelLoading

_log = structlog.get_logger("discovery")

OWN = "sparkstack"
"""The engine of the stack's own services, embeddings and rag: they learn who calls, by a name signed for them."""

State = Literal["unknown", "ready", "loading", "unreachable"]
_FIRST_LOOK_S = 1.0
_RETRY_S = 1.0
_LISTING_TIMEOUT_S = 5.0


@dataclass(eq=False)
class Backend:
    """A server and what its last discovery found."""

    name: str
    engine: str
    api: OpenAICompatible
    shared_key: str = ""
    """What callers' names are signed with for it; empty for every server that is not the stack's own."""
    state: State = "unknown"
    message: str = "not asked yet"
    asked_at: float = -1e9
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def own(self) -> bool:
        """Whether it is one of the stack's own services."""
        return self.engine == OWN


class Backends:
    """All backends by name, in order of precedence; keeps the catalogue up to date from the background.

    Requests never wait for it, but for one case: an unknown model's name makes it look once more, for at most a
    second, so that a model that has just been loaded is found. No backend is asked so more often than once a second,
    but for the one whose name the model's begins with: `rag/new` is there as soon as `rag` has it.
    """

    def __init__(
        self, backends: Iterable[Backend], catalogue: Catalogue, metrics: GatewayMetrics, interval_s: float
    ) -> None:
        backends = tuple(backends)
        self._backends = {backend.name: backend for backend in backends}
        self._catalogue = catalogue
        self._metrics = metrics
        self._interval_s = interval_s
        self._tasks: list[asyncio.Task[None]] = []
        self._looks: dict[str, asyncio.Task[None]] = {}
        self.shared_keys = {backend.name: backend.shared_key for backend in backends if backend.own}
        """By the backend's name, for the stack's own services alone; empty where there is no key."""

    def __getitem__(self, name: str) -> Backend:
        return self._backends[name]

    def all(self) -> list[Backend]:
        """Return the backends in order."""
        return list(self._backends.values())

    def missing(self) -> str:
        """Return what is wrong with the backends that are not ready, in one line; empty where all are."""
        return "; ".join(f"{b.name}: {b.message or b.state}" for b in self.all() if b.state != "ready")

    async def start(self) -> None:
        """Begin discovery; wait for the first answers, but not longer than a second."""
        self._tasks = [asyncio.create_task(self._keep_looking(backend)) for backend in self.all()]
        await self.look_again()

    async def stop(self) -> None:
        """End discovery."""
        tasks = [*self._tasks, *self._looks.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def look_again(self, model: str = "") -> None:
        """Ask every backend that was not asked within the last second; wait for at most a second.

        Args:
            model: a name; the backend that it begins with is asked in any case, from now on.
        """
        now = time.monotonic()
        named = self._backends.get(model.partition("/")[0]) if "/" in model else None
        stale = [backend for backend in self.all() if now - backend.asked_at > _RETRY_S or backend.name in self._looks]
        looks = {self._look(backend) for backend in stale}
        try:
            async with asyncio.timeout(_FIRST_LOOK_S):
                if named is not None and named.asked_at < now:
                    # What has just changed there need not be in the answer to a look that began before.
                    if (under_way := self._looks.get(named.name)) is not None:
                        await asyncio.wait([under_way])
                    looks.add(self._look(named))
                if looks:
                    await asyncio.wait(looks)
        except TimeoutError:
            return

    def changed(self, name: str) -> None:
        """Note that a backend's models may have changed, or that it was found unreachable: discovery looks at once."""
        self._backends[name].wake.set()

    async def _keep_looking(self, backend: Backend) -> None:
        while True:
            backend.wake.clear()
            await asyncio.wait([self._look(backend)])
            pause = self._interval_s if backend.state == "ready" else min(_RETRY_S, self._interval_s)
            try:
                async with asyncio.timeout(pause):
                    await backend.wake.wait()
            except TimeoutError:
                continue

    def _look(self, backend: Backend) -> asyncio.Task[None]:
        """Return the one look at this backend that is under way, or begin it."""
        task = self._looks.get(backend.name)
        if task is None:
            backend.asked_at = time.monotonic()
            task = self._looks[backend.name] = asyncio.create_task(self._ask(backend))
            task.add_done_callback(lambda _: self._looks.pop(backend.name, None))
        return task

    async def _ask(self, backend: Backend) -> None:
        try:
            items = await backend.api.models(_LISTING_TIMEOUT_S)
        except AppError as error:
            self._note(backend, "loading" if isinstance(error, ModelLoading) else "unreachable", error.message)
            return
        facts = [found for item in items if (found := facts_from_listing(item, own=backend.own)) is not None]
        self._catalogue.set_models(backend.name, facts)
        self._note(backend, "ready", "")

    def _note(self, backend: Backend, state: State, message: str) -> None:
        if state != backend.state:
            _log.info("backend.state", backend=backend.name, was=backend.state, now=state, reason=message)
        backend.state, backend.message = state, message
        self._metrics.backend_up.labels(backend.name).set(1 if state == "ready" else 0)

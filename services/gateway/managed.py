"""The models that the engines service can load: a copy of its list, refreshed each second from the background."""

import asyncio
import time

import structlog

from services.gateway.catalogue import ENGINES, Catalogue, ModelFacts, facts_from_managed
from services.gateway.control import SERVING, EnginesService, ManagedModel
from services.kit.errors import AppError

_log = structlog.get_logger("engines")
_FIRST_LOOK_S = 1.0


class ManagedModels:
    """What is known of each model; a service that can't be reached leaves what was known.

    Args:
        known: facts of the catalogue file: the models are listed before the service has ever answered.
        default_fixed: the settings name the default model, so that the service's own is not taken.
    """

    def __init__(
        self,
        engines: EnginesService,
        catalogue: Catalogue,
        known: tuple[ModelFacts, ...] = (),
        *,
        default_fixed: bool = False,
        interval_s: float = 1.0,
    ) -> None:
        self.service = engines
        self.state = "unknown"
        self.message = "not asked yet"
        self._catalogue = catalogue
        self._default_fixed = default_fixed
        self._interval_s = interval_s
        self._models = {facts.id: ManagedModel(facts.id) for facts in known}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._look: asyncio.Task[None] | None = None
        self._asked_at = -1e9
        catalogue.add_backend(ENGINES, known)

    def __getitem__(self, model: str) -> ManagedModel:
        return self._models[model]

    def all(self) -> list[ManagedModel]:
        """Return the models in the service's order."""
        return list(self._models.values())

    def serves(self) -> bool:
        """Return whether requests can be answered: the service is there, or a model that it loaded."""
        return self.state == "ready" or any(model.state in SERVING for model in self._models.values())

    def last_address(self, model: str) -> str | None:
        """Return where a model's engine was when the service was last heard of."""
        known = self._models.get(model)
        return known.url if known is not None and known.state in SERVING else None

    def changed(self) -> None:
        """Note that something has changed: the list is asked for at once."""
        self._wake.set()

    async def start(self) -> None:
        """Begin to ask; wait for the first answer, but not longer than a second."""
        self._task = asyncio.create_task(self._keep_looking())
        await self.look_again()

    async def stop(self) -> None:
        """End asking."""
        tasks = [task for task in (self._task, self._look) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def look_again(self, *, at_once: bool = False) -> None:
        """Ask, unless that was done within the last interval; wait for at most a second.

        With `at_once`, what has just changed is in the answer: a look that is under way is not enough.
        """
        if at_once and self._look is not None:
            await asyncio.wait([self._look], timeout=_FIRST_LOOK_S)
        if at_once or self._look is not None or time.monotonic() - self._asked_at > self._interval_s:
            await asyncio.wait([self._begin_look()], timeout=_FIRST_LOOK_S)

    async def _keep_looking(self) -> None:
        while True:
            self._wake.clear()
            await asyncio.wait([self._begin_look()])
            try:
                async with asyncio.timeout(self._interval_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _begin_look(self) -> "asyncio.Task[None]":
        if self._look is None:
            self._asked_at = time.monotonic()
            self._look = asyncio.create_task(self._ask())
            self._look.add_done_callback(self._end_look)
        return self._look

    def _end_look(self, _task: "asyncio.Task[None]") -> None:
        self._look = None

    async def _ask(self) -> None:
        try:
            listed = await self.service.models()
        except AppError as error:
            self._note("unreachable", error.message)
            return
        if not self._default_fixed:
            self._catalogue.set_default(listed.default or "")
        self._models = {model.id: model for model in listed.data}
        self._catalogue.set_models(ENGINES, [facts_from_managed(model) for model in listed.data])
        self._note("ready", "")

    def _note(self, state: str, message: str) -> None:
        if state != self.state:
            _log.info("engines.state", was=self.state, now=state, reason=message)
        self.state, self.message = state, message

"""Put the service together: what is offered, where it runs, who watches."""

import asyncio
import hmac
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import structlog
from prometheus_client import CollectorRegistry

from services.engines.controller import Controller
from services.engines.files.pull import Pulls
from services.engines.files.pull_settings import PullSettings
from services.engines.files.store import ModelStore
from services.engines.fleet import Fleet
from services.engines.gguf import GgufError
from services.engines.host_memory import read_host_memory
from services.engines.lineup import aliases_of, default_first, known_recipes, preloaded
from services.engines.listing import model_documents
from services.engines.loading.containers import ContainerLauncher
from services.engines.loading.guard import guard_limits
from services.engines.loading.journal import Journal
from services.engines.loading.launching import Launcher, ProcessLauncher
from services.engines.loading.receipts import Receipts
from services.engines.loading.starting import Starter
from services.engines.metrics import EnginesMetrics
from services.engines.offers import Offer, OfferError
from services.engines.planning.machines import machine
from services.engines.recipes import Recipe, RecipeError
from services.engines.residency import Residency
from services.engines.residents import Limits
from services.engines.runtimes import Runtime
from services.engines.settings import EnginesSettings
from services.engines.watching.exporter import EngineExporter
from services.kit.settings import SettingsError

_log = structlog.get_logger("engines")
_PRESENCE_S = 10.0
_NO_ENGINE = "no engine is installed here that could serve a model; `make up` installs llama.cpp"
_NO_CONTAINER = (
    "no engine has a container here: `docker compose --profile cpu create` makes that of the default model, "
    "`--profile spark` those of a Spark; compose/README.md"
)


@dataclass
class Service:
    """The running parts.

    Args:
        default: id of the model behind the alias `default`.
        missing: models whose files are not here, by the last look.
    """

    settings: EnginesSettings
    controller: Controller
    store: ModelStore
    pulls: Pulls
    runtime: Runtime
    client: httpx.AsyncClient
    recipes: list[Recipe]
    default: str
    missing: frozenset[str] = frozenset()
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def clock(self) -> float:
        """Return the time on the residency's clock."""
        return time.monotonic()

    def knows(self, authorization: str) -> bool:
        """Say whether a caller's header carries the key; without a key everyone on this machine may call."""
        key = self.settings.api_key
        return not key or hmac.compare_digest(authorization.encode(), f"Bearer {key}".encode())

    def document(self, offer: Offer) -> dict[str, Any]:
        """Return what the list of models says of one."""
        documents = model_documents(self.controller, self.clock(), self.missing)
        return next(document for document in documents if document["id"] == offer.id)

    async def last_lines(self, offer: Offer, lines: int) -> str:
        """Return what a model's engine has written last."""
        return await self.runtime.logs(f"{offer.engine}-{offer.recipe.id}", lines)

    def is_loaded(self, offer: Offer) -> bool:
        """Say whether a model is in memory, or on its way there."""
        return self.controller.residency.models[offer.id].resident

    async def open(self) -> None:
        """Start deciding and watching."""
        await self.look_for_files()
        await self.controller.open()
        self._tasks = [asyncio.create_task(self._keep_looking_for_files())]

    async def close(self) -> None:
        """Stop; engines run on."""
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await self.pulls.close()
        await self.controller.close()
        await self.runtime.close()
        await self.client.aclose()

    async def look_for_files(self) -> None:
        """Note whose files are here."""
        offers = self.controller.offers.values()
        present = await asyncio.to_thread(lambda: {o.id for o in offers if self.store.is_present(o.recipe)})
        self.missing = frozenset(self.controller.offers) - present

    async def _keep_looking_for_files(self) -> None:
        while True:
            await asyncio.sleep(_PRESENCE_S)
            await self.look_for_files()


def make_service(
    settings: EnginesSettings,
    runtime: Runtime,
    registry: CollectorRegistry,
    variables: Mapping[str, str] = os.environ,
    containers: frozenset[str] | None = None,
) -> Service:
    """Return the service for these settings.

    Args:
        containers: names of the engines that have a container; None where engines are processes.

    Raises:
        SettingsError: a recipe, a file or a variable is wrong; with what to do.
    """
    store = ModelStore(settings.state)
    launcher: Launcher = (
        ProcessLauncher(store, variables)
        if containers is None
        else ContainerLauncher(store, settings.models_folder, containers, variables)
    )
    recipes, offers, preload = _lineup(settings, launcher, _NO_ENGINE if containers is None else _NO_CONTAINER)
    here = machine("this", cap_bytes=None)
    reserve = here.reserve_bytes if settings.reserve_bytes is None else settings.reserve_bytes
    client = httpx.AsyncClient(trust_env=False, timeout=10)
    journal = Journal(settings.folder)
    receipts = Receipts(settings.folder / "receipts.jsonl")
    fleet = Fleet(
        runtime=runtime, launcher=launcher, journal=journal, client=client, restart_stalled=settings.restart_stalled
    )
    starter = Starter(
        runtime=runtime,
        launcher=launcher,
        journal=journal,
        receipts=receipts,
        client=client,
        read_memory=read_host_memory,
        guard_limits=guard_limits(here, reserve),
        timeout_s=settings.load_timeout_s,
    )
    controller = Controller(
        offers=offers,
        preload=preload,
        aliases=aliases_of(offers, preload[0]),
        machine=here,
        reserve_bytes=reserve,
        cap_bytes=settings.cap_bytes,
        residency=Residency(Limits(settings.min_residency_s, settings.idle_ttl_s, settings.lease_s)),
        fleet=fleet,
        starter=starter,
        journal=journal,
        receipts=receipts,
        metrics=EnginesMetrics(registry),
        read_memory=read_host_memory,
    )
    registry.register(EngineExporter(fleet, lambda: controller.last_memory))
    pulls = Pulls(store, recipes, PullSettings().options())
    return Service(settings, controller, store, pulls, runtime, client, recipes, preload[0].id)


def _lineup(
    settings: EnginesSettings, launcher: Launcher, nothing: str
) -> tuple[list[Recipe], list[Offer], list[Offer]]:
    """Return the recipes, what is offered of them (the default first), and what is loaded at the start.

    Args:
        nothing: what to say where there is no engine for any.

    Raises:
        SettingsError: a recipe, a file or a variable is wrong; with what to do.
    """
    try:
        # `up` refuses a broken recipe while a person looks; a service that starts again serves what it can.
        recipes = known_recipes(settings, on_broken=lambda error: _log.error("recipe.left_out", reason=str(error)))
        offers = launcher.offers(recipes)
        if not offers:
            raise SettingsError(nothing)
        preload = preloaded(settings, offers)
        return recipes, default_first(offers, preload), preload
    except (RecipeError, GgufError, OfferError) as error:
        raise SettingsError(str(error)) from None

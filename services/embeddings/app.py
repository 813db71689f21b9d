"""Put the service together."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from fastapi import FastAPI

from services.embeddings.catalogue import Card, read_cards
from services.embeddings.loading import open_backend
from services.embeddings.metrics import EmbeddingsMetrics
from services.embeddings.models import Models, OpenBackend
from services.embeddings.routes import Api
from services.embeddings.settings import EmbeddingsSettings
from services.kit.app import create_app as create_kit_app
from services.kit.metrics import new_registry
from services.kit.middleware import DirectRoutes


def create_app(
    settings: EmbeddingsSettings,
    cards: Sequence[Card] | None = None,
    open_backend: OpenBackend = open_backend,
) -> FastAPI:
    """Return the service with the models that are on this machine.

    Args:
        cards: the models that it knows; the shipped list and the settings' own where none is given.
        open_backend: loads a model; tests hand in models of no weights.

    Raises:
        SettingsError: a variable names a model that is not known or not here.
    """
    registry = new_registry()
    known = read_cards(more=settings.catalogue) if cards is None else cards
    models = Models(known, settings, EmbeddingsMetrics(registry), open_backend)
    api = Api(settings, models)
    routes = api.routes()
    direct_routes: DirectRoutes = {
        (method, route.path): route.app for route in routes for method in route.methods or () if "{" not in route.path
    }

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(models.preload()), asyncio.create_task(models.watch_idle())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await models.close()

    async def readiness() -> Mapping[str, str]:
        return models.checks()

    app = create_kit_app(
        service="embeddings",
        title="sparkstack embeddings",
        registry=registry,
        lifespan=lifespan,
        readiness=readiness,
        quiet_routes=frozenset({"/v1/models"}),
        direct_routes=direct_routes,
    )
    app.state.models = models
    app.router.routes.extend(routes)
    return app

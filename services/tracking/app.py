"""The tracking service as an app: records, cost, feedback, drift."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from fastapi import FastAPI

from services.kit.app import create_app as create_kit_app
from services.kit.metrics import new_registry
from services.tracking.drift.routes import router as drift_router
from services.tracking.drift.service import Drift
from services.tracking.feedback_routes import router as feedback_router
from services.tracking.metrics import TrackingMetrics
from services.tracking.routes import router
from services.tracking.service import Parts, Service
from services.tracking.settings import TrackingSettings

_QUIET = frozenset({"/v1/models", "/v1/tracking/records"})


def create_app(settings: TrackingSettings, parts: Parts | None = None) -> FastAPI:
    """Return the service.

    Args:
        parts: what it needs of others; tests give their own.

    Raises:
        SettingsError: the tariff can't be read.
    """
    registry = new_registry()
    service = Service(settings, TrackingMetrics(registry), parts or Parts())
    drift = Drift(service.store, settings, registry)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await service.open()
        await drift.open()
        try:
            yield
        finally:
            await drift.close()
            await service.close()

    async def readiness() -> Mapping[str, str]:
        return service.checks()

    app = create_kit_app(
        service="tracking",
        title="sparkstack tracking",
        registry=registry,
        lifespan=lifespan,
        readiness=readiness,
        quiet_routes=_QUIET,
    )
    app.state.settings = settings
    app.state.service = service
    app.state.drift = drift
    for each in (router, feedback_router, drift_router):
        app.include_router(each)
    return app

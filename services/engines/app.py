"""The engines service as an app: the control API, health, metrics."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from fastapi import FastAPI

from services.engines.file_routes import router as file_router
from services.engines.prometheus_routes import router as prometheus_router
from services.engines.routes import router
from services.engines.runtimes import Runtime
from services.engines.service import make_service
from services.engines.settings import EnginesSettings
from services.kit.app import create_app as create_kit_app
from services.kit.metrics import new_registry


def create_app(settings: EnginesSettings, runtime: Runtime, containers: frozenset[str] | None = None) -> FastAPI:
    """Return the service that starts and stops engines by `runtime`.

    Args:
        containers: names of the engines that have a container; None where engines are processes.

    Raises:
        SettingsError: a recipe, a file or a variable is wrong.
    """
    registry = new_registry()
    service = make_service(settings, runtime, registry, containers=containers)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await service.open()
        try:
            yield
        finally:
            await service.close()

    async def readiness() -> Mapping[str, str]:
        return {"controller": "ok"}

    app = create_kit_app(
        service="engines",
        title="sparkstack engines",
        registry=registry,
        lifespan=lifespan,
        readiness=readiness,
        quiet_routes=frozenset({"/models", "/leases/{lease_id}", "/prometheus/targets"}),
    )
    app.state.service = service
    app.include_router(router)
    app.include_router(file_router)
    app.include_router(prometheus_router)
    return app

"""Put the gateway together."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from starlette.middleware.cors import CORSMiddleware

from services.gateway.adapters.openai_compatible import OpenAICompatible, Pool
from services.gateway.backends import Backend, Backends
from services.gateway.catalogue import Catalogue, ModelFacts, facts_from_document
from services.gateway.door import Door
from services.gateway.exchange import Live
from services.gateway.generate import HOT_ROUTES
from services.gateway.identity import Keys
from services.gateway.metrics import GatewayMetrics
from services.gateway.ollama.routes import OLLAMA_ROUTES, error_body
from services.gateway.openapi import add_openapi
from services.gateway.raw_route import starlette_routes
from services.gateway.routes import keyed, public
from services.gateway.settings import GatewaySettings, backend_url
from services.kit.app import create_app as create_kit_app
from services.kit.metrics import new_registry
from services.kit.middleware import DirectRoutes
from services.kit.settings import SettingsError


def create_app(settings: GatewaySettings) -> FastAPI:
    """Return the gateway in front of the backends of its settings and its catalogue file.

    Raises:
        SettingsError: a catalogue file that can't be read.
    """
    listed = _read_catalogue(settings)
    registry = new_registry()
    metrics = GatewayMetrics(registry)
    live = Live()
    direct_routes: DirectRoutes = {}
    metrics.in_flight.set_function(lambda: len(live))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        pool = Pool(settings.connect_timeout_s)
        app.state.door = door = _door(settings, listed, pool, live, metrics, app.state.tracer)
        app.state.started_at = time.monotonic()
        routes = starlette_routes(door, [*HOT_ROUTES, *OLLAMA_ROUTES])
        app.router.routes.extend(routes)  # for the methods that they don't have
        direct_routes.update({(kind, route.path): route.app for route in routes for kind in route.methods or ()})
        await door.backends.start()
        sampler = asyncio.create_task(_sample(live))
        try:
            yield
        finally:
            sampler.cancel()
            await door.backends.stop()
            await pool.close()

    async def readiness() -> Mapping[str, str]:
        return _readiness(app.state.door.backends.all())

    def metrics_guard(request: Request) -> None:
        app.state.door.keys.guard_metrics(request.scope)

    app = create_kit_app(
        service="gateway",
        title="sparkstack gateway",
        registry=registry,
        lifespan=lifespan,
        readiness=readiness,
        quiet_routes=frozenset({"/status"}),
        error_body=error_body,
        direct_routes=direct_routes,
        metrics_guard=metrics_guard,
    )
    app.include_router(public)
    app.include_router(keyed)
    add_openapi(app)
    if settings.cors_origins:
        _allow_origins(app, settings.cors_origins)
    return app


def _allow_origins(app: FastAPI, origins: Iterable[str]) -> None:
    app.add_middleware(
        CORSMiddleware,
        allow_origins=list(origins),
        allow_methods=["GET", "POST", "OPTIONS"],
        allow_headers=["*"],
        expose_headers=["x-request-id", "retry-after"],
    )


def _readiness(backends: Iterable[Backend]) -> Mapping[str, str]:
    """Return the checks of `/readyz`: one engine that answers is enough to work; the others show in `/status`."""
    checks = {b.name: "ok" if b.state == "ready" else b.message or b.state for b in backends}
    if any(state == "ok" for state in checks.values()):
        return {name: state for name, state in checks.items() if state == "ok"}
    return checks or {"backends": "none is configured: sparkstack gateway --backend NAME=URL"}


async def _sample(live: Live) -> None:
    while True:
        live.sample()
        await asyncio.sleep(1)


def _door(
    settings: GatewaySettings,
    listed: list[dict[str, Any]],
    pool: Pool,
    live: Live,
    metrics: GatewayMetrics,
    tracer: Any,
) -> Door:
    catalogue = Catalogue(settings.aliases, settings.default_model or _default_of(listed))
    backends = []
    for item in listed:
        name = item["name"]
        key = settings.backend_keys.get(name, "")
        backends.append(Backend(name, item["engine"], OpenAICompatible(pool, name, item["url"], key)))
        catalogue.add_backend(name, item["models"])
    return Door(
        settings=settings,
        keys=Keys(
            settings.api_keys,
            allow_loopback=settings.allow_loopback_without_key,
            origins=settings.cors_origins,
        ),
        catalogue=catalogue,
        backends=Backends(backends, catalogue, metrics, settings.discovery_interval_s),
        live=live,
        metrics=metrics,
        tracer=tracer,
    )


def _default_of(listed: list[dict[str, Any]]) -> str:
    return next((item["default"] for item in listed if item.get("default")), "")


def _read_catalogue(settings: GatewaySettings) -> list[dict[str, Any]]:
    """Return the backends: of the catalogue file, then of the settings; each with its known models."""
    listed: list[dict[str, Any]] = []
    if settings.catalogue is not None:
        document = _load(settings.catalogue)
        try:
            for item in document["backends"]:
                facts: list[ModelFacts] = [facts_from_document(model) for model in item.get("models", ())]
                url = backend_url(item["name"], item["url"])
                engine = item.get("engine", "openai")
                listed.append({"name": item["name"], "url": url, "engine": engine, "models": facts})
            if listed:
                listed[0]["default"] = document.get("default", "")
        except (KeyError, TypeError, ValueError) as error:
            raise SettingsError(f"GATEWAY_CATALOGUE={settings.catalogue}: not a catalogue: {error!r}") from None
    for name, url in settings.backends.items():
        listed = [item for item in listed if item["name"] != name]
        listed.append({"name": name, "url": url, "engine": "openai", "models": []})
    return listed


def _load(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SettingsError(f"GATEWAY_CATALOGUE={path}: {error}; `make up` writes it anew") from None
    return document

"""Put the gateway together."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import NoReturn

from fastapi import FastAPI, Request
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route

from services.gateway.adapters.engines_service import HttpEnginesService
from services.gateway.adapters.openai_compatible import OpenAICompatible, Pool
from services.gateway.adapters.tracking_service import HttpTrackingService
from services.gateway.alias_file import AliasFile
from services.gateway.backends import OWN, Backend, Backends
from services.gateway.background import Background
from services.gateway.catalogue import Catalogue
from services.gateway.catalogue_file import Listed, read_catalogue
from services.gateway.demands import LeaseTimes
from services.gateway.door import Door
from services.gateway.exchange import Live
from services.gateway.generate import HOT_ROUTES
from services.gateway.identity import Keys
from services.gateway.leases import Leases
from services.gateway.managed import ManagedModels
from services.gateway.metrics import GatewayMetrics
from services.gateway.ollama.routes import OLLAMA_ROUTES, error_body
from services.gateway.openapi import add_openapi
from services.gateway.passage import METHODS, PassageRoute, passage_paths
from services.gateway.raw_route import starlette_routes
from services.gateway.records import Records
from services.gateway.routes import keyed, public
from services.gateway.sending import Sender
from services.gateway.settings import GatewaySettings
from services.gateway.users import Users
from services.kit.app import create_app as create_kit_app
from services.kit.errors import NotFound
from services.kit.metrics import new_registry
from services.kit.middleware import DirectRoutes
from services.kit.tracing import Tracer

_QUIET = frozenset({"/status", "/", "/page/{name}", "/v1/models", "/api/tags", "/api/ps", "/api/version"})
"""The page, and what it and chat programs ask every few seconds."""


def create_app(settings: GatewaySettings, *, times: LeaseTimes | None = None) -> FastAPI:
    """Return the gateway in front of the backends of its settings and its catalogue file.

    Args:
        times: of the leases on models that are loaded on demand.

    Raises:
        SettingsError: a catalogue file that can't be read.
    """
    listed = read_catalogue(settings)
    passages = passage_paths(listed.backends)
    registry = new_registry()
    metrics = GatewayMetrics(registry)
    live = Live()
    direct_routes: DirectRoutes = {}
    metrics.in_flight.set_function(lambda: len(live))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        pool = Pool(settings.connect_timeout_s)
        app.state.door = door = _door(settings, listed, pool, live, metrics, app.state.tracer, times)
        app.state.started_at = time.monotonic()
        routes = starlette_routes(door, [*HOT_ROUTES, *OLLAMA_ROUTES])
        app.router.routes.extend(routes)  # for the methods that they don't have
        app.router.routes.extend(_passage_routes(door, passages))
        direct_routes.update({(kind, route.path): route.app for route in routes for kind in route.methods or ()})
        await door.start()
        sender = _sender(settings, door, pool)
        sampler = asyncio.create_task(_sample(live))
        try:
            yield
        finally:
            sampler.cancel()
            await door.stop()
            if sender is not None:
                await sender.stop()
            await pool.close()

    async def readiness() -> Mapping[str, str]:
        door: Door = app.state.door
        return door.readiness() or {"backends": "none is configured: sparkstack gateway --backend NAME=URL"}

    def metrics_guard(request: Request) -> None:
        app.state.door.keys.guard_metrics(request.scope)

    app = create_kit_app(
        service="gateway",
        title="sparkstack gateway",
        registry=registry,
        lifespan=lifespan,
        readiness=readiness,
        quiet_routes=_QUIET,
        error_body=error_body,
        direct_routes=direct_routes,
        metrics_guard=metrics_guard,
    )
    app.include_router(public)
    app.include_router(keyed)
    app.add_exception_handler(404, _no_path)
    add_openapi(app, passages)
    if settings.cors_origins:
        _allow_origins(app, settings.cors_origins)
    return app


def _sender(settings: GatewaySettings, door: Door, pool: Pool) -> Sender | None:
    """Begin to send records, where somebody keeps them."""
    if door.records is None:
        return None
    service = HttpTrackingService(pool, settings.tracking_url, settings.tracking_key)
    sender = Sender(door.records, service, every_s=settings.record_interval_s)
    sender.start()
    return sender


async def _no_path(request: Request, _error: Exception) -> NoReturn:
    # Raised, not answered: kit's middleware makes the envelope of it and writes the log line.
    raise NotFound(
        f"there is no {request.url.path} here; /openapi.json lists what there is. Paths of a service, such as "
        "/v1/files, come with the service: `sparkstack status` shows which are behind this gateway"
    )


def _passage_routes(door: Door, passages: Iterable[tuple[str, str]]) -> Iterable[Route]:
    for path, name in passages:
        for template in (path, f"{path}/{{rest:path}}"):
            route = PassageRoute(door, template.replace(":path", ""), door.backends[name])
            yield Route(template, route, methods=METHODS, include_in_schema=False)


def _allow_origins(app: FastAPI, origins: Iterable[str]) -> None:
    app.add_middleware(
        CORSMiddleware,
        allow_origins=list(origins),
        allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"],
        allow_headers=["*"],
        expose_headers=["x-request-id", "retry-after", "x-sparkstack-queue-position", "x-sparkstack-eta-s"],
    )


async def _sample(live: Live) -> None:
    while True:
        live.sample()
        await asyncio.sleep(1)


def _door(
    settings: GatewaySettings,
    listed: Listed,
    pool: Pool,
    live: Live,
    metrics: GatewayMetrics,
    tracer: Tracer | None,
    times: LeaseTimes | None,
) -> Door:
    catalogue = Catalogue(settings.aliases, settings.default_model or listed.default)
    managed, leases = _on_demand(settings, listed, catalogue, pool, metrics, times)
    backends = []
    for item in listed.backends:
        own = item.engine == OWN
        key = settings.backend_keys.get(item.name) or (settings.internal_key if own else "")
        api = OpenAICompatible(pool, item.name, item.url, key)
        backends.append(Backend(item.name, item.engine, api, shared_key=key if own else ""))
        catalogue.add_backend(item.name, item.models)
    return Door(
        settings=settings,
        keys=Keys(
            settings.api_keys,
            allow_loopback=settings.allow_loopback_without_key,
            origins=settings.cors_origins,
            internal=settings.internal_key,
            users=Users(settings.openwebui_secret, settings.openwebui_users) if settings.openwebui_secret else None,
        ),
        catalogue=catalogue,
        backends=Backends(backends, catalogue, metrics, settings.discovery_interval_s),
        live=live,
        metrics=metrics,
        tracer=tracer,
        managed=managed,
        leases=leases,
        background=Background(live, settings.background_wait_s, metrics),
        records=Records(settings.record_sample, settings.record_queue, metrics) if settings.tracking_url else None,
        alias_file=AliasFile(settings.aliases_file, catalogue, metrics) if settings.aliases_file else None,
    )


def _on_demand(
    settings: GatewaySettings,
    listed: Listed,
    catalogue: Catalogue,
    pool: Pool,
    metrics: GatewayMetrics,
    times: LeaseTimes | None,
) -> tuple[ManagedModels | None, Leases | None]:
    """Return what is needed for models that the engines service loads, where there is one."""
    if not settings.engines_url:
        return None, None
    engines = HttpEnginesService(pool, settings.engines_url, settings.engines_key)
    managed = ManagedModels(engines, catalogue, listed.managed, default_fixed=bool(settings.default_model))
    connect = partial(OpenAICompatible, pool)
    leases = Leases(engines, connect, managed.last_address, metrics, changed=managed.changed, times=times)
    metrics.held.set_function(leases.held)
    metrics.leases.set_function(lambda: len(leases.all()))
    return managed, leases

"""The app factory: what every service has before it has anything of its own."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CollectorRegistry
from starlette.exceptions import HTTPException

from services import __version__
from services.kit.errors import AppError, InvalidRequest, MethodNotAllowed, NotFound, NotReady
from services.kit.metrics import CONTENT_TYPE, HttpMetrics, render
from services.kit.middleware import LOG_FIELDS, DirectRoutes, ErrorBody, Telemetry, envelope
from services.kit.tracing import tracer_from_environment

Checks = Mapping[str, str]
"""What a service needs, by name: `ok`, or a sentence that says what is missing."""


def create_app(
    *,
    service: str,
    title: str,
    registry: CollectorRegistry,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]],
    readiness: Callable[[], Awaitable[Checks]],
    metrics_guard: Callable[[Request], None] = lambda _request: None,
    quiet_routes: frozenset[str] = frozenset(),
    error_body: ErrorBody = envelope,
    direct_routes: DirectRoutes | None = None,
) -> FastAPI:
    """Return an app with the error envelope, telemetry, `/livez`, `/readyz` and `/metrics`.

    Args:
        service: the service's name in logs and traces.
        title: of the OpenAPI document.
        registry: the app's own metrics registry (`kit.metrics.new_registry`).
        lifespan: holds the service's clients.
        readiness: returns the checks of `/readyz`; it must answer at once, from memory.
        metrics_guard: raises an AppError where the caller may not see `/metrics`.
        quiet_routes: routes that machines ask every few seconds; they are logged only where they fail.
        error_body: writes an error for the clients of a path; the envelope, where a service has no other form.
        direct_routes: hot routes, which may be filled in later; the way through FastAPI's router is dear there.
    """
    tracer = tracer_from_environment(service, __version__, registry)

    @asynccontextmanager
    async def whole_lifespan(app: FastAPI) -> Any:
        async with lifespan(app):
            yield
        if tracer is not None:
            await asyncio.to_thread(tracer.shutdown)

    # FastAPI's own spans and metrics would be second ones beside those of kit.middleware.
    app = FastAPI(
        title=title,
        version=__version__,
        lifespan=whole_lifespan,
        docs_url=None,
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.tracer = tracer
    app.state.error_body = error_body
    app.add_middleware(
        Telemetry,
        metrics=HttpMetrics(registry),
        tracer=tracer,
        quiet_routes=quiet_routes,
        error_body=error_body,
        direct_routes=direct_routes,
    )
    app.add_exception_handler(AppError, _app_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_exception)
    _add_health(app, service, registry, readiness, metrics_guard)
    return app


def _add_health(
    app: FastAPI,
    service: str,
    registry: CollectorRegistry,
    readiness: Callable[[], Awaitable[Checks]],
    metrics_guard: Callable[[Request], None],
) -> None:
    @app.get("/livez", tags=["health"], summary="The process answers; touches nothing else")
    async def livez() -> dict[str, str]:
        return {"status": "ok", "service": service, "version": __version__}

    @app.get("/readyz", tags=["health"], summary="What this service needs, and what of it is missing")
    async def readyz() -> Response:
        checks = dict(await readiness())
        missing = [f"{name}: {state}" for name, state in checks.items() if state != "ok"]
        if not missing:
            return JSONResponse({"status": "ready", "checks": checks})
        error = NotReady(f"{service} is not ready. " + "; ".join(missing), retry_after_s=1)
        return JSONResponse(
            {**error.envelope(), "status": "waiting", "checks": checks},
            status_code=error.status,
            headers={"retry-after": "1"},
        )

    @app.get("/metrics", tags=["health"], summary="Prometheus metrics", response_class=PlainTextResponse)
    async def metrics(request: Request) -> Response:
        metrics_guard(request)
        return Response(render(registry), headers={"content-type": CONTENT_TYPE})


def _error_response(request: Request, error: AppError) -> Response:
    request.scope[LOG_FIELDS]["error"] = error.code
    headers = {name.decode(): value.decode() for name, value in error.headers()}
    body: bytes = request.app.state.error_body(request.url.path, error)
    return Response(body, status_code=error.status, headers=headers)


async def _app_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, AppError)
    return _error_response(request, error)


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("body", "query", "path"))
    message = f"{where or 'the request'}: {first['msg']}"
    return _error_response(request, InvalidRequest(message, param=where or None))


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        known: AppError = NotFound(f"there is no {request.url.path} here; /openapi.json lists what there is")
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        known = MethodNotAllowed(f"{request.method} is not allowed on {request.url.path}; use {allowed}")
    else:
        known = InvalidRequest(str(error.detail))
    response = _error_response(request, known)
    for name, value in (error.headers or {}).items():
        response.headers[name] = value
    return response

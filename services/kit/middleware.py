"""Request id, metrics, one log line and one span for each request: a pure ASGI middleware.

Starlette's BaseHTTPMiddleware would put a task and a queue between the app and the socket, which delays
streams and hides the client's leaving; hence none of it here.
"""

import re
import time
import uuid
from collections.abc import Callable
from typing import Any

import structlog

from services.kit.asgi import ClientLeft, Receive, Scope, Send, header, send_response
from services.kit.errors import AppError, Internal
from services.kit.metrics import HttpMetrics
from services.kit.tracing import NOTHING, Span, Tracer

_log = structlog.get_logger("request")
_SANE_ID = re.compile(rb"[A-Za-z0-9._\-]{1,128}\Z")
QUIET_ROUTES = frozenset({"/livez", "/readyz", "/metrics"})
"""Asked every few seconds by machines: no span, and a log line only where they fail."""

REQUEST_ID = "sparkstack.request_id"
"""Scope key: the request's id as bytes, the caller's own where it sent a sane one."""
LOG_FIELDS = "sparkstack.log"
"""Scope key: a dict that a route fills; it ends up in the `request.completed` line and on the span."""
ROUTE = "sparkstack.route"
"""Scope key: the route template, set by raw ASGI routes; others are found by the router."""


ErrorBody = Callable[[str, AppError], bytes]
"""Writes an error for the clients of a path."""


def envelope(_path: str, error: AppError) -> bytes:
    """Write the envelope: what all clients but those of a foreign API read."""
    return error.body()


DirectRoutes = dict[tuple[str, str], Any]
"""ASGI callables by method and path that are called past FastAPI's middleware and router."""


class Telemetry:
    """Wrap an app so that each request is named, counted, logged and, where tracing is on, traced.

    Errors that escape the app are answered here, so that they carry the request id and are counted.
    """

    def __init__(
        self,
        app: Any,
        metrics: HttpMetrics,
        tracer: Tracer | None,
        quiet_routes: frozenset[str] = frozenset(),
        error_body: ErrorBody = envelope,
        direct_routes: DirectRoutes | None = None,
    ) -> None:
        self.app = app
        self._direct = {} if direct_routes is None else direct_routes
        self._metrics = metrics
        self._tracer = tracer
        self._quiet = QUIET_ROUTES | quiet_routes
        self._quiet_paths = re.compile("|".join(sorted(map(_path_pattern, self._quiet))))
        self._error_body = error_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = scope[REQUEST_ID] = _request_id(scope)
        fields: dict[str, Any] = {}
        scope[LOG_FIELDS] = fields
        status = 0

        async def named_send(message: dict[str, Any]) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id)]
            await send(message)

        with self._span(scope) as span:
            try:
                answer = self._direct.get((scope["method"], scope["path"]), self.app)
                await answer(scope, receive, named_send)
            except ClientLeft:
                fields["outcome"] = "client_left"
            except Exception as failure:
                error = _expected(failure, scope)
                fields["error"] = error.code
                if not status:
                    body = self._error_body(scope["path"], error)
                    await send_response(named_send, error.status, error.headers(), body)
            finally:
                # 499: nothing was sent because nobody was there any more (nginx's number for it).
                self._finish(scope, status or 499, time.perf_counter() - started, fields, span)

    def _span(self, scope: Scope) -> Span:
        if self._tracer is None:
            return NOTHING
        if self._quiet_paths.fullmatch(scope["path"]):
            return self._tracer.no_span()
        return self._tracer.server_span(f"{scope['method']} {scope['path']}", scope["headers"])

    def _finish(self, scope: Scope, status: int, seconds: float, fields: dict[str, Any], span: Span) -> None:
        route = _route(scope)
        if span.recording:
            _describe(span, scope, route, status, fields)
        self._metrics.observe(scope["method"], route, status, seconds)
        if route in self._quiet and status < 400:
            return
        _log.info(
            "request.completed",
            method=scope["method"],
            route=route,
            status=status,
            ms=round(seconds * 1000, 2),
            request_id=scope[REQUEST_ID].decode(),
            **fields,
        )


def _path_pattern(route: str) -> str:
    """Return what matches the paths of a route's template."""
    return "".join("[^/]+" if part.startswith("{") else re.escape(part) for part in re.split(r"(\{[^}]*\})", route))


def _describe(span: Span, scope: Scope, route: str, status: int, fields: dict[str, Any]) -> None:
    """Say on the span what the log line says, by OpenTelemetry's names where it has some.

    Source: https://opentelemetry.io/docs/specs/semconv/http/http-spans/#http-server-span
    """
    span.rename(f"{scope['method']} {route}")
    span.set(
        {
            "http.request.method": scope["method"],
            "http.route": route,
            "http.response.status_code": status,
            "url.path": scope["path"],
            "sparkstack.request_id": scope[REQUEST_ID].decode(),
            **{f"sparkstack.{key}": value for key, value in fields.items()},
        }
    )
    failed = fields.get("error")
    if status >= 500 or (failed is not None and status < 400):  # the latter: in the middle of a stream
        span.record_error(str(failed or status))
    elif failed is not None:  # the client's mistake is no failure of this service
        span.set({"error.type": str(failed)})


def _request_id(scope: Scope) -> bytes:
    given = header(scope, b"x-request-id")
    if given is not None and _SANE_ID.match(given):
        return given
    return uuid.uuid4().hex.encode()


def _route(scope: Scope) -> str:
    route = scope.get(ROUTE)
    if route is None:
        route = getattr(scope.get("route"), "path", "unmatched")
    return str(route)


def _expected(failure: Exception, scope: Scope) -> AppError:
    """Return the error that the client is told about: the failure itself, or of a crash only the request id."""
    if isinstance(failure, AppError):
        return failure
    request_id = scope[REQUEST_ID].decode()
    _log.error("request.crashed", request_id=request_id, path=scope["path"], exc_info=failure)
    return Internal(f"internal error; the log of this service has it under request id {request_id}")

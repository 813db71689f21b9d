"""The span of a request: its names, what fails it, and which requests have none."""

import contextlib

import httpx
import pytest
from fastapi import FastAPI
from structlog.testing import capture_logs

from services.kit import tracing
from services.kit.app import _app_error
from services.kit.errors import AppError, EngineUnreachable, NotFound
from services.kit.metrics import HttpMetrics, new_registry
from services.kit.middleware import LOG_FIELDS, Telemetry, envelope
from tests.testkit.spans import RecordedSpans


@pytest.fixture(autouse=True)
def quiet_log():
    with capture_logs():
        yield


@pytest.fixture
def spans(monkeypatch):
    monkeypatch.delenv("OTEL_TRACES_SAMPLER", raising=False)
    return RecordedSpans()


@pytest.fixture
async def client(spans):
    app = FastAPI(telemetry={"tracing": False, "metrics": False, "logs": False})

    @app.get("/things/{name}")
    async def thing(name: str):
        if name == "none":
            raise NotFound("there is no such thing")
        if name == "down":
            raise EngineUnreachable("the engine can't be reached")
        if name == "bug":
            raise ValueError("secret")
        return tracing.outgoing_headers()

    @app.get("/leases/{lease_id}")
    async def lease(lease_id: str):
        return tracing.outgoing_headers()

    app.state.error_body = envelope
    app.add_exception_handler(AppError, _app_error)
    traced = Telemetry(
        app, HttpMetrics(new_registry()), spans.tracer, quiet_routes=frozenset({"/leases/{lease_id}", "/models"})
    )
    transport = httpx.ASGITransport(traced)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as made:
        yield made


async def test_it_is_named_by_its_route_and_says_what_the_log_says(client, spans):
    await client.get("/things/one", headers={"x-request-id": "r1"})
    assert list(spans.ended) == ["GET /things/{name}"], "a path would make as many names as there are things"
    assert spans.attributes("GET /things/{name}") == {
        "http.request.method": "GET",
        "http.route": "/things/{name}",
        "http.response.status_code": 200,
        "url.path": "/things/one",
        "sparkstack.request_id": "r1",
    }


@pytest.mark.parametrize(
    ("name", "failed", "kind"),
    [
        ("one", False, None),
        ("none", False, "not_found"),
        ("down", True, "engine_unreachable"),
        ("bug", True, "internal"),
    ],
)
async def test_the_clients_mistakes_are_no_failure_of_the_service(client, spans, name, failed, kind):
    await client.get(f"/things/{name}")
    span = spans.ended["GET /things/{name}"]
    assert span.failed == failed
    assert span.attributes.get("error.type") == kind
    assert "secret" not in f"{span} {span.attributes} {span.message}"


@pytest.mark.parametrize("path", ["/livez", "/metrics", "/models", "/leases/17"])
async def test_polls_have_no_span_whatever_the_caller_says(client, spans, path):
    answer = await client.get(path, headers={"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"})
    assert spans.ended == {}
    if path == "/leases/17":
        assert answer.json()["traceparent"].endswith("-00"), "nor have those who are asked for them"


async def test_a_path_that_only_begins_like_a_poll_has_one(client, spans):
    await client.get("/leases/17/lost")
    await client.get("/livez2")
    assert len(spans.all) == 2


async def test_a_failure_in_the_middle_of_a_stream_is_one(spans):
    async def app(scope, _receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        scope[LOG_FIELDS]["error"] = "engine_timeout"
        await send({"type": "http.response.body", "body": b"half"})

    traced = Telemetry(app, HttpMetrics(new_registry()), spans.tracer)
    async with contextlib.AsyncExitStack() as stack:
        transport = httpx.ASGITransport(traced)
        client = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://test"))
        assert (await client.get("/stream")).status_code == 200
    span = spans.ended["GET unmatched"]
    assert (span.failed, span.attributes["error.type"]) == (True, "engine_timeout")

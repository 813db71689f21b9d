"""What is known of a request afterwards: one log line, metrics with closed labels, one span."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.integration.children import gateway_process
from tests.integration.gateways import CHAT, MODEL, chat_body, gateway
from tests.testkit.ports import free_listener
from tests.testkit.server import eventually

KEY = "sk-spark-0123456789abcdef"
PROMPT = "my most secret question"
TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"

# --- the log ----------------------------------------------------------------------------------------------------


async def test_one_line_a_request_with_its_figures_and_neither_prompt_nor_key(fake_engine):
    """Of the real process: what is written to its output is all that there is."""
    headers = {"authorization": f"Bearer {KEY}", "x-request-id": "one"}
    messages = [{"role": "user", "content": f"echo: {PROMPT}"}]
    async with gateway_process(fake_engine.url, env={"SPARKSTACK_API_KEY": f"ann={KEY}"}) as front:
        async with httpx.AsyncClient(base_url=front.url, trust_env=False, verify=False) as client:
            body = chat_body(messages=messages, stream=True)
            await client.post(CHAT, json=body, headers=headers)
            await client.post(CHAT, json=chat_body(messages=messages), headers={**headers, "x-fake-status": "429"})
            await client.post(CHAT, json=chat_body(messages=messages), headers={"authorization": "Bearer sk-wrong-key"})
            await client.post(CHAT, content=b'{"model": "my most secret', headers=headers)
            await client.get("/livez")
            await client.get("/metrics")
        lines = await eventually(lambda: front.requests(CHAT)[3:] and front.requests(CHAT))
        output = front.child.output
        quiet = front.requests("/livez") + front.requests("/metrics")
    streamed, limited, refused, broken = lines
    assert {
        "level": "info",
        "service": "gateway",
        "method": "POST",
        "status": 200,
        "request_id": "one",
        "client": "ann",
        "model": MODEL,
        "backend": "engine",
        "stream": True,
        "outcome": "ok",
        "completion_tokens": 4,
        "usage_source": "engine",
    }.items() <= streamed.items()
    assert streamed["prompt_tokens"] > 0
    assert 0 < streamed["ttft_ms"] <= streamed["ms"]
    assert "error" not in streamed
    assert (limited["status"], limited["error"], limited["outcome"]) == (429, "rate_limited", "failed")
    assert (refused["status"], refused["error"]) == (401, "invalid_api_key")
    assert (broken["status"], broken["error"]) == (400, "invalid_request")
    assert not quiet, "probes would drown the rest"
    assert "secret" not in output
    assert KEY not in output
    assert "sk-wrong-key" not in output


async def test_a_backend_that_changes_its_state_is_one_line(fake_engine, logs):
    async with gateway(fake_engine, discovery_interval_s=0.03) as front:
        await fake_engine.stop()
        await eventually(lambda: front.door.backends["engine"].state == "unreachable")
        await fake_engine.start()
        await eventually(lambda: front.door.backends["engine"].state == "ready")
    changes = [(line["was"], line["now"]) for line in logs if line["event"] == "backend.state"]
    assert changes == [("unknown", "ready"), ("ready", "unreachable"), ("unreachable", "ready")]


# --- metrics ----------------------------------------------------------------------------------------------------


async def test_after_one_stream_all_metrics_of_the_conventions_are_there(fake_engine):
    async with gateway(fake_engine) as front:
        await front.stream(headers={"x-fake-tokens-per-s": "500"})
        metrics = await front.metrics()
    for name in (
        "gen_ai_server_time_to_first_token_seconds",
        "gen_ai_server_time_per_output_token_seconds",
        "gen_ai_server_request_duration_seconds",
        "http_request_duration_seconds",
    ):
        assert metrics.value(f"{name}_count") >= 1, name
        assert metrics.value(f"{name}_sum") > 0, name
        assert f"{name}_bucket" in metrics.names
    assert metrics.value("gen_ai_client_token_usage_sum", gen_ai_token_type="output") == 24
    assert metrics.value("http_requests_total", route=CHAT, status="200", method="POST") == 1
    assert metrics.value("process_resident_memory_bytes") > 0


async def test_a_plain_request_has_no_first_token(fake_engine):
    async with gateway(fake_engine) as front:
        await front.chat()
        metrics = await front.metrics()
    assert metrics.value("gen_ai_server_time_to_first_token_seconds_count") == 0
    assert metrics.value("gen_ai_server_request_duration_seconds_count", outcome="ok") == 1


async def test_labels_are_closed_sets_whatever_is_asked_for(fake_engine):
    """A label that a caller can choose is a memory leak."""
    async with gateway(fake_engine) as front:
        for number in range(5):
            await front.client.get(f"/v1/models/nobody-{number}")
            await front.client.get(f"/nowhere/{number}")
            await front.client.get(f"/page/{number}.js")
            await front.client.request("PATCH", f"/v1/models/{number}")
            await front.chat(model=f"nobody-{number}")
            await front.client.post(CHAT, content=b"[]")
        await front.chat(model="engine/fake-chat")
        await front.chat(model="default")
        metrics = await front.metrics()
    assert metrics.labels("http_requests_total", "route") == {
        "/v1/models/{model:path}",
        "/page/{name}",
        "unmatched",
        CHAT,
    }
    assert metrics.labels("gateway_exchanges_total", "gen_ai_request_model") == {MODEL}
    assert metrics.labels("gen_ai_server_request_duration_seconds_count", "gen_ai_request_model") == {MODEL}
    assert metrics.labels("http_requests_total", "method") == {"GET", "PATCH", "POST"}


async def test_requests_in_flight_are_counted_while_they_are(fake_engine):
    async with gateway(fake_engine) as front:
        task = asyncio.create_task(front.stream(headers={"x-fake-ttft-ms": "60000"}))
        await eventually(lambda: fake_engine.state().open_streams == 1)
        text = (await front.client.get("/metrics")).text
        status = await front.status()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert (await front.metrics()).value("gateway_requests_in_flight") == 0
    assert "gateway_requests_in_flight 1.0" in text
    (live,) = status["live"]
    assert live.items() >= {"model": MODEL, "operation": "chat", "stream": True, "phase": "waiting"}.items()
    assert next(model for model in status["models"] if model["id"] == MODEL)["requests_in_flight"] == 1


# --- traces -----------------------------------------------------------------------------------------------------


class Collector:
    """An OTLP collector: keeps the spans that are posted to `/v1/traces`."""

    def __init__(self) -> None:
        self.spans: list = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
                request = ExportTraceServiceRequest.FromString(await reader.readexactly(length))
                for resource in request.resource_spans:
                    service = next(
                        a.value.string_value for a in resource.resource.attributes if a.key == "service.name"
                    )
                    for scope in resource.scope_spans:
                        self.spans += [(service, span) for span in scope.spans]
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        writer.close()


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    collector = Collector()
    listener = free_listener()
    server = await asyncio.start_server(collector.serve, sock=listener)
    collector.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    yield collector
    server.close()


@pytest.mark.slow
async def test_one_request_is_one_server_span_under_the_callers(fake_engine, collector):
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
    headers = {"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-01", "x-request-id": "traced"}
    messages = [{"role": "user", "content": PROMPT}]
    async with gateway_process(fake_engine.url, env=env) as front:
        async with httpx.AsyncClient(base_url=front.url, trust_env=False, verify=False) as client:
            await client.post(CHAT, json=chat_body(messages=messages, stream=True), headers=headers)
            for polled in ("/livez", "/v1/models", "/"):
                await client.get(polled)
            await client.get(f"/v1/models/{MODEL}")
        await eventually(lambda: len(collector.spans) >= 3)
        front.terminate()  # which sends what else there is
        await front.child.wait()
    by_name = {span.name: (service, span) for service, span in collector.spans}
    assert len(collector.spans) == 3, [span.name for _, span in collector.spans]
    service, span = by_name[f"POST {CHAT}"]
    attributes = {a.key: a.value.string_value or a.value.int_value for a in span.attributes}
    assert service == "gateway"
    assert span.kind == span.SPAN_KIND_SERVER
    assert span.trace_id.hex() == TRACE_ID
    assert span.parent_span_id.hex() == SPAN_ID
    assert attributes["http.route"] == CHAT
    assert attributes["http.response.status_code"] == 200
    assert attributes["sparkstack.model"] == MODEL
    assert attributes["sparkstack.completion_tokens"] == 24
    assert PROMPT not in str(collector.spans)
    _, asking = by_name[f"chat {MODEL}"]
    assert asking.kind == span.SPAN_KIND_CLIENT
    assert asking.parent_span_id == span.span_id
    seen = fake_engine.requests(CHAT)[-1]["headers"]["traceparent"]
    assert seen == f"00-{TRACE_ID}-{asking.span_id.hex()}-01", "the engine's span is a child of ours"
    assert by_name["GET /v1/models/{model:path}"][1].parent_span_id == b""


async def test_a_dead_collector_harms_nobody(fake_engine):
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_BSP_SCHEDULE_DELAY": "50"}
    async with gateway_process(fake_engine.url, env=env) as front:
        async with httpx.AsyncClient(base_url=front.url, trust_env=False, verify=False) as client:
            answers = [await client.post(CHAT, json=chat_body(max_tokens=1)) for _ in range(20)]
        began = time.monotonic()
        front.terminate()
        await front.child.wait()
        assert time.monotonic() - began < 6
    assert {answer.status_code for answer in answers} == {200}


async def test_without_a_collector_the_callers_trace_goes_on_as_it_came(fake_engine):
    given = f"00-{TRACE_ID}-{SPAN_ID}-01"
    async with gateway(fake_engine) as front:
        await front.chat(headers={"traceparent": given})
    assert fake_engine.requests(CHAT)[-1]["headers"]["traceparent"] == given


async def test_the_status_says_what_the_metrics_say(fake_engine):
    async with gateway(fake_engine) as front:
        await front.chat()
        await front.stream()
        await front.chat(headers={"x-fake-status": "500"})
        status = await front.status()
        metrics = await front.metrics()
    totals = status["totals"]
    assert totals["requests"] == metrics.value("gateway_exchanges_total") == 3
    assert totals["failed"] == metrics.value("gateway_exchanges_total", outcome="failed") == 1
    assert totals["completion_tokens"] == 48
    assert status["live"] == []
    assert status["memory"]["gateway_rss_bytes"] > 0
    assert json.dumps(status)

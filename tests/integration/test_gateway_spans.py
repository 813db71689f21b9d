"""What the gateway's own spans say: of the request, of each server that it asks, of the wait for a model."""

import json
from urllib.parse import urlsplit

import pytest

from tests.integration.gateways import CHAT, MODEL, chat_body, gateway
from tests.integration.on_demand import on_demand
from tests.testkit.collector import collector
from tests.testkit.server import eventually

SERVER, ASKED = f"POST {CHAT}", f"chat {MODEL}"
CONTENT = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"


@pytest.fixture
async def seen(monkeypatch):
    async with collector() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        yield found


async def test_a_request_is_a_server_span_with_the_call_of_the_engine_below_it(seen, fake_engine):
    async with gateway(fake_engine) as front:
        answer = (await front.chat(temperature=0.5, max_tokens=7, user="grace")).json()
        trace = await seen.whole(SERVER, ASKED)
    server, client = trace.one(SERVER, kind="server"), trace.one(ASKED, kind="client")
    assert trace.parent(client) is server
    address = urlsplit(fake_engine.url)
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": MODEL,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.max_tokens": 7,
        "gen_ai.response.model": MODEL,
        "gen_ai.response.finish_reasons": [answer["choices"][0]["finish_reason"]],
        "gen_ai.usage.input_tokens": answer["usage"]["prompt_tokens"],
        "gen_ai.usage.output_tokens": answer["usage"]["completion_tokens"],
        "server.address": address.hostname,
        "server.port": address.port,
        "sparkstack.backend": "engine",
        "sparkstack.attempt": 1,
    }
    assert expected.items() <= client.attributes.items()
    assert "gen_ai.usage.input_tokens" not in server.attributes, "sums would count it twice"
    assert "gen_ai.response.time_to_first_chunk" not in client.attributes
    everything = str([span.attributes for span in trace.spans])
    for secret in ("Tell me something.", "grace", answer["choices"][0]["message"]["content"]):
        assert secret not in everything


async def test_a_stream_has_the_time_of_its_first_token(seen, fake_engine):
    async with gateway(fake_engine) as front:
        await front.stream(headers={"x-fake-ttft-ms": "50"})
        trace = await seen.whole(SERVER, ASKED)
    client = trace.one(ASKED)
    assert client.attributes["gen_ai.request.stream"] is True
    assert 0.04 < client.attributes["gen_ai.response.time_to_first_chunk"] < 5
    assert client.attributes["gen_ai.usage.output_tokens"] == 24


async def test_an_engine_that_fails_is_an_error_by_its_code(seen, fake_engine):
    async with gateway(fake_engine) as front:
        await front.chat(headers={"x-fake-status": "500"})
        trace = await seen.whole(SERVER, ASKED)
    server, client = trace.one(SERVER), trace.one(ASKED)
    assert client.failed
    assert server.failed
    assert client.attributes["error.type"] == server.attributes["error.type"] == "engine_error"


async def test_a_client_that_leaves_is_no_failure(seen, fake_engine):
    fake_engine.script(path=CHAT, tokens=2000, tokens_per_s=100)
    async with gateway(fake_engine) as front:
        async with front.client.stream("POST", CHAT, json=chat_body(stream=True)) as response:
            async for line in response.aiter_lines():
                if '"content"' in line:
                    break
        trace = await seen.whole(SERVER, ASKED)
    client = trace.one(ASKED)
    assert client.attributes["sparkstack.cancelled"] is True
    assert not any(span.failed for span in trace.spans)
    assert 0 < client.attributes["gen_ai.usage.output_tokens"] < 2000


async def test_question_and_answer_are_there_where_that_is_switched_on(seen, fake_engine, monkeypatch):
    monkeypatch.setenv(CONTENT, "true")
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "echo: hello"}]
    async with gateway(fake_engine) as front:
        answer = (await front.chat(messages=messages)).json()["choices"][0]["message"]["content"]
        trace = await seen.whole(SERVER, ASKED)
    client, server = trace.one(ASKED), trace.one(SERVER)
    asked = json.loads(client.attributes["gen_ai.input.messages"])
    assert [(each["role"], each["parts"][0]["content"]) for each in asked] == [
        ("system", "be brief"),
        ("user", "echo: hello"),
    ]
    assert json.loads(client.attributes["gen_ai.output.messages"])[0]["parts"][0]["content"] == answer
    assert "echo: hello" in server.attributes["input.value"]
    assert answer in server.attributes["output.value"]


async def test_other_operations_are_called_what_they_are(seen, fake_engine):
    async with gateway(fake_engine) as front:
        await front.client.post("/v1/embeddings", json={"model": "fake-embed", "input": "hello"})
        trace = await seen.whole("POST /v1/embeddings", "embeddings fake-embed")
    attributes = trace.one("embeddings fake-embed").attributes
    assert attributes["gen_ai.operation.name"] == "embeddings"
    assert attributes["gen_ai.usage.output_tokens"] == 0


async def test_polls_and_the_page_begin_no_trace(seen, fake_engine):
    async with gateway(fake_engine) as front:
        for path in ("/", "/page/app.js", "/v1/models", "/status", "/api/tags", "/api/ps", "/api/version", "/readyz"):
            assert (await front.client.get(path)).status_code == 200, path
        await front.chat()
        trace = await seen.whole(SERVER, ASKED)
    assert {span.trace for span in seen.spans} == {trace.roots[0].trace}


async def test_the_wait_for_a_model_is_a_span_that_the_engines_service_hangs_its_own_below(seen):
    async with on_demand(load_s=0.1) as run:
        assert (await run.front.chat(model="small")).status_code == 200
        trace = await seen.whole(SERVER, "gateway.lease", "chat small")
        calls = run.engines.calls("POST", "/leases")
        later = await eventually(lambda: [call for call in run.engines.log if call.method in ("PUT", "DELETE")])
    wait, client = trace.one("gateway.lease"), trace.one("chat small")
    assert trace.parent(wait) is trace.parent(client) is trace.one(SERVER)
    assert wait.ended - wait.began >= 90_000_000
    assert calls[0].headers["traceparent"].startswith(f"00-{wait.trace}-{wait.id}-")
    assert client.attributes["sparkstack.attempt"] == 1
    assert not any("traceparent" in call.headers for call in later), "a lease outlives the request"


async def test_an_engine_that_is_lost_and_its_successor_are_two_spans(seen):
    async with on_demand({"first_token_timeout_s": 30}, state="ready", load_s=0.05) as run:
        await run.front.chat(model="small")
        await seen.whole(SERVER, "chat small")
        seen.spans.clear()
        await run.engines.kill("small")
        assert (await run.front.chat(model="small")).status_code == 200
        trace = await seen.whole(SERVER, "chat small")
    first, *_, last = trace.named("chat small")
    assert (first.failed, first.attributes["error.type"]) == (True, "engine_unreachable")
    assert not last.failed
    assert first.attributes["sparkstack.attempt"] < last.attributes["sparkstack.attempt"]
    assert not trace.one(SERVER).failed

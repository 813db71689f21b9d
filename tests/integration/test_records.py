"""Every request has a record, whatever becomes of it; and requests do not notice what becomes of the records."""

import asyncio
import contextlib
import json
import time

import httpx
import msgspec
import pytest
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from services.kit.on_behalf import HEADER, sign
from services.kit.records import RecordBatch
from services.tracking.app import create_app as create_tracking
from services.tracking.service import Parts
from services.tracking.settings import TrackingSettings
from tests.integration.gateways import CHAT, MODEL, chat_body, gateway
from tests.integration.on_demand import on_demand
from tests.testkit.server import eventually, free_port, running

KEY = "sk-internal-0123456789"
TRACE = "a" * 32
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}]


class Tracking:
    """A tracking service that takes records, or answers `status`, or nothing while `silent`."""

    def __init__(self):
        self.status = 202
        self.silent = False
        self.calls = 0
        self.batches = []
        self.headers = {}
        self.url = ""

    @property
    def records(self):
        return [record for batch in self.batches for record in batch.records]

    async def take(self, request):
        self.calls += 1
        self.headers = dict(request.headers)
        body = await request.body()
        while self.silent:
            await asyncio.sleep(0.01)
        if self.status == 202:
            self.batches.append(msgspec.json.decode(body, type=RecordBatch))
        return Response(status_code=self.status, headers={"retry-after": "0"})

    async def one(self, request_id):
        found = await eventually(lambda: [each for each in self.records if each.id == request_id])
        assert len(found) == 1, found
        return found[0]


@contextlib.asynccontextmanager
async def tracking(port=0):
    service = Tracking()
    app = Starlette(routes=[Route("/v1/tracking/records", service.take, methods=["POST"])])
    async with running(app, listen_at=port) as url:
        service.url = url
        try:
            yield service
        finally:
            service.silent = False


@contextlib.asynccontextmanager
async def recorded(engine, **settings):
    """Run a gateway that tells a tracking service of all its requests, with their text."""
    given = {"record_sample": 1.0, "internal_key": KEY, "record_interval_s": 0.02, **settings}
    async with (
        tracking() as service,
        gateway(engine, tracking_url=service.url, tracking_key=KEY, **given) as front,
    ):
        yield service, front


def named(name, **more):
    return {"x-request-id": name, **more}


def said(text, role="user"):
    return {"role": role, "content": text}


async def test_a_request_has_a_record_with_the_engines_own_numbers(fake_engine):
    async with recorded(fake_engine) as (service, front):
        began = time.time()
        messages = [said("be brief", "system"), said("first"), said("second", "assistant"), said("echo: third")]
        trace = f"00-{TRACE}-{'b' * 16}-01"
        headers = named("one", traceparent=trace)
        answer = (await front.chat(messages=messages, headers=headers, user="grace@example.com")).json()
        record = await service.one("one")
    assert service.headers["authorization"] == f"Bearer {KEY}"
    assert HEADER not in service.headers
    usage = answer["usage"]
    assert (record.prompt_tokens, record.completion_tokens) == (usage["prompt_tokens"], usage["completion_tokens"])
    assert (record.usage_source, record.billed, record.hops) == ("engine", True, 0)
    assert (record.key, record.user, record.trace_id) == ("loopback", "grace@example.com", TRACE)
    assert (record.model, record.operation, record.backend) == (MODEL, "chat", "engine")
    assert (record.status, record.outcome, record.error) == (200, "ok", "")
    assert record.finish_reason == answer["choices"][0]["finish_reason"]
    assert began - 1 <= record.at <= time.time()
    assert 0 < record.seconds < 10
    assert (record.prompt, record.answer) == ("echo: third", answer["choices"][0]["message"]["content"])


async def test_a_stream_has_one_with_the_time_of_its_first_token(fake_engine):
    async with recorded(fake_engine) as (service, front):
        streamed = await front.stream(headers=named("one"), stream_options={"include_usage": True})
        record = await service.one("one")
    assert streamed.done
    assert record.stream
    assert (record.prompt_tokens, record.completion_tokens) == (
        streamed.usage["prompt_tokens"],
        streamed.usage["completion_tokens"],
    )
    assert 0 < record.first_token_s <= record.seconds
    assert record.answer == streamed.text


async def test_text_is_told_of_sampled_requests_alone(fake_engine):
    async with recorded(fake_engine, record_sample=0.0) as (service, front):
        await front.chat(headers=named("one"))
        record = await service.one("one")
    assert (record.sampled, record.prompt, record.answer) == (False, None, None)


async def test_a_client_that_leaves_is_a_record_with_what_it_used(fake_engine):
    fake_engine.script(path=CHAT, tokens=2000, tokens_per_s=100)
    async with recorded(fake_engine) as (service, front):
        body = chat_body(stream=True)
        async with front.client.stream("POST", CHAT, json=body, headers=named("left")) as response:
            async for line in response.aiter_lines():
                if '"content"' in line:
                    break
        record = await service.one("left")
    assert (record.outcome, record.status) == ("cancelled", 200)
    assert record.prompt_tokens > 0
    assert 0 < record.completion_tokens < 2000
    assert record.answer


async def test_what_fails_or_is_refused_is_a_record_too(fake_engine):
    async with recorded(fake_engine) as (service, front):
        await front.chat(headers=named("busy", **{"x-fake-status": "429"}))
        await front.chat(headers=named("unknown"), model="no-such-model", user="grace")
        await front.client.post(CHAT, content=b'{"model": ', headers=named("broken"))
        await front.client.post("/api/chat", json={"model": "none", "messages": [said("x")]}, headers=named("ollama"))
        busy, unknown = await service.one("busy"), await service.one("unknown")
        broken, ollama = await service.one("broken"), await service.one("ollama")
    assert (busy.status, busy.outcome, busy.error, busy.backend) == (429, "failed", "rate_limited", "engine")
    assert (unknown.status, unknown.error, unknown.backend) == (404, "model_not_found", "")
    assert (unknown.model, unknown.user) == ("no-such-model", "grace")
    assert (broken.status, broken.error, broken.model) == (400, "invalid_request", "")
    assert (ollama.status, ollama.operation, ollama.model) == (404, "chat", "none")
    assert unknown.completion_tokens == broken.completion_tokens == 0


async def test_a_stream_that_breaks_is_a_failure_that_began_well(fake_engine):
    async with recorded(fake_engine) as (service, front):
        streamed = await front.stream(headers=named("cut", **{"x-fake-die-after": "3"}))
        record = await service.one("cut")
    assert streamed.error is not None
    assert (record.status, record.outcome, record.error) == (200, "failed", streamed.error["code"])


@pytest.mark.parametrize("stream", [False, True])
async def test_tool_calls_and_formats_are_counted(fake_engine, stream):
    async with recorded(fake_engine) as (service, front):
        forced = {"tools": TOOLS, "tool_choice": "required", "stream": stream}
        await front.client.post(CHAT, json=chat_body(**forced), headers=named("tools"))
        json_wanted = {"response_format": {"type": "json_object"}, "stream": stream}
        await front.client.post(CHAT, json=chat_body(**json_wanted), headers=named("json"))
        tools, formatted = await service.one("tools"), await service.one("json")
    assert (tools.tools_offered, tools.tool_calls, tools.format_asked) == (1, 1, True)
    assert (formatted.tools_offered, formatted.tool_calls, formatted.format_asked) == (0, 0, True)


async def test_other_operations_and_ollamas_routes_have_records(fake_engine):
    async with recorded(fake_engine) as (service, front):
        post = front.client.post
        await post("/v1/completions", json={"model": MODEL, "prompt": "go on", "user": "u"}, headers=named("text"))
        await post("/v1/embeddings", json={"model": "fake-embed", "input": ["a", "b"]}, headers=named("vectors"))
        asked = {"model": MODEL, "messages": [said("hello")], "stream": False, "format": "json"}
        await post("/api/chat", json=asked, headers=named("ollama"))
        text, vectors = await service.one("text"), await service.one("vectors")
        ollama = await service.one("ollama")
    assert (text.operation, text.prompt, text.user) == ("text_completion", "go on", "u")
    assert text.answer
    assert (vectors.operation, vectors.prompt, vectors.answer) == ("embeddings", "a\nb", "")
    assert (ollama.operation, ollama.prompt, ollama.format_asked, ollama.status) == ("chat", "hello", True, 200)


async def test_hops_are_believed_of_the_stacks_own_services_alone(fake_engine):
    async with recorded(fake_engine) as (service, front):
        own = {"authorization": f"Bearer {KEY}", HEADER: sign("ada", KEY), "x-sparkstack-hops": "1"}
        await front.chat(headers=named("inner", **own))
        await front.chat(headers=named("pretender", **{"x-sparkstack-hops": "1"}))
        inner, pretender = await service.one("inner"), await service.one("pretender")
    assert (inner.hops, inner.key) == (1, "ada")
    assert (pretender.hops, pretender.key) == (0, "loopback")


async def test_a_request_that_was_held_says_how_long(fake_engine):
    async with tracking() as service:
        settings = {"tracking_url": service.url, "record_interval_s": 0.02}
        async with on_demand(settings, load_s=0.1) as run:
            await run.front.chat(model="small", headers=named("held"))
            await run.front.chat(model="small", headers=named("at-once"))
            held, at_once = await service.one("held"), await service.one("at-once")
    assert 0.08 < held.held_s <= held.seconds
    assert at_once.held_s < 0.05
    assert (held.backend, held.engine) == ("engines", "llamacpp")


async def test_the_tracking_service_keeps_what_it_is_told(fake_engine, tmp_path):
    wanted = TrackingSettings(state=tmp_path, api_key=KEY)
    app = await asyncio.to_thread(create_tracking, wanted, Parts(counters=list))
    async with (
        running(app) as url,
        gateway(fake_engine, tracking_url=url, tracking_key=KEY, record_interval_s=0.02, record_sample=1.0) as front,
        httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {KEY}"}, trust_env=False) as reader,
    ):
        usage = (await front.chat(headers=named("one"), user="grace")).json()["usage"]
        await front.chat(headers=named("two", **{"x-fake-status": "500"}))
        store = app.state.service.store
        await eventually(lambda: store.counts.stored == 2)
        costs = (await reader.get("/v1/tracking/costs")).json()["total"]
        one = (await reader.get("/v1/tracking/requests/one")).json()
    assert (costs["requests"], costs["prompt_tokens"], costs["completion_tokens"]) == (
        2,
        usage["prompt_tokens"],
        usage["completion_tokens"],
    )
    assert [each["model"] for each in one["requests"]] == [MODEL]
    assert "Tell me something." not in json.dumps(one), "texts are kept where that is switched on"


# --- what becomes of the records --------------------------------------------------------------------------------


async def answers_quickly(front, number=20):
    began = time.monotonic()
    for count in range(number):
        assert (await front.chat(headers=named(f"r{count}"))).status_code == 200
    assert time.monotonic() - began < 5


async def test_a_tracking_service_that_is_away_gets_all_of_it_later(fake_engine):
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    async with gateway(fake_engine, tracking_url=url, tracking_key=KEY, record_interval_s=0.02) as front:
        await answers_quickly(front)
        metrics = await front.metrics()
        assert metrics.value("gateway_records_waiting") == 20
        async with tracking(port) as service:
            await eventually(lambda: len(service.records) == 20, timeout_s=10)
            assert {record.id for record in service.records} == {f"r{count}" for count in range(20)}
            metrics = await front.metrics()
    assert (metrics.value("gateway_records_sent_total"), metrics.value("gateway_records_waiting")) == (20, 0)
    assert metrics.value("gateway_records_dropped_total") == 0


@pytest.mark.parametrize("status", [429, 500, 503, 401])
async def test_a_tracking_service_that_refuses_is_asked_again(fake_engine, status):
    async with recorded(fake_engine) as (service, front):
        service.status = status
        await answers_quickly(front, 5)
        await eventually(lambda: service.calls)
        service.status = 202
        await eventually(lambda: len(service.records) == 5, timeout_s=10)


async def test_a_slow_tracking_service_holds_up_nobody(fake_engine):
    async with recorded(fake_engine) as (service, front):
        service.silent = True
        await answers_quickly(front, 5)
        await eventually(lambda: service.calls)
        await answers_quickly(front)
        assert (service.calls, service.records) == (1, [])
        service.silent = False
        await eventually(lambda: len(service.records) == 25, timeout_s=10)


async def test_what_does_not_fit_is_dropped_and_told(fake_engine):
    async with recorded(fake_engine, record_queue=5) as (service, front):
        service.status = 503
        await answers_quickly(front, 12)
        metrics = await front.metrics()
        assert metrics.value("gateway_records_dropped_total") == 7
        assert metrics.value("gateway_records_waiting") == 5
        service.status = 202
        await eventually(lambda: len(service.records) == 5, timeout_s=10)
        assert [batch.dropped for batch in service.batches] == [7]


async def test_the_end_of_the_gateway_sends_what_waits(fake_engine):
    async with tracking() as service:
        async with gateway(fake_engine, tracking_url=service.url) as front:
            await answers_quickly(front, 3)
        assert len(service.records) == 3


async def test_the_end_of_the_gateway_does_not_wait_for_a_tracking_service_that_is_away(fake_engine, logs):
    async with gateway(fake_engine, tracking_url=f"http://127.0.0.1:{free_port()}") as front:
        await answers_quickly(front, 3)
        began = time.monotonic()
    assert time.monotonic() - began < 4
    assert [line["records"] for line in logs if line["event"] == "records.lost"] == [3]


async def test_without_a_tracking_service_there_are_no_records(fake_engine):
    async with gateway(fake_engine) as front:
        await front.chat()
        metrics = await front.metrics()
    assert front.door.records is None
    assert metrics.value("gateway_records_waiting") == 0

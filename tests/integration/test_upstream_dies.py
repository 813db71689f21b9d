"""An engine that dies is told of: nothing is lost silently, nothing is spliced, and no try is made in vain."""

import asyncio
import json

import pytest

from tests.integration.gateways import CHAT, Gateway, Streamed, gateway
from tests.integration.raw_engine import EVENT_STREAM, raw_engine, say
from tests.testkit.engine import FakeEngine
from tests.testkit.server import fake_engine

DEATHS = pytest.mark.parametrize("die_with", ["rst", "fin"])
WAYS = pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
FIRST = b'data: {"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": null}]}\n\n'
LAST = b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\n'


def tries(engine: FakeEngine) -> int:
    return len(engine.requests(CHAT))


def assert_ends_with_error(streamed: Streamed, code: str) -> None:
    """The head was sent, so the failure is the last event, whole, and nothing claims that the answer is done."""
    assert streamed.response.status_code == 200
    assert streamed.whole
    assert streamed.error is not None, streamed.body
    assert streamed.error["code"] == code
    assert streamed.error.keys() == {"message", "type", "param", "code"}
    assert "[DONE]" not in streamed.data
    assert all(event.endswith(b"\n\n") for event in streamed.events)


async def assert_failed_once(front: Gateway) -> None:
    assert (await front.totals())["failed"] == 1
    metrics = await front.metrics()
    assert metrics.value("gateway_exchanges_total", outcome="failed") == 1


@WAYS
@DEATHS
async def test_before_the_head_the_request_is_tried_once_more_and_then_refused(fake_engine, stream, die_with):
    async with gateway(fake_engine) as front:
        response = await front.chat(stream=stream, headers={"x-fake-die-head": "1", "x-fake-die-with": die_with})
        await assert_failed_once(front)
    assert response.status_code == 502
    assert response.json()["error"]["code"] == "engine_unreachable"
    assert response.json()["error"]["type"] == "upstream_error"
    assert "engine at http://127.0.0.1:" in response.json()["error"]["message"]
    assert tries(fake_engine) == 2


@WAYS
@DEATHS
async def test_before_the_head_the_second_try_is_enough_where_it_works(fake_engine, stream, die_with):
    fake_engine.script(path=CHAT, times=1, die_head=True, die_with=die_with)
    async with gateway(fake_engine) as front:
        response = await front.chat(stream=stream)
        totals = await front.totals()
    assert response.status_code == 200
    assert tries(fake_engine) == 2
    assert totals["requests"] == 1
    assert totals["failed"] == 0


@DEATHS
async def test_after_the_head_but_before_the_first_event_the_stream_ends_with_an_error(fake_engine, die_with):
    async with gateway(fake_engine) as front:
        streamed = await front.stream(headers={"x-fake-die-after": "0", "x-fake-die-with": die_with})
        await assert_failed_once(front)
    assert_ends_with_error(streamed, "engine_unreachable")
    assert tries(fake_engine) == 1, "after the head nothing is tried again"


@DEATHS
async def test_after_some_tokens_what_came_before_is_delivered_and_an_error_ends_the_stream(fake_engine, die_with):
    async with gateway(fake_engine) as front:
        whole = await front.stream()
        streamed = await front.stream(headers={"x-fake-die-after": "5", "x-fake-die-with": die_with})
        await assert_failed_once(front)
        metrics = await front.metrics()
    assert_ends_with_error(streamed, "engine_unreachable")
    words = [data["choices"][0]["delta"]["content"] for data in streamed.data[1:-1]]
    assert len(words) == 5
    assert whole.text.startswith("".join(words))
    assert tries(fake_engine) == 2
    assert metrics.value("gen_ai_client_token_usage_sum", gen_ai_token_type="output") == 24 + 5


@DEATHS
async def test_in_the_middle_of_a_plain_answer_the_client_gets_a_status(fake_engine, die_with):
    async with gateway(fake_engine) as front:
        response = await front.chat(headers={"x-fake-die-after": "1", "x-fake-die-with": die_with})
        await assert_failed_once(front)
    assert response.status_code == 502
    assert response.json()["error"]["code"] == "engine_unreachable"
    assert tries(fake_engine) == 1


async def test_right_after_the_head_of_a_plain_answer_too(fake_engine):
    async with gateway(fake_engine) as front:
        response = await front.chat(headers={"x-fake-die-after": "0"})
    assert (response.status_code, response.json()["error"]["code"]) == (502, "engine_unreachable")
    assert tries(fake_engine) == 1


async def test_half_an_event_is_never_sent_on(fake_engine):
    async with gateway(fake_engine) as front:
        streamed = await front.stream(headers={"x-fake-truncate": "3"})
        await assert_failed_once(front)
    assert_ends_with_error(streamed, "engine_invalid_response")
    assert "middle of an event" in streamed.error["message"]
    assert len(streamed.data) == 1 + 3 + 1, "role, three tokens, error"


async def test_a_stream_that_just_ends_was_not_finished():
    """Neither `[DONE]` nor a finish reason: the engine was killed by something that closes sockets politely."""
    async with raw_engine(say(EVENT_STREAM, FIRST)) as engine, gateway(backends={"raw": engine.url}) as front:
        streamed = await front.stream()
    assert_ends_with_error(streamed, "engine_invalid_response")
    assert "before the answer was finished" in streamed.error["message"]
    assert streamed.text == "Hi"


async def test_a_finished_stream_is_good_without_done(fake_engine):
    """Some engines never send `[DONE]`; clients of the gateway get it."""
    async with gateway(fake_engine) as front:
        streamed = await front.stream(headers={"x-fake-no-done": "1"})
        totals = await front.totals()
    assert streamed.done
    assert streamed.error is None
    assert totals["failed"] == 0
    assert totals["completion_tokens"] == 24


async def test_an_engine_that_holds_the_connection_open_after_done_does_not_hold_the_client():
    how = say(EVENT_STREAM, FIRST + LAST + b"data: [DONE]\n\n", then_stall=True)
    async with raw_engine(how) as engine, gateway(backends={"raw": engine.url}) as front:
        streamed = await front.stream()
        assert streamed.done
        assert streamed.text == "Hi"
    assert engine.open_posts == 0


@pytest.mark.parametrize("drop", ["1", "next"])
async def test_a_kept_alive_socket_that_the_engine_drops_never_shows(fake_engine, drop):
    """llama.cpp does this after some streams: the very next request meets a dead socket."""
    async with gateway(fake_engine) as front:
        for number in range(50):
            headers = {"x-fake-drop-keepalive": drop}
            if number % 2:
                assert (await front.stream(headers=headers, max_tokens=2)).done
            else:
                assert (await front.chat(headers=headers, max_tokens=2)).status_code == 200
        totals = await front.totals()
    assert totals["requests"] == 50
    assert totals["failed"] == 0
    assert totals["completion_tokens"] == 100


async def test_an_engine_that_is_killed_under_load_answers_every_client():
    """Each of twenty streams ends whole: a part of the answer and an error."""
    async with fake_engine(tokens_per_s=20, answer_tokens=1000) as engine, gateway(engine) as front:
        streams = [asyncio.create_task(front.stream()) for _ in range(20)]
        while min((exchange.deltas for exchange in front.door.live), default=0) < 2 or len(front.door.live) < 20:
            await asyncio.sleep(0.005)
        await engine.stop()
        for streamed in await asyncio.gather(*streams):
            assert_ends_with_error(streamed, "engine_unreachable")
            assert len(streamed.text.split()) >= 2
        totals = await front.totals()
        assert not len(front.door.live)
    assert totals["requests"] == totals["failed"] == 20
    assert totals["completion_tokens"] >= 20 * 2


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
@pytest.mark.parametrize("fault", [{"die_after": 3}, {"error_event": 3}, {"truncate": 3}, {"garbage": "json"}])
async def test_in_ollamas_form_the_error_is_the_last_line(fake_engine, path, fault):
    """Every line is JSON, what came before is delivered, and none says `done`."""
    fake_engine.script(path=CHAT, **fault)
    async with gateway(fake_engine) as front:
        body = {"model": "fake-chat", "messages": [{"role": "user", "content": "Hello"}], "prompt": "Hello"}
        response = await front.client.post(path, json=body)
        await assert_failed_once(front)
    *lines, last = [json.loads(line) for line in response.content.splitlines()]
    assert response.status_code == 200
    assert 1 <= len(lines) <= 3
    assert not any(line["done"] for line in lines)
    assert last.keys() == {"error"}

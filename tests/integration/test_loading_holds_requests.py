"""A request for a model that is not loaded is held until it is, and its client knows why it waits."""

import asyncio
import time

import pytest

from tests.integration.gateways import CHAT, chat_body, gateway
from tests.integration.on_demand import on_demand
from tests.integration.raw_client import asked
from tests.testkit.fake_engines_service import fake_engines
from tests.testkit.server import eventually

pytestmark = pytest.mark.slow  # leases that lapse, loads that are waited for

TAKEN_BACK_WITHIN_S = 0.1
SLACK_S = 3.0


# --- streams ----------------------------------------------------------------------------------------------------


async def test_a_stream_is_held_and_told_of_its_place_and_the_time_left():
    async with on_demand({"keep_alive_s": 0.1}, load_s=0.8, position=1) as run:
        front = run.front
        streamed = await front.stream(model="small")
    comments = [event for event in streamed.events if event.startswith(b": loading small, position 1, about ")]
    assert streamed.response.status_code == 200
    assert streamed.response.headers["x-sparkstack-queue-position"] == "1"
    assert float(streamed.response.headers["x-sparkstack-eta-s"]) <= 0.8
    assert len(comments) >= 3
    assert streamed.events[: len(comments)] == comments
    assert streamed.done
    assert streamed.text


async def test_news_are_told_at_once():
    """The comments of one place are far apart, but a new place is told when it comes."""
    async with on_demand(load_s=60, position=2) as run:
        engines, front, model = run.engines, run.front, run.model
        task = asyncio.create_task(front.stream(model="small"))
        await run.held()
        await asyncio.sleep(0.3)  # the first comment comes after a moment of quiet
        model.position = 1
        engines.changed()
        await asyncio.sleep(0.05)
        await engines._load(model)
        streamed = await task
    places = [event.split(b",")[1] for event in streamed.events if event.startswith(b": ")]
    assert places == [b" position 2", b" position 1"]
    assert streamed.done


async def test_a_short_load_needs_no_word():
    """The engine's own head is the answer's head."""
    async with on_demand(load_s=0.02) as run:
        front = run.front
        streamed = await front.stream(model="small")
    assert streamed.done
    assert not [event for event in streamed.events if event.startswith(b":")]
    assert "x-sparkstack-eta-s" not in streamed.response.headers


async def test_a_load_that_fails_in_the_end_is_the_streams_last_event():
    async with on_demand(load_s=0.4, failure="small: its engine ended with status 1: no such file") as run:
        front = run.front
        streamed = await front.stream(model="small")
        totals = await front.totals()
    assert streamed.response.status_code == 200
    assert streamed.error is not None
    assert streamed.error["code"] == "model_failed"
    assert "no such file" in streamed.error["message"]
    assert not streamed.done
    assert (totals["failed"], totals["prompt_tokens"], totals["completion_tokens"]) == (1, 0, 0)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        ((503, "insufficient_memory", "big needs 80 GiB; 24 GiB are there"), "overloaded_error"),
        ((404, "model_not_found", "there is no model big"), "not_found_error"),
    ],
)
async def test_a_refusal_that_comes_at_once_has_its_status(stream, refusal, kind):
    async with on_demand() as run:
        front, model = run.front, run.model
        model.refusal = refusal
        began = time.monotonic()
        response = await front.chat(model="small", stream=stream)
        assert time.monotonic() - began < 1
        totals = await front.totals()
        metrics = await front.metrics()
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["message"]) == refusal
    assert error["type"] == kind
    assert totals["completion_tokens"] == totals["prompt_tokens"] == 0, "no engine has seen it"
    assert metrics.value("gateway_lease_events_total", event="refused") == 1


async def test_many_first_requests_are_one_demand():
    async with on_demand(load_s=0.3) as run:
        front, model = run.front, run.model
        answers = await asyncio.gather(*(front.chat(model="small") for _ in range(20)))
        metrics = await front.metrics()
    assert {answer.status_code for answer in answers} == {200}
    assert len(run.demands()) == 1
    assert model.loads == 1
    assert len(model.engine.requests(CHAT)) == 20
    assert metrics.value("gateway_load_wait_seconds_count", outcome="granted") == 20
    assert metrics.value("gateway_load_wait_seconds_sum") >= 20 * 0.25
    assert metrics.value("gateway_held_requests") == 0


async def test_what_is_held_is_seen_while_it_is():
    async with on_demand(load_s=60, eta_s=1.0) as run:
        engines, front, model = run.engines, run.front, run.model
        await front.door.engines().look_again(at_once=True)
        task = asyncio.create_task(front.chat(model="small"))
        await run.held()
        await eventually(lambda: front.door.engines()["small"].state == "loading")
        status = await front.status()
        text = (await front.client.get("/metrics")).text
        await engines._load(model)
        assert (await task).status_code == 200
    (live,) = status["live"]
    (shown,) = status["models"]
    assert live["phase"] == "held"
    assert (shown["state"], shown["requests_in_flight"]) == ("loading", 1)
    assert shown["eta_s"] > 0
    assert "gateway_held_requests 1.0" in text


async def test_the_time_it_was_held_is_in_the_log_and_in_the_time_to_first_token(logs):
    async with on_demand(load_s=0.3) as run:
        front = run.front
        await front.stream(model="small")
        metrics = await front.metrics()
    (line,) = [entry for entry in logs if entry.get("route") == CHAT]
    assert 300 <= line["held_ms"] <= line["ttft_ms"]
    assert (line["backend"], line["engine"], line["outcome"]) == ("engines", "llamacpp", "ok")
    assert metrics.value("gen_ai_server_time_to_first_token_seconds_sum") >= 0.3


async def test_the_bound_for_the_first_token_begins_with_the_engine():
    """Else a model that takes minutes to load could never be used."""
    async with on_demand({"first_token_timeout_s": 0.3}, load_s=0.7) as run:
        front = run.front
        streamed = await front.stream(model="small")
    assert streamed.error is None
    assert streamed.done


# --- plain requests ---------------------------------------------------------------------------------------------


async def test_a_plain_request_is_held_too():
    async with on_demand(load_s=0.3) as run:
        front = run.front
        response = await front.chat(model="small")
    assert response.status_code == 200
    assert response.json()["choices"][0]["message"]["content"]


async def test_it_is_sent_away_after_its_bound_and_succeeds_when_it_comes_back_as_told():
    async with on_demand({"load_wait_s": 0.2}, load_s=1.0, eta_s=None, position=1) as run:
        front, model = run.front, run.model
        model.eta_s = 0.15  # an estimate that is too short: it is waited for, in vain
        first = await front.chat(model="small")
        model.eta_s = None
        assert (first.status_code, first.json()["error"]["code"]) == (503, "model_loading")
        assert model.remembered == 1, "the demand outlives the request"
        assert model.state == "loading"
        await asyncio.sleep(float(first.headers["retry-after"]))
        second = await front.chat(model="small")
        metrics = await front.metrics()
    assert second.status_code == 200
    assert first.headers["x-sparkstack-queue-position"] == "1"
    assert metrics.value("gateway_load_wait_seconds_count", outcome="sent away") == 1


async def test_it_is_sent_away_at_once_where_the_load_is_known_to_take_longer():
    async with on_demand({"load_wait_s": 30}, load_s=200, position=3) as run:
        front = run.front
        began = time.monotonic()
        answers = await asyncio.gather(*(front.chat(model="small") for _ in range(5)))
        assert time.monotonic() - began < SLACK_S
    assert {answer.status_code for answer in answers} == {503}
    assert 200 <= int(answers[0].headers["retry-after"]) <= 300
    assert float(answers[0].headers["x-sparkstack-eta-s"]) > 190
    assert sum(1 for body in run.demands() if body["wait"]) == 1
    assert sum(1 for body in run.demands() if not body["wait"]) <= 2, "one word for all of them"


async def test_who_does_not_want_to_wait_is_served_all_the_same_where_the_model_is_there():
    async with on_demand({"load_wait_s": 0}, state="ready") as run:
        front = run.front
        assert (await front.chat(model="small")).status_code == 200


# --- clients that leave -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
async def test_a_client_that_leaves_takes_its_demand_back(stream):
    async with on_demand(load_s=60, eta_s=1.0) as run:
        front, model = run.front, run.model
        async with asked(front.url, CHAT, chat_body(model="small", stream=stream)) as client:
            await eventually(lambda: model.waiters == 1)
            left_at_s = client.leave()
            await eventually(lambda: model.waiters == 0)
            assert time.monotonic() - left_at_s < TAKEN_BACK_WITHIN_S
        totals = await front.totals()
        metrics = await front.metrics()
    assert (totals["cancelled"], totals["prompt_tokens"]) == (1, 0)
    assert metrics.value("gateway_load_wait_seconds_count", outcome="left") == 1
    assert metrics.value("gateway_usage_source_total") == 0


async def test_it_does_not_take_those_of_others_back():
    async with on_demand(load_s=60) as run:
        engines, front, model = run.engines, run.front, run.model
        staying = asyncio.create_task(front.stream(model="small"))
        await run.held()
        async with asked(front.url, CHAT, chat_body(model="small", stream=True)) as client:
            await run.held(2)
            client.leave()
        await run.held(1)
        assert model.waiters == 1
        await engines._load(model)
        assert (await staying).done
    assert len(run.demands()) == 1


async def test_a_client_that_leaves_after_the_comments_have_begun():
    async with on_demand({"keep_alive_s": 0.05}, load_s=60) as run:
        front, model = run.front, run.model
        async with asked(front.url, CHAT, chat_body(model="small", stream=True)) as client:
            assert await client.read_head() == 200
            assert (await client.read_piece()).data.startswith(b": loading small")
            left_at_s = client.leave()
            await eventually(lambda: model.waiters == 0)
            assert time.monotonic() - left_at_s < TAKEN_BACK_WITHIN_S
        assert (await front.totals())["cancelled"] == 1


# --- Ollama's streams -------------------------------------------------------------------------------------------


async def test_a_stream_of_lines_waits_without_a_word():
    body = {"model": "small", "messages": [{"role": "user", "content": "hello"}]}
    async with on_demand({"keep_alive_s": 0.05}, load_s=0.6) as run:
        front = run.front
        response = await front.client.post("/api/chat", json=body)
    lines = response.content.splitlines()
    assert response.status_code == 200
    assert all(line.startswith(b'{"model"') for line in lines)
    assert b'"done":true' in lines[-1]


async def test_its_refusal_has_its_status_however_late_it_comes():
    body = {"model": "small", "messages": [{"role": "user", "content": "hello"}]}
    async with on_demand(load_s=0.4, failure="it does not start") as run:
        front = run.front
        response = await front.client.post("/api/chat", json=body)
    assert (response.status_code, response.json()) == (503, {"error": "it does not start"})


# --- the engines service itself ---------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
async def test_without_the_engines_service_a_model_that_is_not_loaded_is_a_502_that_says_so(stream):
    async with on_demand() as run:
        engines, front = run.engines, run.front
        await front.door.engines().look_again(at_once=True)
        await engines.stop()
        response = await front.chat(model="small", stream=stream)
    assert (response.status_code, response.json()["error"]["code"]) == (502, "engine_unreachable")
    assert engines.url in response.json()["error"]["message"]


async def test_a_service_that_is_started_again_in_the_middle_of_a_load_is_asked_again():
    async with on_demand(load_s=60) as run:
        engines, front, model = run.engines, run.front, run.model
        task = asyncio.create_task(front.stream(model="small"))
        await run.held()
        await asyncio.sleep(0.3)
        await engines.stop()
        await engines.start()
        await eventually(lambda: model.waiters == 1)
        await engines._load(model)
        streamed = await task
    assert streamed.done
    assert len(run.demands()) >= 2


async def test_one_that_stays_away_ends_the_stream_with_an_error():
    async with on_demand(load_s=60) as run:
        engines, front = run.engines, run.front
        task = asyncio.create_task(front.stream(model="small"))
        await run.held()
        await asyncio.sleep(0.3)
        await engines.stop()
        streamed = await task
    assert streamed.error is not None
    assert streamed.error["code"] == "engine_unreachable"


async def test_a_key_that_the_engines_service_does_not_take_is_no_fault_of_the_clients():
    async with fake_engines() as engines:
        await engines.add("small")
        async with gateway(engines_url=engines.url, engines_key="wrong") as front:
            ready = await front.client.get("/readyz")
            response = await front.chat(model="small")
    assert ready.status_code == 503
    assert "GATEWAY_ENGINES_KEY" in ready.json()["checks"]["engines"]
    assert response.status_code == 502

"""The gateway works before, without and after its backends, and says at each moment what is missing."""

import asyncio
import socket
import time

import pytest

from tests.integration.gateways import CHAT, Gateway, gateway
from tests.integration.raw_engine import raw_engine, say_nothing
from tests.testkit.engine import FakeEngine
from tests.testkit.server import eventually, free_port
from tests.testkit.settings import FakeEngineSettings

pytestmark = pytest.mark.slow

LISTING_TIMEOUT_S = 5.0
AT_ONCE_S = 0.5
"""Of a busy machine; `/v1/models` itself takes a few milliseconds, and a listing's bound is ten times as long."""


def a_dead_engine() -> FakeEngine:
    """Return an engine on a port of its own that is not started."""
    engine = FakeEngine(FakeEngineSettings(port=free_port()))
    engine.url = f"http://127.0.0.1:{engine.settings.port}"
    return engine


async def states(front: Gateway) -> dict[str, str]:
    listed = (await front.client.get("/v1/models")).json()["data"]
    return {model["id"]: model["sparkstack"]["state"] for model in listed}


async def test_it_starts_at_once_and_says_what_is_missing():
    engine = a_dead_engine()
    began = time.monotonic()
    async with gateway(engine) as front:
        assert time.monotonic() - began < 1
        alive = await front.client.get("/livez")
        ready = await front.client.get("/readyz")
        models = await front.client.get("/v1/models")
        status = await front.status()
        metrics = await front.metrics()
    assert alive.json()["status"] == "ok"
    assert ready.status_code == 503
    assert ready.headers["retry-after"] == "1"
    assert ready.json()["status"] == "waiting"
    assert f"{engine.url} can't be reached: connection refused" in ready.json()["checks"]["engine"]
    assert "engine" in ready.json()["error"]["message"]
    assert models.json() == {"object": "list", "data": []}
    assert status["ready"] is False
    assert status["backends"][0]["state"] == "unreachable"
    assert metrics.value("gateway_backend_up", backend="engine") == 0


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
async def test_requests_are_a_502_that_names_the_backend(stream):
    """Not a 404: nobody can say that the model is wrong."""
    async with gateway(a_dead_engine()) as front:
        response = await front.chat(stream=stream)
    assert (response.status_code, response.json()["error"]["code"]) == (502, "engine_unreachable")
    assert "engine: http://127.0.0.1:" in response.json()["error"]["message"]
    assert "sparkstack status" in response.json()["error"]["message"]


async def test_without_any_backend_it_says_how_to_name_one():
    async with gateway() as front:
        ready = await front.client.get("/readyz")
        response = await front.chat()
    assert ready.status_code == 503
    assert "--backend NAME=URL" in ready.json()["checks"]["backends"]
    assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")


async def test_a_backend_that_comes_up_is_found_and_served():
    engine = a_dead_engine()
    async with gateway(engine, discovery_interval_s=0.05) as front:
        assert await states(front) == {}
        await engine.start()
        try:
            await eventually(lambda: front.door.backends["engine"].state == "ready")
            assert await states(front) == {"fake-chat": "ready", "fake-embed": "ready"}
            assert (await front.client.get("/readyz")).status_code == 200
            assert (await front.stream()).done
        finally:
            await engine.stop()


async def test_a_request_for_a_model_that_has_just_come_looks_again_itself():
    """It does not have to wait for the next round of discovery."""
    engine = a_dead_engine()
    async with gateway(engine, discovery_interval_s=60) as front:
        front.door.backends["engine"].asked_at -= 10
        await engine.start()
        try:
            assert (await front.chat()).status_code == 200
        finally:
            await engine.stop()


async def test_a_backend_that_goes_down_keeps_its_models_listed_and_comes_back(fake_engine):
    async with gateway(fake_engine, discovery_interval_s=0.05) as front:
        assert (await front.chat()).status_code == 200
        await fake_engine.stop()
        await eventually(lambda: front.door.backends["engine"].state == "unreachable")
        assert await states(front) == {"fake-chat": "unreachable", "fake-embed": "unreachable"}
        assert (await front.client.get("/readyz")).status_code == 503
        response = await front.chat()
        assert (response.status_code, response.json()["error"]["code"]) == (502, "engine_unreachable")
        await fake_engine.start()
        await eventually(lambda: front.door.backends["engine"].state == "ready")
        assert (await front.chat()).status_code == 200


async def test_a_request_that_finds_the_backend_dead_makes_discovery_look_at_once(fake_engine):
    async with gateway(fake_engine, discovery_interval_s=60) as front:
        await fake_engine.stop()
        assert (await front.chat()).status_code == 502
        await eventually(lambda: front.door.backends["engine"].state == "unreachable")
        assert (await front.client.get("/readyz")).status_code == 503


async def test_a_backend_that_takes_no_connection_has_a_bound():
    """Its queue of connections is full, as of a process that is stopped."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            url = f"http://127.0.0.1:{port}"
            async with gateway(backends={"full": url}, connect_timeout_s=0.2, discovery_interval_s=0.1) as front:
                began = time.monotonic()
                assert await states(front) == {}
                assert time.monotonic() - began < AT_ONCE_S
                assert (await front.chat()).status_code == 502


async def test_a_stalled_listing_slows_nothing(fake_engine):
    """One backend accepts and never answers; the other's models, and its answers, come as ever."""
    async with raw_engine(say_nothing, list_models=False) as stalled:
        began = time.monotonic()
        async with gateway(fake_engine, backends={"stalled": stalled.url}, discovery_interval_s=0.05) as front:
            assert time.monotonic() - began < LISTING_TIMEOUT_S / 2, "the start waits for a second at most"
            for _ in range(20):
                began = time.monotonic()
                assert await states(front) == {"fake-chat": "ready", "fake-embed": "ready"}
                assert time.monotonic() - began < AT_ONCE_S
            began = time.monotonic()
            assert (await front.stream()).done
            assert (await front.client.get("/readyz")).status_code == 200
            assert (await front.client.get("/status")).status_code == 200
            assert time.monotonic() - began < 2 * AT_ONCE_S
            assert front.door.backends["stalled"].state == "unknown"


async def test_an_unknown_model_waits_a_second_at_most_for_a_stalled_listing(fake_engine):
    async with (
        raw_engine(say_nothing, list_models=False) as stalled,
        gateway(fake_engine, backends={"stalled": stalled.url}) as front,
    ):
        began = time.monotonic()
        response = await front.chat(model="nobody")
        assert time.monotonic() - began < LISTING_TIMEOUT_S / 2
    assert response.status_code == 404


async def test_the_list_is_at_once_there_while_an_engine_is_stalled_and_under_load(fake_engine):
    """Promised: under 5 ms at the 99th percentile; here with much slack, and with fifty requests that hang."""
    fake_engine.script(path=CHAT, stall_head=True)
    async with gateway(fake_engine, first_token_timeout_s=60) as front:
        hanging = [asyncio.create_task(front.chat(stream=True)) for _ in range(50)]
        await eventually(lambda: fake_engine.state().open_streams == 50)
        seconds = []
        for _ in range(50):
            began = time.monotonic()
            await front.client.get("/v1/models")
            seconds.append(time.monotonic() - began)
        for task in hanging:
            task.cancel()
        await asyncio.gather(*hanging, return_exceptions=True)
        await eventually(lambda: fake_engine.state().open_streams == 0)
    assert sorted(seconds)[25] < 0.05

"""One lease a model while anything is in flight: renewed, ended, asked for anew, and never in the way of a request."""

import asyncio
import time

import pytest

from services.gateway.demands import LeaseTimes
from tests.integration.children import gateway_process
from tests.integration.gateways import CHAT, chat_body
from tests.integration.on_demand import OnDemand, on_demand
from tests.integration.raw_client import asked
from tests.testkit.fake_engines_service import fake_engines
from tests.testkit.server import eventually

pytestmark = pytest.mark.slow  # leases that lapse, loads that are waited for

SLOW = {"tokens_per_s": 20, "answer_tokens": 5000}


async def begun(run: OnDemand, streams: int = 1) -> None:
    """Wait until so many streams have come to the engine."""
    await eventually(lambda: run.model.engine.state().open_streams == streams)


async def released(run: OnDemand) -> None:
    await eventually(lambda: not run.engines.leases)


# --- the usual course -------------------------------------------------------------------------------------------


async def test_requests_one_after_another_need_one_lease_which_ends_after_the_last():
    async with on_demand(state="ready") as run:
        for _ in range(10):
            assert (await run.front.chat(model="small")).status_code == 200
        assert len(run.engines.leases) == 1
        await released(run)
        metrics = await run.front.metrics()
    assert len(run.demands()) == 1
    assert len(run.engines.calls("DELETE", "/leases/")) == 1
    assert metrics.value("gateway_lease_events_total", event="granted") == 1
    assert metrics.value("gateway_lease_events_total", event="released") == 1
    assert metrics.value("gateway_leases") == 0


async def test_a_lease_is_renewed_with_what_is_in_flight_and_lives_as_long_as_that():
    async with on_demand(state="ready", engine=SLOW) as run:
        streams = [asyncio.create_task(run.front.stream(model="small")) for _ in range(3)]
        await begun(run, 3)
        await eventually(lambda: len(run.engines.calls("PUT")) >= 3)
        metrics = (await run.front.client.get("/metrics")).text
        (lease,) = run.engines.leases.values()
        assert lease.in_flight == 3
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)
        await released(run)
    assert "gateway_leases 1.0" in metrics
    assert {call.body["in_flight"] for call in run.engines.calls("PUT")} <= {0, 3}
    assert len(run.demands()) == 1


async def test_a_request_on_a_live_lease_asks_nobody():
    """The hot path is a counter: nothing but renewals comes to the engines service."""
    async with on_demand({"times": LeaseTimes(renew_s=60)}, state="ready") as run:
        await run.front.chat(model="small")
        before = len([call for call in run.engines.log if call.path != "/models"])
        await asyncio.gather(*(run.front.chat(model="small") for _ in range(50)))
        after = len([call for call in run.engines.log if call.path != "/models"])
    assert after == before


async def test_the_engine_gets_the_leases_key_and_its_own_name_for_the_model():
    async with on_demand(state="ready", aliases=("s",)) as run:
        for name in ("small", "s", "default", "engines/small"):
            assert (await run.front.chat(model=name)).status_code == 200
        (request, *_) = run.model.engine.requests(CHAT)
    assert request["headers"]["authorization"] == f"Bearer {run.model.key}"
    assert {each["body"]["model"] for each in run.model.engine.requests(CHAT)} == {"small"}


async def test_the_end_of_the_gateway_ends_its_leases():
    async with on_demand({"times": LeaseTimes(idle_s=60)}, state="ready") as run:
        await run.front.chat(model="small")
        assert run.engines.leases
        engines = run.engines
    assert not engines.leases
    assert len(engines.calls("DELETE", "/leases/")) == 1


async def test_sigterm_ends_them_too():
    async with fake_engines() as engines:
        await engines.add("small", state="ready", engine={"tokens_per_s": 50, "answer_tokens": 20})
        env = {"GATEWAY_ENGINES_URL": engines.url, "GATEWAY_ENGINES_KEY": engines.key}
        async with gateway_process(env=env) as front:
            async with asked(front.url, CHAT, chat_body(model="small", stream=True)) as client:
                await client.read_head()
                front.terminate()
                pieces = await client.read_pieces()
            await front.child.wait()
        assert pieces[-1].data.endswith(b"data: [DONE]\n\n"), "and what was in flight was finished before"
        assert not engines.leases


# --- drained ----------------------------------------------------------------------------------------------------


async def test_a_lease_that_drains_ends_with_its_last_request_and_new_ones_wait_their_turn():
    async with on_demand(state="ready", engine={"tokens_per_s": 40, "answer_tokens": 40}) as run:
        old = asyncio.create_task(run.front.stream(model="small"))
        await begun(run)
        run.engines.drain("small")
        (first,) = run.engines.leases.values()
        await eventually(lambda: not run.front.door.leases._current)
        new = asyncio.create_task(run.front.chat(model="small"))
        await run.held()
        assert first.id in run.engines.leases, "it lives while something is in flight on it"
        assert (await old).done
        assert (await new).status_code == 200
        assert first.id not in run.engines.leases
        await released(run)
        metrics = await run.front.metrics()
    assert len(run.demands()) == 2
    assert metrics.value("gateway_lease_events_total", event="draining") == 1
    assert metrics.value("gateway_exchanges_total", outcome="ok") == 2


# --- lapsed -----------------------------------------------------------------------------------------------------


async def test_a_lease_that_has_lapsed_is_asked_for_anew_and_the_stream_goes_on():
    async with on_demand(state="ready", engine={"tokens_per_s": 40, "answer_tokens": 40}) as run:
        stream = asyncio.create_task(run.front.stream(model="small"))
        await begun(run)
        run.engines.lapse("small")
        await eventually(lambda: run.engines.leases)
        streamed = await stream
        await released(run)
        metrics = await run.front.metrics()
    assert streamed.done
    assert len(run.model.engine.requests(CHAT)) == 1
    assert [body["wait"] for body in run.demands()] == [True, False]
    assert metrics.value("gateway_lease_events_total", event="lapsed") == 1


async def test_an_engines_service_that_was_started_again_is_asked_anew():
    async with on_demand(state="ready", engine={"tokens_per_s": 40, "answer_tokens": 60}) as run:
        stream = asyncio.create_task(run.front.stream(model="small"))
        await begun(run)
        await run.engines.stop()
        await run.engines.start()
        await eventually(lambda: run.engines.leases)
        assert (await stream).done
        await released(run)


async def test_a_lease_that_lapsed_while_nothing_was_in_flight_is_forgotten():
    async with on_demand({"times": LeaseTimes(renew_s=0.1, idle_s=60, tick_s=0.03)}, state="ready") as run:
        await run.front.chat(model="small")
        run.engines.lapse("small")
        leases = run.front.door.leases
        await eventually(lambda: not leases.all())
        assert (await run.front.chat(model="small")).status_code == 200
        assert [body["wait"] for body in run.demands()] == [True, True]


# --- without the engines service ---------------------------------------------------------------------------------


@pytest.mark.parametrize("had_a_lease", [True, False], ids=["had a lease", "never had one"])
async def test_a_model_that_was_ready_goes_on_answering_without_the_engines_service(had_a_lease):
    async with on_demand(state="ready") as run:
        if had_a_lease:
            assert (await run.front.chat(model="small")).status_code == 200
            await released(run)
        await run.engines.stop()
        for _ in range(3):
            assert (await run.front.chat(model="small")).status_code == 200
        assert (await run.front.stream(model="small")).done
        listed = (await run.front.client.get("/v1/models")).json()["data"]
        await eventually(lambda: run.front.door.engines().state == "unreachable")
        ready = await run.front.client.get("/readyz")
        status = await run.front.status()
        metrics = await run.front.metrics()
    assert [model["id"] for model in listed] == ["small"]
    assert ready.status_code == 200
    assert status["backends"][0]["state"] == "unreachable"
    assert metrics.value("gateway_lease_events_total", event="unleased") >= 1
    assert metrics.value("gateway_exchanges_total", outcome="failed") == 0


async def test_what_goes_on_without_a_lease_gets_one_when_the_service_is_back():
    async with on_demand(state="ready", engine=SLOW) as run:
        await run.engines.stop()
        stream = asyncio.create_task(run.front.stream(model="small"))
        await begun(run)
        await run.engines.start()
        await eventually(lambda: run.engines.leases)
        assert len(run.front.door.leases.all()) == 1
        stream.cancel()
        await asyncio.gather(stream, return_exceptions=True)
        await released(run)


async def test_a_gateway_that_starts_before_the_engines_service_finds_it():
    async with on_demand(state="ready") as run:
        await run.engines.stop()
        await eventually(lambda: run.front.door.engines().state == "unreachable")
        await run.engines.start()
        await eventually(lambda: run.front.door.engines().state == "ready")
        assert (await run.front.chat(model="small")).status_code == 200


async def test_a_service_that_answers_nothing_holds_nobody_on_a_live_lease():
    """Renewals hang; requests don't wait for them."""
    async with on_demand({"times": LeaseTimes(renew_s=0.05, idle_s=60, tick_s=0.02)}, state="ready") as run:
        await run.front.chat(model="small")
        run.engines.silent = True
        renewals = len(run.engines.calls("PUT"))
        await eventually(lambda: len(run.engines.calls("PUT")) > renewals)
        began = time.monotonic()
        assert (await run.front.chat(model="small")).status_code == 200
        assert (await run.front.client.get("/v1/models")).status_code == 200
        assert time.monotonic() - began < 2

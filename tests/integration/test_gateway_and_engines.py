"""The gateway in front of the real engines service, over fake engines: what clients see on a bad day."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.engines.host_memory import HostMemory
from tests.integration.engine_services import GIB, KEY, EngineService, engine_service
from tests.integration.gateways import CHAT, Gateway, Streamed, gateway
from tests.integration.on_demand import QUICK
from tests.testkit.fake_runtime import FakeRuntime
from tests.testkit.ports import free_listener, free_port
from tests.testkit.server import eventually

pytestmark = pytest.mark.slow  # processes that are started, stopped and waited for

TWO = {"model-a": GIB, "model-b": GIB}
ROOM_FOR_ONE = {"memory_gib": 2.0}
ROOM_FOR_ALL = {"memory_gib": 8.0}
WRONG_KINDS = json.dumps(
    {
        "engines": [
            {"model": "model-a", "instance": "llamacpp-model-a", "engine": "llamacpp", "port": "x", "api_key": "",
             "taken": "much", "digest": None},
            {"model": ["model-a"], "instance": {}, "engine": 1, "port": 1, "api_key": 0, "taken": 1, "digest": ""},
        ]
    }
)  # fmt: skip


@pytest.fixture
async def runtime():
    runtime = FakeRuntime(tokens_per_s=400)  # an answer takes 60 ms: time to be cut off
    yield runtime
    await runtime.end_all()


@pytest.fixture(autouse=True)
def ports(monkeypatch):
    """Give these engines ports that no other test's engine takes between its choice and its use."""
    first = free_port()
    monkeypatch.setenv("LLAMACPP_PORT", str(first))
    return first


def in_front_of(service_url: str, **settings: Any) -> contextlib.AbstractAsyncContextManager[Gateway]:
    given = {"engines_url": service_url, "engines_key": KEY, "times": QUICK, **settings}
    return gateway(**given)


@contextlib.asynccontextmanager
async def both(tmp_path: Path, runtime: FakeRuntime, **settings: Any) -> AsyncIterator[tuple[EngineService, Gateway]]:
    """Run the service with two models, the first of them loaded, and a gateway."""
    async with engine_service(tmp_path, runtime, models=TWO, **settings) as service:
        await service.until("model-a", "ready")
        async with in_front_of(service.url) as front:
            yield service, front


def endless(runtime: FakeRuntime, model: str) -> None:
    """Have the model's engine give a next answer that ends when its client or the engine does."""
    runtime.engines[model].script(path=CHAT, times=1, tokens_per_s=50, tokens=100_000)


def assert_whole(streamed: Streamed) -> None:
    assert streamed.done, streamed.body[-500:]
    assert streamed.error is None
    assert streamed.text


async def begun(runtime: FakeRuntime, model: str, count: int = 1) -> None:
    """Wait until an engine answers so many streams."""
    await eventually(lambda: model in runtime.engines and runtime.engines[model].state().open_streams >= count)


async def ended(task: "asyncio.Task[Any]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


# --- loads and swaps ----------------------------------------------------------------------------------------------


async def test_streams_are_held_while_their_model_loads(tmp_path, runtime):
    runtime.script("model-b", load_s=0.5)
    async with both(tmp_path, runtime, **ROOM_FOR_ALL) as (_, front):
        streams = await asyncio.gather(*(front.stream(model="model-b") for _ in range(8)))
    for streamed in streams:
        assert_whole(streamed)
        assert b": loading model-b" in streamed.body
    assert runtime.starts == ["model-a", "model-b"]


async def test_swaps_under_streams_of_both_models_lose_none_and_cut_none_off(tmp_path, runtime):
    async with both(tmp_path, runtime, **ROOM_FOR_ONE) as (_, front):

        async def user(number: int) -> None:
            for turn in range(3):
                model = ("model-a", "model-b")[(number + turn) % 2]
                streamed = await front.stream(model=model)
                assert_whole(streamed)
                assert len(streamed.text.split()) >= 10

        async with asyncio.timeout(60):
            await asyncio.gather(*(user(number) for number in range(6)))
        totals = await front.totals()
    assert (totals["requests"], totals["failed"]) == (18, 0)
    assert runtime.most_at_a_time == 1
    assert runtime.starts.count("model-b") >= 1


async def test_two_gateways_share_one_load_and_neither_takes_the_others_model_away(tmp_path, runtime):
    runtime.script("model-b", load_s=0.2)
    async with both(tmp_path, runtime, **ROOM_FOR_ONE) as (service, one), in_front_of(service.url) as other:
        endless(runtime, "model-a")
        held = asyncio.create_task(one.stream(model="model-a"))
        await begun(runtime, "model-a")
        waiting = asyncio.create_task(other.stream(model="model-b"))
        await service.until("model-b", "queued")
        late = asyncio.create_task(one.stream(model="model-b"))
        await eventually(lambda: one.door.leases.held() == 1)
        assert runtime.stops == [], "the first gateway's stream goes on"
        await ended(held)
        assert_whole(await waiting)
        assert_whole(await late)
    assert runtime.starts == ["model-a", "model-b"]


# --- engines that die ---------------------------------------------------------------------------------------------


async def test_an_engine_that_is_killed_in_the_middle_of_a_stream_tells_the_client_and_comes_back(tmp_path, runtime):
    async with both(tmp_path, runtime, **ROOM_FOR_ALL) as (service, front):
        endless(runtime, "model-a")
        stream = asyncio.create_task(front.stream(model="model-a"))
        await begun(runtime, "model-a")
        await eventually(lambda: any(exchange.deltas for exchange in front.door.live))
        await runtime.kill("model-a")
        streamed = await stream
        assert streamed.whole, "the response ends as HTTP says"
        assert streamed.error["code"] == "engine_unreachable"
        assert_whole(await front.stream(model="model-a"))
        assert await service.state("model-a") in ("ready", "busy")
    assert runtime.starts == ["model-a", "model-a"]


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
async def test_an_engine_that_is_killed_before_its_head_is_asked_again(tmp_path, runtime, stream):
    async with both(tmp_path, runtime, **ROOM_FOR_ALL) as (_, front):
        runtime.engines["model-a"].script(path=CHAT, stall_head=True)
        asked = front.stream(model="model-a") if stream else front.chat(model="model-a")
        asking = asyncio.create_task(asked)
        await begun(runtime, "model-a")
        await runtime.kill("model-a")
        answer = await asking
        if stream:
            assert_whole(answer)
        else:
            assert answer.status_code == 200
        totals = await front.totals()
    assert (totals["requests"], totals["failed"]) == (1, 0)
    assert runtime.starts == ["model-a", "model-a"]


@pytest.mark.parametrize("force", [True, False], ids=["by force", "in order"])
async def test_a_model_that_is_unloaded_while_it_is_streamed_stays_unloaded(tmp_path, runtime, force):
    """By force, however long it would take for the stream to end by itself."""
    runtime.script("model-a", ends_s=2.0 if force else 0.0)
    async with both(tmp_path, runtime, **ROOM_FOR_ALL) as (service, front):
        endless(runtime, "model-a")
        stream = asyncio.create_task(front.stream(model="model-a"))
        await begun(runtime, "model-a")
        await eventually(lambda: any(exchange.deltas for exchange in front.door.live))
        assert (await service.client.post("/models/model-a/unload", json={"force": force})).status_code == 200
        if force:
            assert (await stream).error["code"] == "engine_unreachable"
        else:
            await eventually(lambda: "model-a" not in front.door.leases._current)
            assert runtime.stops == []
            await ended(stream)
        await service.until("model-a", "stopped")
        await front.settled()
        await eventually(lambda: not front.door.leases.all())
        assert await service.state("model-a") == "stopped"
    assert runtime.starts == ["model-a"]


# --- the engines service itself -----------------------------------------------------------------------------------


async def test_a_service_that_is_started_again_takes_the_engine_over_and_streams_go_on(tmp_path, runtime):
    port = free_port()
    async with contextlib.AsyncExitStack() as after:
        async with engine_service(tmp_path, runtime, models=TWO, listen_at=port, **ROOM_FOR_ALL) as service:
            await service.until("model-a", "ready")
            front = await after.enter_async_context(in_front_of(service.url))
            endless(runtime, "model-a")
            stream = asyncio.create_task(front.stream(model="model-a"))
            await begun(runtime, "model-a")
        assert_whole(await front.stream(model="model-a"))
        async with engine_service(tmp_path, runtime, models=TWO, listen_at=port, **ROOM_FOR_ALL) as service:
            residency = service.service.controller.residency
            await eventually(lambda: residency.models["model-a"].leases)
            assert_whole(await front.stream(model="model-a"))
            assert_whole(await front.stream(model="model-b"))
            assert not stream.done()
            await ended(stream)
            await eventually(lambda: not residency.models["model-a"].leases)
    assert runtime.starts == ["model-a", "model-b"]
    assert runtime.stops == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("running.json", '{"engines": 3}'),
        ("running.json", '{"engines": [{"model": []}, 7, null, {"model": "model-a"}]}'),
        ("running.json", WRONG_KINDS),
        ("running.json", "\x00\x00\x00"),
        ("loading.json", '{"model": 7, "boot": []}'),
        ("loading.json", '["model-a"'),
        ("receipts.jsonl", '{"model": "model-a"}\n[]\n\x00\n{"model": "model-a", "load_s": "NaN"}'),
    ],
)
async def test_what_it_has_written_down_may_be_broken(tmp_path, runtime, name, content):
    folder = tmp_path / "engines"
    folder.mkdir()
    (folder / name).write_text(content)
    async with both(tmp_path, runtime, **ROOM_FOR_ALL) as (_, front):
        assert_whole(await front.stream(model="model-a"))
    assert runtime.starts == ["model-a"]


async def test_a_disk_on_which_nothing_can_be_written_costs_what_is_written_not_the_model(tmp_path, runtime):
    (tmp_path / "engines").write_text("a file where the folder should be")
    async with both(tmp_path, runtime, **ROOM_FOR_ALL) as (_, front):
        assert_whole(await front.stream(model="model-a"))
        assert_whole(await front.stream(model="model-b"))


@pytest.mark.parametrize("content", ["id: [", "id: other\n", "\xff\xfe\x00", "released: 2026-02-31\n", "- a\n"])
async def test_a_broken_recipe_of_the_users_is_left_out_and_the_others_are_served(tmp_path, runtime, content, logs):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mine.yaml").write_bytes(content.encode("latin-1"))
    async with both(tmp_path, runtime, **ROOM_FOR_ALL) as (service, front):
        assert_whole(await front.stream(model="model-a"))
        assert "mine" not in await service.models()
    told = [entry["reason"] for entry in logs if entry["event"] == "recipe.left_out"]
    assert len(told) == 1
    assert "mine.yaml" in told[0]


# --- the machine --------------------------------------------------------------------------------------------------


async def test_a_runtime_that_is_away_for_a_while_costs_nobody_a_stream_nor_a_load(tmp_path, runtime):
    runtime.script("model-b", load_s=0.6)
    async with both(tmp_path, runtime, **ROOM_FOR_ALL) as (service, front):
        streams = [asyncio.create_task(front.stream(model=model)) for model in ("model-b", "model-b")]
        await eventually(lambda: "model-b" in runtime.starts)
        runtime.unreachable = "the socket is gone"
        assert_whole(await front.stream(model="model-a"))
        await eventually(lambda: "model-b" in runtime.engines)
        runtime.unreachable = ""
        for streamed in await asyncio.gather(*streams):
            assert_whole(streamed)
        receipts = (await service.client.get("/receipts")).json()["data"]
    assert [(item["model"], item["outcome"]) for item in receipts] == [("model-b", "ready"), ("model-a", "ready")]


async def test_an_engine_that_could_not_be_ended_is_ended_when_the_runtime_is_back(tmp_path, runtime):
    async with both(tmp_path, runtime, **ROOM_FOR_ALL) as (service, front):
        runtime.unreachable = "the socket is gone"
        await service.client.post("/models/model-a/unload", json={})
        await service.until("model-a", "stopped")
        assert "model-a" in runtime.engines
        runtime.unreachable = ""
        assert_whole(await front.stream(model="model-b"))
        assert runtime.stops == ["model-a"]


async def test_a_runtime_that_comes_up_after_the_service_is_waited_for(tmp_path, runtime):
    async with engine_service(tmp_path, runtime, models=TWO, **ROOM_FOR_ALL) as service:
        await service.until("model-a", "ready")
    runtime.unreachable = "not up yet"
    asyncio.get_running_loop().call_later(0.3, setattr, runtime, "unreachable", "")
    async with both(tmp_path, runtime, **ROOM_FOR_ALL) as (_, front):
        assert_whole(await front.stream(model="model-a"))
    assert runtime.starts == ["model-a"]
    assert runtime.stops == []


async def test_a_range_of_ports_that_is_all_taken_is_told_and_another_model_is_served(tmp_path, runtime, monkeypatch):
    async with both(tmp_path, runtime, **ROOM_FOR_ALL) as (service, front):
        with free_listener() as listener:
            taken = listener.getsockname()[1]
            monkeypatch.setattr("services.engines.loading.ports._RANGE", 1)
            monkeypatch.setenv("LLAMACPP_PORT", str(taken))
            refused = await front.chat(model="model-b")
        assert refused.status_code == 503
        error = refused.json()["error"]
        assert error["code"] == "model_failed"
        assert str(taken) in error["message"]
        assert "LLAMACPP_PORT" in error["message"]
        assert int(refused.headers["retry-after"]) >= 1
        assert_whole(await front.stream(model="model-a"))
        assert await service.state("model-b") == "failed"


async def test_a_setting_that_is_wrong_when_a_model_is_loaded_fails_that_model_alone(tmp_path, runtime, monkeypatch):
    async with both(tmp_path, runtime, **ROOM_FOR_ALL) as (service, front):
        monkeypatch.setenv("LLAMACPP_THREADS", "many")
        refused = await front.chat(model="model-b")
        assert refused.status_code == 503
        assert "LLAMACPP_THREADS" in refused.json()["error"]["message"]
        assert_whole(await front.stream(model="model-a"))
        assert await service.state("model-b") == "failed"


async def test_memory_that_goes_while_a_request_waits_is_told_with_the_sum(tmp_path, runtime):
    async with both(tmp_path, runtime, **ROOM_FOR_ONE) as (service, front):
        endless(runtime, "model-a")
        held = asyncio.create_task(front.stream(model="model-a"))
        await begun(runtime, "model-a")
        waiting = asyncio.create_task(front.stream(model="model-b"))
        await service.until("model-b", "queued")
        service.service.controller._read_memory = lambda: HostMemory(total=64 * GIB, free=GIB // 8, available=GIB // 8)
        streamed = await waiting
        # How soon the wait has an event of its own, and with it the head of an answer, is the machine's affair.
        assert streamed.failure["code"] == "insufficient_memory", json.dumps(streamed.data)
        assert "model-b needs" in streamed.failure["message"]
        assert not held.done(), "whoever has a model keeps it"
        await ended(held)
    assert runtime.starts == ["model-a"]

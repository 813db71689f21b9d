"""What clients of the engines service see: leases, loads, swaps, refusals, crashes."""

import asyncio
import time

import httpx
import pytest

from tests.integration.engine_services import GIB, engine_service, eventually
from tests.testkit.fake_runtime import FakeRuntime

pytestmark = pytest.mark.slow  # processes that are started, stopped and waited for

TWO = {"model-a": GIB, "model-b": GIB}
ROOM_FOR_ONE = {"memory_gib": 2.0}
ROOM_FOR_ALL = {"memory_gib": 8.0}


@pytest.fixture
async def runtime():
    runtime = FakeRuntime()
    yield runtime
    await runtime.end_all()


async def test_what_is_named_at_the_start_is_loaded_and_answers(tmp_path, runtime):
    async with engine_service(tmp_path, runtime, models=TWO, **ROOM_FOR_ALL) as service:
        await service.until("model-a", "ready")
        models = await service.models()
        assert models["model-a"]["url"].startswith("http://127.0.0.1:")
        assert models["model-b"]["state"] == "stopped"
        assert models["model-b"]["url"] is None
        granted = await service.granted("model-a-alias")
        assert granted["model"] == granted["upstream_id"] == "model-a"
        async with httpx.AsyncClient() as client:
            body = {"model": "model-a", "messages": [{"role": "user", "content": "hi"}]}
            answer = await client.post(f"{granted['url']}/v1/chat/completions", json=body)
        assert answer.status_code == 200


async def test_everything_but_health_wants_the_key(tmp_path, runtime):
    async with engine_service(tmp_path, runtime, models=TWO, **ROOM_FOR_ALL) as service:
        for method, path in (("GET", "/models"), ("POST", "/leases"), ("POST", "/models/model-a/unload")):
            answer = await service.client.request(method, path, json={}, headers={"authorization": "Bearer wrong"})
            assert answer.status_code == 401, path
        assert (await service.client.get("/livez", headers={"authorization": ""})).status_code == 200


async def test_a_model_is_loaded_on_demand_and_tells_how_far_it_is(tmp_path, runtime):
    runtime.script("model-b", load_s=0.4)
    async with engine_service(tmp_path, runtime, models=TWO, **ROOM_FOR_ALL) as service:
        await service.until("model-a", "ready")
        events = await service.lease_stream("model-b")
        assert [name for name, _ in events][-1] == "granted"
        progress = [data for name, data in events if name == "progress"]
        assert progress[-1]["state"] == "loading"
        assert progress[-1]["position"] == 0
        assert progress[-1]["eta_s"] >= 0
        assert "model-b" in progress[-1]["message"]


async def test_a_plain_request_is_told_when_to_come_back_and_finds_it_then(tmp_path, runtime):
    runtime.script("model-b", load_s=0.3)
    async with engine_service(tmp_path, runtime, models=TWO, **ROOM_FOR_ALL) as service:
        await service.until("model-a", "ready")
        refused = await service.lease("model-b")
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "model_loading"
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.headers["x-sparkstack-queue-position"] in ("0", "1")
        assert float(refused.headers["x-sparkstack-eta-s"]) > 0
        await service.until("model-b", "ready")
        assert (await service.lease("model-b")).status_code == 200


async def test_many_who_wait_for_one_model_share_one_load(tmp_path, runtime):
    runtime.script("model-b", load_s=0.2)
    async with engine_service(tmp_path, runtime, models=TWO, **ROOM_FOR_ALL) as service:
        await service.until("model-a", "ready")
        await asyncio.gather(*(service.granted("model-b", f"holder-{number}") for number in range(20)))
        assert runtime.starts == ["model-a", "model-b"]


async def test_two_that_do_not_fit_together_are_swapped(tmp_path, runtime):
    async with engine_service(tmp_path, runtime, models=TWO, **ROOM_FOR_ONE) as service:
        await service.until("model-a", "ready")
        await service.granted("model-b")
        models = await service.models()
        assert (models["model-a"]["state"], models["model-b"]["state"]) == ("stopped", "ready")
        assert runtime.most_at_a_time == 1


async def test_a_model_with_a_request_in_flight_is_not_unloaded_for_another(tmp_path, runtime):
    async with engine_service(tmp_path, runtime, models=TWO, **ROOM_FOR_ONE) as service:
        await service.until("model-a", "ready")
        held = await service.granted("model-a", "first")
        waiting = asyncio.create_task(service.granted("model-b", "second"))
        while not (await service.client.put(f"/leases/{held['lease']}", json={"in_flight": 1})).json()["draining"]:
            await asyncio.sleep(0.01)
        assert runtime.stops == []
        again = await service.lease("model-a", "third")
        assert again.status_code == 503, "no new requests while it drains"
        assert (await service.client.delete(f"/leases/{held['lease']}")).status_code == 204
        await waiting
        assert runtime.stops == ["model-a"]


async def test_what_cannot_fit_is_refused_at_once_with_the_sum(tmp_path, runtime):
    models = {"model-a": GIB, "huge": 50 * GIB}
    async with engine_service(tmp_path, runtime, models=models, **ROOM_FOR_ONE) as service:
        await service.until("model-a", "ready")
        for wait in (True, False):
            started = time.perf_counter()
            answer = await service.client.post("/leases", json={"model": "huge", "holder": "t", "wait": wait})
            assert answer.status_code == 503
            error = answer.json()["error"]
            assert error["code"] == "insufficient_memory"
            assert "huge needs 5" in error["message"]
            assert "GiB are missing" in error["message"]
            assert time.perf_counter() - started < 1
        assert runtime.starts == ["model-a"]
        assert await service.state("model-a") == "ready"


async def test_a_pinned_model_is_named_as_what_to_unload(tmp_path, runtime):
    async with engine_service(tmp_path, runtime, models=TWO, **ROOM_FOR_ONE) as service:
        await service.until("model-a", "ready")
        pinned = await service.client.post("/models/model-a/load", json={"pin": True})
        assert pinned.json()["pinned"] is True
        refused = await service.lease("model-b")
        assert refused.json()["error"]["code"] == "insufficient_memory"
        assert "Pinned and not unloaded for others: model-a" in refused.json()["error"]["message"]
        await service.client.post("/models/model-a/unload", json={})
        await service.granted("model-b")


async def test_an_unknown_model_is_told_what_there_is(tmp_path, runtime):
    async with engine_service(tmp_path, runtime, models=TWO, **ROOM_FOR_ALL) as service:
        answer = await service.lease("gpt-9")
        assert answer.status_code == 404
        assert "model-a" in answer.json()["error"]["message"]


async def test_who_leaves_takes_the_demand_back(tmp_path, runtime):
    runtime.script("model-a", load_s=0.3)
    async with engine_service(tmp_path, runtime, models=TWO, **ROOM_FOR_ALL) as service:
        await service.until("model-a", "loading")
        waiting = asyncio.create_task(service.lease_stream("model-b"))
        await service.until("model-b", "queued")
        waiting.cancel()
        await service.until("model-b", "stopped")
        await service.until("model-a", "ready")
        assert runtime.starts == ["model-a"]


async def test_an_engine_that_does_not_start_says_why_to_all_who_wait(tmp_path, runtime):
    runtime.script("model-b", load_s=0.1, dies=9)
    async with engine_service(tmp_path, runtime, models=TWO, **ROOM_FOR_ALL) as service:
        await service.until("model-a", "ready")
        events = await asyncio.gather(service.lease_stream("model-b", "x"), service.lease_stream("model-b", "y"))
        for told in events:
            name, data = told[-1]
            assert name == "error"
            assert data["status"] == 503
            assert data["error"]["code"] == "model_failed"
            assert "killed by signal 9" in data["error"]["message"]
            assert "the last words of" in data["error"]["message"]
        assert await service.state("model-b") == "failed"
        at_once = await service.lease("model-b")
        assert at_once.json()["error"]["code"] == "model_failed"
        assert int(at_once.headers["retry-after"]) >= 1
        receipts = (await service.client.get("/receipts")).json()["data"]
        assert [(item["model"], item["outcome"]) for item in receipts] == [("model-b", "failed"), ("model-a", "ready")]


async def test_a_killed_engine_that_is_needed_comes_back(tmp_path, runtime):
    async with engine_service(tmp_path, runtime, models=TWO, **ROOM_FOR_ALL) as service:
        await service.until("model-a", "ready")
        held = await service.granted("model-a")
        await runtime.kill("model-a")
        lost = await service.client.post(f"/leases/{held['lease']}/lost", json={"reason": "connection refused"})
        assert lost.status_code == 202
        again = await service.granted("model-a")
        assert again["lease"] != held["lease"]
        assert runtime.starts == ["model-a", "model-a"]
        renewed = await service.client.put(f"/leases/{held['lease']}", json={"in_flight": 1})
        assert renewed.status_code == 404
        assert renewed.json()["error"]["code"] == "lease_not_found"


async def test_a_restarted_service_takes_over_what_runs(tmp_path, runtime):
    async with engine_service(tmp_path, runtime, models=TWO, **ROOM_FOR_ALL) as service:
        await service.until("model-a", "ready")
        before = (await service.models())["model-a"]["url"]
    async with engine_service(tmp_path, runtime, models=TWO, **ROOM_FOR_ALL) as service:
        assert await service.state("model-a") in ("ready", "busy")
        assert (await service.models())["model-a"]["url"] == before
        await service.granted("model-a")
    assert runtime.starts == ["model-a"]


async def test_an_idle_model_that_was_loaded_on_demand_goes(tmp_path, runtime):
    async with engine_service(tmp_path, runtime, models=TWO, idle_ttl_s=0.2, **ROOM_FOR_ALL) as service:
        held = await service.granted("model-b")
        assert (await service.client.delete(f"/leases/{held['lease']}")).status_code == 204
        await service.until("model-b", "stopped")
        assert await service.state("model-a") == "ready", "what was named at the start stays"


async def test_keep_alive_0_unloads_when_nobody_holds_it(tmp_path, runtime):
    async with engine_service(tmp_path, runtime, models=TWO, **ROOM_FOR_ALL) as service:
        held, other = await service.granted("model-b", "one"), await service.granted("model-b", "two")
        await service.client.delete(f"/leases/{held['lease']}", params={"keep_alive_s": 0})
        assert (await service.client.put(f"/leases/{other['lease']}", json={"in_flight": 1})).status_code == 200
        await service.client.delete(f"/leases/{other['lease']}")
        await service.until("model-b", "stopped")


async def test_a_load_can_be_stopped(tmp_path, runtime):
    runtime.script("model-b", load_s=60)
    async with engine_service(tmp_path, runtime, models=TWO, **ROOM_FOR_ALL) as service:
        await service.until("model-a", "ready")
        await service.client.post("/models/model-b/load", json={})
        await eventually(lambda: "model-b" in runtime.starts)
        await service.client.post("/models/model-b/unload", json={"force": True})
        await service.until("model-b", "stopped")
        assert runtime.stops == ["model-b"]


async def test_the_plan_is_served_as_the_command_line_prints_it(tmp_path, runtime):
    async with engine_service(tmp_path, runtime, models=TWO, **ROOM_FOR_ALL) as service:
        plan = (await service.client.get("/plan", params={"models": "model-a,model-b", "machine": "24GiB"})).json()
        assert plan["fits"] is True
        assert plan["weights_gib"] == pytest.approx(2.0, abs=0.01)
        wrong = await service.client.get("/plan", params={"models": "model-a", "machine": "mainframe"})
        assert wrong.status_code == 400
        assert "mainframe" in wrong.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body"), [("/leases", {"model": "model-a"}), ("/leases", {"model": "", "holder": "x"}), ("/leases", [])]
)
async def test_a_wrong_body_is_named(tmp_path, runtime, path, body):
    async with engine_service(tmp_path, runtime, models=TWO, **ROOM_FOR_ALL) as service:
        answer = await service.client.post(path, json=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "invalid_request"


async def test_the_model_that_was_loading_when_the_machine_stopped_waits_for_an_operator(tmp_path, runtime):
    folder = tmp_path / "engines"
    await asyncio.to_thread(folder.mkdir)
    await asyncio.to_thread((folder / "loading.json").write_text, '{"model": "model-a", "boot": "an earlier one"}')
    async with engine_service(tmp_path, runtime, models=TWO, preload="model-a,model-b", **ROOM_FOR_ALL) as service:
        await service.until("model-b", "ready")
        assert runtime.starts == ["model-b"], "it is not loaded by itself"
        told = (await service.models())["model-a"]
        assert told["state"] == "failed"
        assert "the machine stopped while it was loaded; `sparkstack load model-a` tries it again" in told["reason"]
        refused = await service.lease("model-a")
        assert refused.json()["error"]["code"] == "model_failed"
        assert (await service.client.post("/models/model-a/load", json={"wait": True})).json()["state"] == "ready"
        await service.granted("model-a")


async def test_what_engines_count_can_be_scraped(tmp_path, runtime):
    async with engine_service(tmp_path, runtime, models=TWO, **ROOM_FOR_ALL) as service:
        await service.until("model-a", "ready")
        await eventually(lambda: service.service.controller.fleet.signals.get("model-a"))
        text = (await service.client.get("/metrics")).text
        assert 'engines_loads_total{model="model-a",outcome="ready"} 1.0' in text
        assert 'engine_state{engine="llamacpp",model="model-a",state="ready"} 1.0' in text
        assert "host_memory_available_bytes" in text


async def test_a_model_of_the_start_that_does_not_fit_says_so_in_the_list(tmp_path, runtime):
    async with engine_service(tmp_path, runtime, models={"model-a": 2 * GIB}, memory_gib=0.5) as service:
        told = (await service.models())["model-a"]
        assert told["state"] == "stopped"
        assert "model-a needs " in told["reason"]
        assert "engines may take 0.50 GiB" in told["reason"]
    assert runtime.starts == []


async def test_a_model_whose_files_are_not_here_says_how_to_get_them(tmp_path, runtime):
    async with engine_service(tmp_path, runtime, models=TWO, **ROOM_FOR_ALL) as service:
        await service.until("model-a", "ready")
        service.service.missing = frozenset({"model-b"})
        answer = await service.lease("model-b")
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "model_not_pulled"
        assert "`sparkstack pull model-b` gets it" in answer.json()["error"]["message"]

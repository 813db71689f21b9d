"""Models that are loaded on demand stand beside static backends, in every list, whatever is up."""

import json

import pytest

from tests.integration.gateways import CHAT, Gateway, gateway
from tests.integration.on_demand import QUICK, on_demand
from tests.testkit.fake_engines_service import fake_engines
from tests.testkit.server import eventually, fake_engine, free_port

pytestmark = pytest.mark.slow


async def states(front: Gateway) -> dict[str, str]:
    listed = (await front.client.get("/v1/models")).json()["data"]
    return {model["id"]: model["sparkstack"]["state"] for model in listed}


async def test_stopped_models_are_listed_with_their_facts_and_state():
    async with on_demand(aliases=("s",), capabilities=("chat", "tools")) as run:
        (model,) = (await run.front.client.get("/v1/models")).json()["data"]
        one = (await run.front.client.get("/v1/models/s")).json()
        (shown,) = (await run.front.status())["models"]
    assert model == one
    assert (model["id"], model["created"]) == ("small", 1_700_000_000)
    own = model["sparkstack"]
    assert (own["state"], own["backend"], own["engine"]) == ("stopped", "engines", "llamacpp")
    assert own["aliases"] == ["default", "engines/small", "s"]
    assert own["capabilities"] == ["chat", "tools"]
    assert (own["need_bytes"], own["held_bytes"], own["on_gpu"]) == (2000, None, None)
    assert (shown["managed"], shown["state"], shown["parameters"]) == (True, "stopped", 135_000_000)


async def test_a_change_that_the_gateway_makes_is_seen_at_once_and_any_other_within_a_second_or_so():
    async with on_demand() as run:
        assert await states(run.front) == {"small": "stopped"}
        await run.front.chat(model="small")
        await eventually(lambda: run.front.door.engines()["small"].state in ("ready", "busy"), timeout_s=0.9)
        run.model.state = "failed"
        await eventually(lambda: run.front.door.engines()["small"].state == "failed")


async def test_the_catalogue_file_names_them_before_the_engines_service_is_up(tmp_path):
    facts = {"id": "small", "aliases": ["s"], "capabilities": ["chat"], "context_tokens": 4096}
    path = tmp_path / "catalogue.json"
    path.write_text(json.dumps({"backends": [], "managed": [facts], "default": "small"}))
    dead = f"http://127.0.0.1:{free_port()}"
    async with gateway(catalogue=path, engines_url=dead) as front:
        (model,) = (await front.client.get("/v1/models")).json()["data"]
        ready = await front.client.get("/readyz")
        response = await front.chat(model="s")
        status = await front.status()
    assert model["id"] == "small"
    assert model["sparkstack"]["state"] == "unknown"
    assert model["sparkstack"]["aliases"] == ["default", "engines/small", "s"]
    assert ready.status_code == 503
    assert dead in ready.json()["checks"]["engines"]
    assert (response.status_code, response.json()["error"]["code"]) == (502, "engine_unreachable")
    assert status["ready"] is False
    assert status["default_model"] == "small"


async def test_they_stand_beside_static_backends_and_the_bare_id_is_theirs():
    async with fake_engines() as engines, fake_engine(models=("small", "other"), embedding_models=()) as static:
        await engines.add("small", state="ready")
        settings = {"engines_url": engines.url, "engines_key": engines.key, "times": QUICK}
        async with gateway(static, **settings) as front:
            assert await states(front) == {"engines/small": "ready", "engine/small": "ready", "other": "ready"}
            for model in ("small", "engines/small", "engine/small", "other"):
                assert (await front.chat(model=model)).status_code == 200
            backends = (await front.status())["backends"]
        assert len(engines.models["small"].engine.requests(CHAT)) == 2
        assert [each["body"]["model"] for each in static.requests(CHAT)] == ["small", "other"]
    assert [backend["name"] for backend in backends] == ["engines", "engine"]


async def test_the_default_is_the_services_own_unless_the_settings_name_one():
    async with fake_engines(default="second") as engines:
        for model in ("first", "second"):
            await engines.add(model)
        settings = {"engines_url": engines.url, "engines_key": engines.key, "times": QUICK}
        async with gateway(**settings) as front:
            assert (await front.status())["default_model"] == "second"
            engines.default = "first"
            await front.door.engines().look_again(at_once=True)
            assert (await front.status())["default_model"] == "first"
        async with gateway(**settings, default_model="second") as front:
            assert (await front.status())["default_model"] == "second"


async def test_a_model_whose_files_are_missing_is_not_listed_but_told_how_to_get():
    async with on_demand(state="missing") as run:
        listed = (await run.front.client.get("/v1/models")).json()["data"]
        one = await run.front.client.get("/v1/models/small")
        response = await run.front.chat(model="small")
        status = await run.front.status()
    assert listed == []
    assert status["not_pulled"] == ["small"]
    for answer in (one, response):
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_pulled")
        assert "sparkstack pull small" in answer.json()["error"]["message"]


async def test_a_model_that_comes_and_one_that_goes_are_seen():
    async with on_demand() as run:
        await run.engines.add("second")
        run.engines.models.pop("small")
        await run.front.door.engines().look_again(at_once=True)
        assert await states(run.front) == {"second": "stopped"}
        assert (await run.front.chat(model="second")).status_code == 200
        assert (await run.front.chat(model="small")).status_code == 404
        await run.engines.models["second"].engine.stop()


@pytest.mark.parametrize("garbage", [3, {"aliases": []}, {"id": 3}, {"id": "small", "eta_s": "soon"}])
async def test_a_listing_of_garbage_leaves_what_was_known(garbage, monkeypatch):
    async with on_demand(state="ready") as run:
        monkeypatch.setattr(run.engines, "_document", lambda _model: garbage)
        await eventually(lambda: run.front.door.engines().state == "unreachable")
        assert await states(run.front) == {"small": "ready"}
        assert (await run.front.chat(model="small")).status_code == 200


# --- on purpose ---------------------------------------------------------------------------------------------------


async def test_a_model_is_loaded_and_unloaded_by_hand():
    async with on_demand() as run:
        loaded = await run.front.client.post("/v1/models/small/load", json={"pin": True, "wait": True})
        assert await states(run.front) == {"small": "ready"}
        assert run.model.pinned
        assert (await run.front.chat(model="small")).status_code == 200
        unloaded = await run.front.client.post("/v1/models/small/unload")
        assert await states(run.front) == {"small": "stopped"}
    assert (loaded.status_code, loaded.json()["state"]) == (200, "ready")
    assert (unloaded.status_code, unloaded.json()["state"]) == (200, "stopped"), "our own idle lease was no hindrance"
    (asked,) = run.engines.calls("POST", "/models/small/load")
    assert asked.body == {"pin": True, "wait": True}


async def test_a_load_without_a_word_pins_and_unpins_nothing():
    async with on_demand() as run:
        assert (await run.front.client.post("/v1/models/default/load")).status_code == 200
    (asked,) = run.engines.calls("POST", "/models/small/load")
    assert asked.body == {"pin": None, "wait": False}


async def test_only_models_of_the_engines_service_can_be_loaded(fake_engine):
    async with gateway(fake_engine) as front:
        theirs = await front.client.post("/v1/models/fake-chat/load")
        nobodys = await front.client.post("/v1/models/nobody/load")
    assert (theirs.status_code, theirs.json()["error"]["code"]) == (400, "unsupported_parameter")
    assert nobodys.status_code == 404


async def test_without_an_engines_service_every_list_is_as_it_was(fake_engine):
    async with gateway(fake_engine) as front:
        status = await front.status()
        (model, *_) = (await front.client.get("/v1/models")).json()["data"]
    assert [backend["name"] for backend in status["backends"]] == ["engine"]
    assert model["sparkstack"].keys() == {"state", "backend", "aliases", "capabilities", "context_tokens"}

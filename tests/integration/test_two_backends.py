"""Several servers behind one door: each model has one name that leads to it, whatever they call theirs."""

import json

import pytest

from tests.integration.gateways import CHAT, Gateway, gateway
from tests.testkit.server import eventually, fake_engine


async def ids(front: Gateway) -> list[str]:
    return [model["id"] for model in (await front.client.get("/v1/models")).json()["data"]]


async def test_ids_that_clash_are_served_as_name_slash_id():
    async with (
        fake_engine(models=("shared", "left"), embedding_models=()) as left,
        fake_engine(models=("shared", "right"), embedding_models=()) as right,
        gateway(backends={"a": left.url, "b": right.url}) as front,
    ):
        assert await ids(front) == ["a/shared", "left", "b/shared", "right"]
        for model in ("a/shared", "left", "b/shared", "right", "b/right", "shared"):
            assert (await front.chat(model=model)).status_code == 200, model
        status = await front.status()
    assert [request["body"]["model"] for request in left.requests(CHAT)] == ["shared", "left", "shared"]
    assert [request["body"]["model"] for request in right.requests(CHAT)] == ["shared", "right", "right"]
    assert [(backend["name"], backend["url"]) for backend in status["backends"]] == [
        ("a", left.url),
        ("b", right.url),
    ]


async def test_a_model_with_a_slash_in_its_name_is_found_in_its_path():
    async with fake_engine(models=("Qwen/Qwen3", "plain")) as engine, gateway(engine) as front:
        one = await front.client.get("/v1/models/Qwen/Qwen3")
        same = await front.client.get("/v1/models/engine/Qwen/Qwen3")
        none = await front.client.get("/v1/models/Qwen")
        assert (await front.chat(model="Qwen/Qwen3")).status_code == 200
    assert one.json()["id"] == same.json()["id"] == "Qwen/Qwen3"
    assert one.json()["sparkstack"]["aliases"] == ["default", "engine/Qwen/Qwen3"]
    assert none.json()["error"]["code"] == "model_not_found"


async def test_a_clash_that_comes_and_goes_changes_the_names():
    """What a client was given as `b/shared` works before, during and after."""
    async with (
        fake_engine(models=("shared",), embedding_models=()) as left,
        fake_engine(models=("shared",), embedding_models=()) as right,
    ):
        right.script(path="/v1/models", times=1, status=500)
        names = {"a": left.url, "b": right.url}
        async with gateway(backends=names, discovery_interval_s=0.03) as front:
            assert await ids(front) in (["shared"], ["a/shared", "b/shared"])
            await eventually(lambda: front.door.backends["b"].state == "ready")
            assert await ids(front) == ["a/shared", "b/shared"]
            assert (await front.chat(model="b/shared")).status_code == 200
    assert len(right.requests(CHAT)) == 1


async def test_one_dead_backend_leaves_the_other_ready():
    async with (
        fake_engine(models=("left",)) as left,
        fake_engine(models=("right",), embedding_models=()) as right,
        gateway(backends={"a": left.url, "b": right.url}, discovery_interval_s=0.05) as front,
    ):
        await left.stop()
        await eventually(lambda: front.door.backends["a"].state == "unreachable")
        assert (await front.chat(model="left")).status_code == 502
        assert (await front.stream(model="right")).done
        assert (await front.client.get("/readyz")).status_code == 200
        listed = (await front.client.get("/v1/models")).json()["data"]
    assert {model["id"]: model["sparkstack"]["state"] for model in listed} == {
        "left": "unreachable",
        "fake-embed": "unreachable",
        "right": "ready",
    }


async def test_aliases_and_the_default_lead_where_they_say():
    async with fake_engine(models=("first", "second"), embedding_models=()) as engine:
        aliases = {"gpt-4o-mini": "second", "mini": "gpt-4o-mini", "lost": "nowhere", "usual": "default"}
        async with gateway(engine, aliases=aliases) as front:
            models = {name: await front.chat(model=name) for name in ("gpt-4o-mini", "mini", "default", "usual")}
            lost = await front.chat(model="lost")
            one = await front.client.get("/v1/models/mini")
    asked = [request["body"]["model"] for request in engine.requests(CHAT)]
    assert {answer.status_code for answer in models.values()} == {200}
    assert asked == ["second", "second", "first", "first"]
    assert lost.status_code == 404
    assert one.json()["id"] == "second"


async def test_a_chosen_default_wins():
    async with fake_engine(models=("first", "second")) as engine, gateway(engine, default_model="second") as front:
        await front.chat(model="default")
        assert (await front.status())["default_model"] == "second"
    assert engine.requests(CHAT)[-1]["body"]["model"] == "second"


async def test_a_catalogue_names_models_before_any_backend_does(tmp_path):
    facts = {"id": "fake-chat", "aliases": ["fc"], "capabilities": ["chat"], "context_tokens": 4096}
    async with fake_engine() as engine:
        backend = {"name": "engine", "url": engine.url, "engine": "llamacpp", "models": [facts]}
        path = tmp_path / "catalogue.json"
        path.write_text(json.dumps({"backends": [backend], "default": "fake-chat"}))
        await engine.stop()
        async with gateway(catalogue=path, discovery_interval_s=0.05) as front:
            listed = (await front.client.get("/v1/models")).json()["data"]
            assert [(model["id"], model["sparkstack"]["state"]) for model in listed] == [("fake-chat", "unreachable")]
            assert listed[0]["sparkstack"]["aliases"] == ["default", "engine/fake-chat", "fc"]
            await engine.start()
            await eventually(lambda: front.door.backends["engine"].state == "ready")
            assert (await front.chat(model="fc")).status_code == 200
            after = (await front.client.get("/v1/models/fc")).json()["sparkstack"]
    assert after["capabilities"] == ["chat"]
    assert after["context_tokens"] == 8192, "what the engine says of itself wins"


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
async def test_a_backends_address_may_end_as_people_write_it(fake_engine, suffix):
    async with gateway(backends={"engine": fake_engine.url + suffix}) as front:
        assert (await front.chat()).status_code == 200


async def test_a_backends_own_key_is_sent_to_it_and_to_no_other():
    async with fake_engine(models=("left",)) as left, fake_engine(models=("right",)) as right:
        names = {"a": left.url, "b": right.url}
        async with gateway(backends=names, backend_keys={"a": "sk-left"}) as front:
            await front.chat(model="left")
            await front.chat(model="right")
    assert left.requests(CHAT)[0]["headers"]["authorization"] == "Bearer sk-left"
    assert left.requests("/v1/models")[0]["headers"]["authorization"] == "Bearer sk-left"
    assert "authorization" not in right.requests(CHAT)[0]["headers"]

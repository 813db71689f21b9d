"""A name that `sparkstack promote` gives is a model for every client, and changes without a restart."""

import asyncio

import pytest

from services.tracking.evaluation.names import Event, Names
from tests.integration.gateways import CHAT, gateway
from tests.testkit.server import eventually, fake_engine

pytestmark = pytest.mark.slow


async def test_a_promoted_name_is_listed_and_answers_by_every_api_and_follows_the_file(tmp_path):
    names = Names(tmp_path / "aliases.json")
    async with (
        fake_engine(models=("old", "new"), embedding_models=()) as engine,
        gateway(engine, aliases_file=names.path) as front,
    ):
        assert (await front.chat(model="production")).status_code == 404
        await asyncio.to_thread(names.promote, Event("promoted", "production", "old"))
        await eventually(lambda: "production" in front.door.catalogue.promoted)

        data = (await front.client.get("/v1/models")).json()["data"]
        assert [model["id"] for model in data] == ["old", "new", "production"]
        assert data[2]["sparkstack"]["stands_for"] == "old"
        assert "stands_for" not in data[0]["sparkstack"]
        tags = (await front.client.get("/api/tags")).json()["models"]
        assert [model["name"] for model in tags] == ["old", "new", "production"]
        assert (await front.client.get("/v1/models/production")).json()["id"] == "old"

        assert (await front.chat(model="production")).status_code == 200
        assert (await front.stream(model="production")).done
        question = {"messages": [{"role": "user", "content": "Hello"}], "stream": False}
        ollama = await front.client.post("/api/chat", json={"model": "production:latest", **question})
        assert ollama.status_code == 200

        await asyncio.to_thread(names.promote, Event("promoted", "production", "new", before="old"))
        await eventually(lambda: front.door.catalogue.promoted.get("production") == "new")
        assert (await front.chat(model="production")).status_code == 200
        await asyncio.to_thread(names.roll_back, "production")
        await eventually(lambda: front.door.catalogue.promoted.get("production") == "old")
        assert (await front.chat(model="production")).status_code == 200
        metrics = await front.metrics()
    asked = [request["body"]["model"] for request in engine.requests(CHAT)]
    assert asked == ["old", "old", "old", "new", "old"]
    # The name is no label: a figure belongs to the model that answered.
    assert metrics.labels("gateway_exchanges_total", "gen_ai_request_model") == {"old", "new"}


async def test_a_file_that_is_broken_at_the_start_leaves_the_models_and_is_counted(tmp_path):
    path = tmp_path / "aliases.json"
    path.write_text("{")
    async with fake_engine(models=("only",)) as engine, gateway(engine, aliases_file=path) as front:
        assert (await front.chat(model="only")).status_code == 200
        metrics = await front.metrics()
    assert metrics.value("gateway_alias_file_errors_total") == 1

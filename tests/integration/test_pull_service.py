"""Pulls inside the service: Ollama's form, shared by who asks, stopped when nobody is left."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.engines.files.download_plan import PullOptions
from services.engines.files.hub import PullError
from services.engines.files.pull import Pulls
from services.engines.recipes import Recipe
from tests.integration.pulling import FILES, QUICK, REPOSITORY, WEIGHTS, Place, recipe
from tests.testkit.fake_hub import FakeHub, digest_of
from tests.testkit.server import eventually

pytestmark = pytest.mark.slow

HALF = 300_000


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        hub.add(REPOSITORY, FILES)
        yield hub


@pytest.fixture
def place(hub: FakeHub, tmp_path: Path) -> Place:
    return Place(hub, tmp_path)


def pulls_of(place: Place, *recipes: Recipe) -> Pulls:
    return Pulls(place.store, recipes or [recipe()], PullOptions(patience=QUICK), variables=place.variables)


async def read(pulls: Pulls, wanted: Recipe) -> list[dict[str, Any]]:
    return [document async for document in pulls.pull(wanted)]


async def test_the_documents_are_those_of_ollamas_pull(place: Place) -> None:
    said = await read(pulls_of(place), recipe())
    assert said[0] == {"status": "pulling manifest"}
    assert said[-1] == {"status": "success"}
    assert {
        "status": "pulling model.safetensors",
        "digest": f"sha256:{digest_of(WEIGHTS)}",
        "total": len(WEIGHTS),
        "completed": len(WEIGHTS),
    } in said
    assert await asyncio.to_thread(place.files, recipe()) == FILES


async def test_a_model_that_is_here_is_a_success_at_once(hub: FakeHub, place: Place) -> None:
    await read(pulls_of(place), recipe())
    hub.requests.clear()
    assert (await read(pulls_of(place), recipe()))[-1] == {"status": "success"}
    assert hub.requests == []


async def test_a_refusal_is_the_last_document(place: Place) -> None:
    place.more["OFFLINE"] = "1"
    said = await read(pulls_of(place), recipe())
    assert said[-1].keys() == {"error"}
    assert "OFFLINE=1 forbids the network" in said[-1]["error"]


async def test_who_joins_sees_the_same_pull(hub: FakeHub, place: Place) -> None:
    gate = threading.Event()
    hub.fail("model.safetensors", drop_after=HALF, gate=gate)
    pulls = pulls_of(place)
    first = asyncio.create_task(read(pulls, recipe()))
    assert await asyncio.to_thread(hub.held.wait, 30)
    second = asyncio.create_task(read(pulls, recipe()))
    await asyncio.sleep(0)
    assert pulls.is_pulling("tiny")
    gate.set()
    assert (await first)[-1] == (await second)[-1] == {"status": "success"}
    assert hub.served["model.safetensors"] == len(WEIGHTS)
    assert not pulls.is_pulling("tiny")


async def test_the_last_who_leaves_stops_it_and_the_next_goes_on(hub: FakeHub, place: Place) -> None:
    gate = threading.Event()
    hub.fail("model.safetensors", drop_after=HALF, gate=gate)
    pulls = pulls_of(place)
    stays, leaves = pulls.pull(recipe()), pulls.pull(recipe())
    await anext(stays)
    await anext(leaves)
    assert await asyncio.to_thread(hub.held.wait, 30)
    await eventually(lambda: place.partial_bytes() == HALF)
    await leaves.aclose()
    assert pulls.is_pulling("tiny")
    await stays.aclose()
    await eventually(lambda: not pulls.is_pulling("tiny"))
    gate.set()
    assert not await asyncio.to_thread(place.store.is_present, recipe())

    assert (await read(pulls, recipe()))[-1] == {"status": "success"}
    assert await asyncio.to_thread(place.files, recipe()) == FILES
    last = [headers for _, path, headers in hub.requests if path.startswith("/store/")][-1]
    assert last["range"] == f"bytes={HALF}-"


async def test_who_comes_while_it_is_being_stopped_starts_it_again(hub: FakeHub, place: Place) -> None:
    gate = threading.Event()
    hub.fail("model.safetensors", drop_after=HALF, gate=gate)
    pulls = pulls_of(place)
    leaves = pulls.pull(recipe())
    await anext(leaves)
    assert await asyncio.to_thread(hub.held.wait, 30)
    await leaves.aclose()
    assert pulls.is_pulling("tiny")
    said = await read(pulls, recipe())
    gate.set()
    assert said[-1] == {"status": "success"}


async def test_closing_the_service_stops_every_pull(hub: FakeHub, place: Place) -> None:
    gate = threading.Event()
    hub.fail("model.safetensors", drop_after=HALF, gate=gate)
    pulls = pulls_of(place)
    watching = asyncio.create_task(read(pulls, recipe()))
    assert await asyncio.to_thread(hub.held.wait, 30)
    await pulls.close()
    gate.set()
    assert (await watching)[-1]["error"].endswith("pull again: it goes on from there")


async def test_a_model_is_deleted_but_not_while_it_is_pulled(hub: FakeHub, place: Place) -> None:
    gate = threading.Event()
    hub.fail("model.safetensors", drop_after=HALF, gate=gate)
    pulls = pulls_of(place)
    pulling = asyncio.create_task(read(pulls, recipe()))
    assert await asyncio.to_thread(hub.held.wait, 30)
    with pytest.raises(PullError, match="is being pulled"):
        await pulls.delete(recipe())
    gate.set()
    await pulling
    assert await pulls.delete(recipe()) == sum(map(len, FILES.values()))
    assert not await asyncio.to_thread(place.store.is_present, recipe())

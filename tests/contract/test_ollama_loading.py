"""Ollama's own client loads, keeps, unloads, pulls and deletes models that the engines service has."""

import contextlib
import datetime
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import httpx
import ollama
import pytest

from services.gateway.app import create_app
from services.gateway.demands import LeaseTimes
from services.gateway.settings import GatewaySettings
from tests.contract.test_openai_client import ask
from tests.testkit.fake_engines_service import FakeEnginesService, fake_engines
from tests.testkit.server import in_thread, running

KEY = "sk-spark-contract-tests"
TIMES = LeaseTimes(renew_s=0.2, idle_s=0.1, tick_s=0.02)


@dataclass(frozen=True)
class Loading:
    """A gateway, the client, and the engines service behind it."""

    url: str
    client: ollama.Client
    engines: FakeEnginesService


@contextlib.asynccontextmanager
async def running_gateway() -> AsyncIterator[tuple[str, FakeEnginesService]]:
    async with fake_engines() as engines:
        await engines.add("small", aliases=("s",), load_s=0.05, on_gpu=True)
        await engines.add("second")
        await engines.add("absent", state="missing")
        settings = GatewaySettings(api_keys=(KEY,), engines_url=engines.url, engines_key=engines.key)
        async with running(create_app(settings, times=TIMES)) as url:
            yield url, engines


@pytest.fixture
def loading() -> Iterator[Loading]:
    with (
        in_thread(running_gateway()) as (url, engines),
        ollama.Client(host=url, headers={"Authorization": f"Bearer {KEY}"}) as client,
    ):
        yield Loading(url, client, engines)


def until(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def running_models(client) -> dict:
    return {model.model: model for model in client.ps().models}


# --- loading ----------------------------------------------------------------------------------------------------


def test_all_models_are_listed_and_none_runs(loading):
    assert [model.model for model in loading.client.list().models] == ["small", "second"], "what is not here is not"
    assert running_models(loading.client) == {}


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_loads_its_model(loading, stream):
    answer = loading.client.chat("s", ask("echo: one two"), stream=stream)
    text = "".join(part.message.content for part in answer) if stream else answer.message.content

    assert text == "one two"
    until(lambda: set(running_models(loading.client)) == {"small"})


def test_an_empty_prompt_loads_and_zero_unloads(loading):
    loaded = loading.client.generate("small", "", keep_alive="10m")
    assert (loaded.done, loaded.done_reason, loaded.response) == (True, "load", "")
    until(lambda: set(running_models(loading.client)) == {"small"})
    until(lambda: loading.engines.keep_alive == {"small": 600})

    gone = loading.client.chat("small:latest", keep_alive=0)
    assert (gone.done, gone.done_reason) == (True, "unload")
    assert running_models(loading.client) == {}
    assert loading.engines.models["small"].state == "stopped"


@pytest.mark.parametrize(("keep_alive", "seconds"), [("5m", 300), (90, 90), (-1, -1), ("-1m", -1), ("1h30m", 5400)])
def test_how_long_it_stays_is_told_when_it_is_let_go(loading, keep_alive, seconds):
    loading.client.chat("small", ask("echo: hello"), keep_alive=keep_alive)

    until(lambda: loading.engines.keep_alive == {"small": seconds})
    assert loading.engines.models["small"].state == "ready"


def test_zero_unloads_it_right_after_the_answer(loading):
    assert loading.client.chat("small", ask("echo: hello"), keep_alive=0).message.content == "hello"

    until(lambda: loading.engines.models["small"].state == "stopped")


def test_nothing_is_said_where_nothing_was_asked(loading):
    loading.client.chat("small", ask("echo: hello"))

    until(lambda: loading.engines.calls("DELETE", "/leases/"))
    assert loading.engines.keep_alive == {}


def test_a_keep_alive_that_is_none_is_refused_in_words(loading):
    with pytest.raises(ollama.ResponseError, match="keep_alive: 'soon' is neither") as raised:
        loading.client.chat("small", ask("echo: hello"), keep_alive="soon")

    assert raised.value.status_code == 400


def test_embed_without_a_text_loads_too(loading):
    loading.client.embed("small", keep_alive=60)

    assert loading.engines.models["small"].loads == 1
    until(lambda: loading.engines.keep_alive == {"small": 60})


def test_what_runs_says_until_when_and_how_much_memory_it_holds(loading):
    ends = datetime.datetime.now(datetime.UTC) + datetime.timedelta(minutes=5)
    loading.engines.models["small"].expires_at = ends.timestamp()
    loading.client.generate("small", "")
    loading.client.generate("second", "")
    until(lambda: set(running_models(loading.client)) == {"small", "second"})

    running = running_models(loading.client)
    assert abs(running["small"].expires_at - ends) < datetime.timedelta(seconds=1)
    assert (running["small"].size, running["small"].size_vram) == (2000, 2000)
    assert running["second"].size_vram == 0, "it runs on the CPU"
    assert running["second"].expires_at.year > 2100, "as Ollama says of what stays for good"
    assert running["small"].context_length == 4096


def test_a_model_that_does_not_fit_is_told_in_words(loading):
    loading.engines.models["second"].refusal = (503, "insufficient_memory", "second needs 80 GiB; unload small")
    for call in (
        lambda: loading.client.chat("second", ask("hello")),
        lambda: list(loading.client.chat("second", ask("hello"), stream=True)),
        lambda: loading.client.generate("second", ""),
    ):
        with pytest.raises(ollama.ResponseError, match="unload small") as raised:
            call()
        assert raised.value.status_code == 503


# --- files ------------------------------------------------------------------------------------------------------


def test_a_model_is_pulled_with_progress(loading):
    total = 1000
    loading.engines.models["absent"].pulled = (
        {"status": "pulling manifest"},
        {"status": "pulling abc", "digest": "sha256:abc", "total": total, "completed": 400},
        {"status": "pulling abc", "digest": "sha256:abc", "total": total, "completed": total},
        {"status": "success"},
    )
    steps = list(loading.client.pull("absent:latest", stream=True))

    assert [step.completed for step in steps] == [None, 400, 1000, None]
    assert steps[1].digest == "sha256:abc"
    assert steps[-1].status == "success"
    until(lambda: "absent" in [model.model for model in loading.client.list().models])
    assert loading.client.chat("absent", ask("echo: here")).message.content == "here"


def test_a_pull_that_is_no_stream_answers_once(loading):
    assert loading.client.pull("absent").status == "success"


@pytest.mark.parametrize("stream", [False, True])
def test_a_pull_that_fails_says_why(loading, stream):
    loading.engines.models["absent"].pulled = ({"status": "pulling manifest"}, {"error": "the disk is full"})
    with pytest.raises(ollama.ResponseError, match="the disk is full"):
        list(loading.client.pull("absent", stream=stream))


@pytest.mark.parametrize("stream", [False, True])
def test_a_pull_of_what_nobody_knows_has_a_status(loading, stream):
    with pytest.raises(ollama.ResponseError) as raised:
        list(loading.client.pull("nothing", stream=stream))

    assert raised.value.status_code == 404
    assert raised.value.error == "there is no model 'nothing'"


def test_a_model_is_deleted(loading):
    assert loading.client.delete("small").status == "success"

    assert [model.model for model in loading.client.list().models] == ["second"]
    with pytest.raises(ollama.ResponseError, match="sparkstack pull small") as raised:
        loading.client.chat("small", ask("hello"))
    assert raised.value.status_code == 404


def test_what_is_asked_for_is_named(loading):
    for method, path in (("POST", "/api/pull"), ("DELETE", "/api/delete")):
        answer = httpx.request(method, loading.url + path, json={}, headers={"Authorization": f"Bearer {KEY}"})
        assert (answer.status_code, answer.json()) == (400, {"error": "model: which one? GET /api/tags lists them"})

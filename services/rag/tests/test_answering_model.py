import time

import pytest

from services.kit.errors import EngineInvalidResponse, EngineUnreachable
from services.rag.errors import ModelRefused
from services.rag.generator import HttpGenerator, ModelFacts, parameters_in_name
from services.rag.ports import Caller
from tests.testkit.ports import free_port
from tests.testkit.server import eventually, fake_engine

_ASK = [{"role": "user", "content": "echo: one two three"}]
_CALLER = Caller("alice", {"x-sparkstack-hops": "2", "x-request-id": "r1"})


@pytest.fixture
async def engine():
    async with fake_engine(any_model=True) as engine:
        yield engine


@pytest.fixture
async def model(engine):
    model = HttpGenerator(engine.url, "inner", "small-135m")
    yield model
    await model.close()


def text_of(events):
    deltas = [event["choices"][0]["delta"] for event in events if event.get("choices")]
    return "".join(delta.get("content") or "" for delta in deltas)


async def test_a_whole_answer_with_its_tokens(engine, model):
    answer = await model.generate(_ASK, _CALLER, max_tokens=32, temperature=0.0, seed=None)
    assert (answer.text, answer.finish_reason) == ("one two three", "stop")
    assert answer.completion_tokens == 3
    [request] = engine.requests("/v1/chat/completions")
    assert request["headers"]["authorization"] == "Bearer inner"
    assert request["headers"]["x-sparkstack-hops"] == "2"
    assert request["headers"]["x-request-id"] == "r1"
    assert request["body"]["model"] == "small-135m"
    assert request["body"]["temperature"] == 0
    assert "seed" not in request["body"]


async def test_a_stream_ends_with_its_usage(model):
    events = [event async for event in model.stream(_ASK, _CALLER, max_tokens=32, model="other")]
    assert text_of(events) == "one two three"
    assert events[-1]["usage"]["completion_tokens"] == 3


async def test_a_stream_that_is_left_ends_at_the_engine_within_100_ms(engine, model):
    engine.script(path="/v1/chat/completions", tokens_per_s=5)
    stream = model.stream([{"role": "user", "content": "words"}], _CALLER, max_tokens=500)
    await anext(stream)
    left_at = time.monotonic()
    await stream.aclose()
    await eventually(lambda: engine.state().cancelled)
    assert engine.state().cancellations[0].noticed_at_s - left_at < 0.1


async def test_a_comment_says_that_the_answer_is_waited_for(engine, model):
    engine.script(path="/v1/chat/completions", comment_every=1)
    events = [event async for event in model.stream(_ASK, _CALLER, max_tokens=32)]
    assert {} in events
    assert text_of(events) == "one two three"


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_refusal_keeps_its_status_and_its_wait(engine, model, streamed):
    engine.script(path="/v1/chat/completions", status=429, retry_after=7)
    stream = model.stream(_ASK, _CALLER, max_tokens=32)
    with pytest.raises(ModelRefused) as caught:
        await (anext(stream) if streamed else model.generate(_ASK, _CALLER, max_tokens=32))
    assert (caught.value.status, caught.value.retry_after_s) == (429, 7)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"die_after": 1}, EngineUnreachable),
        ({"error_event": 1}, ModelRefused),
        ({"no_done": 1}, EngineUnreachable),
        ({"garbage": "json"}, EngineInvalidResponse),
    ],
)
async def test_a_stream_that_breaks_is_an_error_and_not_an_end(engine, model, fault, error):
    engine.script(path="/v1/chat/completions", **fault)
    with pytest.raises(error):
        async for _ in model.stream(_ASK, _CALLER, max_tokens=32):
            pass


async def test_a_gateway_that_is_not_there_is_named():
    model = HttpGenerator(f"http://127.0.0.1:{free_port()}", "", "m-7b")
    with pytest.raises(EngineUnreachable, match="RAG_GATEWAY_URL"):
        await model.generate(_ASK, _CALLER, max_tokens=8)
    assert await model.facts("") == ModelFacts("m-7b", 4096, 7_000_000_000)
    await model.close()


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("smollm2-135m-gguf", 135_000_000),
        ("qwen3.6-35b-a3b-nvfp4", 35_000_000_000),
        ("phi-1.5b", 1_500_000_000),
        ("default", None),
        ("model-v2", None),
    ],
)
def test_a_models_name_tells_its_size(name, parameters):
    assert parameters_in_name(name) == parameters

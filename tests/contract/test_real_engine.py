"""OpenAI's and Ollama's own clients against the gateway in front of a real engine: llama.cpp with the default model.

What a model of this size says is not asserted, but for what the wire guarantees: lengths, schemas, counts.
"""

import asyncio
import contextlib
import json
from pathlib import Path

import httpx
import ollama
import openai
import pydantic
import pytest

from services.engines.files.packaged import locate
from services.engines.loading.launching import launch_spec
from services.engines.offers import find_offer, offers_here
from services.engines.recipes import load_recipes
from services.gateway.app import create_app
from services.gateway.settings import GatewaySettings
from tests.contract.test_openai_client import ask
from tests.testkit.server import free_port, in_thread, run_process, running

pytestmark = pytest.mark.slow
KEY = "sk-spark-real"
CONTEXT = 1024


@contextlib.asynccontextmanager
async def running_stack(folder: Path):
    variables = {"LLAMACPP_CONTEXT": str(CONTEXT), "LLAMACPP_SLOTS": "4"}
    offer = find_offer("smollm2", offers_here(load_recipes(), variables))
    port = free_port()
    spec, _, _ = launch_spec(offer, locate(offer.recipe.source), port, api_key="", variables=variables)
    backend = {
        "name": "llamacpp",
        "url": f"http://127.0.0.1:{port}",
        "engine": "llamacpp",
        "models": [offer.facts(offer.recipe.aliases)],
    }
    (folder / "catalogue.json").write_text(json.dumps({"default": offer.id, "backends": [backend]}))
    settings = GatewaySettings(api_keys=(KEY,), catalogue=folder / "catalogue.json")
    async with (
        run_process(list(spec.command), ready_url=f"http://127.0.0.1:{port}/health", timeout_s=60),
        running(create_app(settings)) as url,
    ):
        yield url


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with in_thread(running_stack(tmp_path_factory.mktemp("real"))) as url:
        yield url


@pytest.fixture
def client(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture
def ollama_client(url):
    with ollama.Client(host=url, headers={"Authorization": f"Bearer {KEY}"}) as client:
        yield client


# --- OpenAI's client --------------------------------------------------------------------------------------------


def test_a_question_is_answered_by_every_name_of_the_model(client):
    same = {"messages": ask("Name the capital of France."), "temperature": 0, "max_completion_tokens": 12}

    answers = [client.chat.completions.create(model=name, **same) for name in ("smollm2", "gpt-4o-mini", "default")]

    assert {answer.choices[0].message.role for answer in answers} == {"assistant"}
    assert len({answer.choices[0].message.content for answer in answers}) == 1
    assert all(answer.choices[0].message.content for answer in answers)
    for usage in (answer.usage for answer in answers):
        assert 0 < usage.completion_tokens <= 12
        assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_a_stream_says_the_same_as_a_whole_answer(client):
    same = {"model": "smollm2", "messages": ask("Say hello."), "temperature": 0, "max_completion_tokens": 12}

    whole = client.chat.completions.create(**same)
    chunks = list(client.chat.completions.create(**same, stream=True, stream_options={"include_usage": True}))

    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)


def test_no_usage_comes_where_nobody_asked(client):
    chunks = client.chat.completions.create(model="smollm2", messages=ask("Say hello."), stream=True, max_tokens=4)

    assert all(chunk.choices and chunk.usage is None for chunk in chunks)


class Person(pydantic.BaseModel):
    name: str
    age: int
    is_student: bool


def test_an_answer_follows_a_schema(client):
    answer = client.chat.completions.parse(
        model="smollm2",
        messages=ask("Ada Lovelace is 36 years old and no student. Answer in JSON."),
        response_format=Person,
        temperature=0,
    )

    assert isinstance(answer.choices[0].message.parsed, Person)


def test_length_stop_and_logprobs_are_the_engines_own(client):
    cut = client.chat.completions.create(
        model="smollm2", messages=ask("Count to ten."), max_tokens=5, logprobs=True, top_logprobs=2, temperature=0
    )
    stopped = client.completions.create(model="smollm2", prompt="one, two, three, four,", stop=["six"], temperature=0)

    assert cut.choices[0].finish_reason == "length"
    assert cut.usage.completion_tokens == 5
    assert len(cut.choices[0].logprobs.content) == 5
    assert all(len(token.top_logprobs) == 2 for token in cut.choices[0].logprobs.content)
    assert "six" not in stopped.choices[0].text


async def test_many_at_once_are_all_answered(url):
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
        answers = await asyncio.gather(
            *(
                client.chat.completions.create(model="smollm2", messages=ask(f"Say {n}."), max_completion_tokens=8)
                for n in range(8)
            )
        )

    assert all(answer.choices[0].message.content for answer in answers)


async def test_a_stream_that_is_closed_is_counted_and_leaves_the_engine_free(url):
    async with (
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client,
        httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {KEY}"}) as status,
    ):
        stream = await client.chat.completions.create(
            model="smollm2", messages=ask("Tell a long story."), stream=True, extra_body={"ignore_eos": True}
        )
        async for _ in stream:
            break
        await stream.close()

        async with asyncio.timeout(60):
            while (await status.get("/status")).json()["live"]:
                await asyncio.sleep(0.01)
        assert (await status.get("/status")).json()["totals"]["cancelled"] == 1
        answer = await client.chat.completions.create(model="smollm2", messages=ask("Hi."), max_completion_tokens=2)
        assert answer.usage.completion_tokens == 2


def test_a_prompt_above_the_context_is_told_by_its_code(client):
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model="smollm2", messages=ask("word " * 2000))

    assert raised.value.code == "context_length_exceeded"
    assert str(CONTEXT) in raised.value.message


def test_a_model_that_is_not_here_is_not_found_though_the_engine_answers_to_any_name(client):
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="gpt-99", messages=ask("hello"))


def test_embeddings_of_a_chat_model_are_not_supported(client):
    with pytest.raises(openai.BadRequestError) as raised:
        client.embeddings.create(model="smollm2", input="hello")

    assert raised.value.code == "unsupported_parameter"


@pytest.mark.parametrize("fields", [{"response_format": {"type": "poem"}}, {"messages": [{"role": "user"}]}])
def test_what_only_the_engine_understands_it_refuses_as_a_bad_request(client, fields):
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model="smollm2", messages=ask("hello"), extra_body=fields)

    assert raised.value.code == "invalid_request"


# --- Ollama's client --------------------------------------------------------------------------------------------


def test_models_have_their_real_details(ollama_client):
    model = ollama_client.list().models[0]
    shown = ollama_client.show("smollm2:latest")

    assert model.details.format == "gguf"
    assert model.details.parameter_size == "134.5M"
    assert model.size > 90_000_000
    assert shown.modelinfo[f"{shown.modelinfo['general.architecture']}.context_length"] == CONTEXT
    assert ollama_client.ps().models[0].model == model.model


@pytest.mark.parametrize("stream", [False, True])
def test_timings_are_the_engines_own(ollama_client, stream):
    answer = ollama_client.chat("smollm2", ask("Say hello."), options={"num_predict": 8}, stream=stream)
    last = list(answer)[-1] if stream else answer

    assert last.eval_count <= 8
    assert last.prompt_eval_count > 0
    assert 0 < last.eval_duration < last.total_duration
    assert 0 < last.prompt_eval_duration < last.total_duration


@pytest.mark.parametrize("stream", [False, True])
def test_an_ollama_answer_follows_a_schema(ollama_client, stream):
    answer = ollama_client.chat(
        "smollm2", ask("Ada is 36."), format=Person.model_json_schema(), options={"temperature": 0}, stream=stream
    )

    Person.model_validate_json("".join(part.message.content for part in (answer if stream else [answer])))


def test_a_raw_prompt_is_continued(ollama_client):
    answer = ollama_client.generate(
        "smollm2", "one, two, three,", raw=True, options={"num_predict": 4, "temperature": 0}, logprobs=True
    )

    assert "four" in answer.response
    assert answer.done_reason == "length"
    assert "".join(token.token for token in answer.logprobs) == answer.response

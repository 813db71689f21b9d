"""Ollama's own client, as anyone has it installed, against the gateway in front of an OpenAI-compatible engine."""

import datetime
import json
import math
import re

import httpx
import ollama
import pydantic
import pytest

from services.gateway.app import create_app
from services.gateway.settings import GatewaySettings
from tests.contract.conftest import MODELS
from tests.contract.test_openai_client import UNICODE, ask
from tests.testkit.fake_services import ANSWER
from tests.testkit.server import in_thread, running

PNG = b"\x89PNG\r\n\x1a\n" + bytes(8)


@pytest.fixture
def client(stack):
    with ollama.Client(host=stack.url, headers={"Authorization": f"Bearer {stack.key}"}) as client:
        yield client


@pytest.fixture
async def async_client(stack):
    async with ollama.AsyncClient(host=stack.url, headers={"Authorization": f"Bearer {stack.key}"}) as client:
        yield client


def get_weather(city: str, days: int) -> str:
    """Tell the weather.

    Args:
      city: where
      days: how many of them
    """
    return f"rain in {city} for {days} days"


def check_ending(answer, *, prompt=True):
    """Assert that the last part tells why it ended and gives timings in nanoseconds that add up."""
    assert answer.done is True
    assert answer.done_reason == "stop"
    assert answer.eval_count > 0
    assert (answer.prompt_eval_count > 0) is prompt
    assert 0 < answer.total_duration < 60e9
    assert answer.load_duration == 0
    assert 0 <= answer.prompt_eval_duration <= answer.total_duration
    assert 0 <= answer.eval_duration <= answer.total_duration
    assert datetime.datetime.fromisoformat(answer.created_at).tzinfo is not None


# --- models -----------------------------------------------------------------------------------------------------


def test_models_are_listed_with_their_details(client):
    models = {model.model: model for model in client.list().models}

    assert set(models) == MODELS
    model = models["fake-chat"]
    assert model.size == 96_576_768
    assert re.fullmatch(r"[0-9a-f]{64}", model.digest)
    assert model.modified_at.tzinfo is not None
    assert model.details.parameter_size == "134.5M"
    assert model.details.quantization_level == "Q4_1"


@pytest.mark.parametrize("name", ["fake-chat", "fake-chat:latest", "gpt-4o-mini", "default:latest"])
def test_a_model_is_shown_by_every_name(client, name):
    shown = client.show(name)

    assert shown.capabilities == ["completion"]
    assert shown.modelinfo["general.parameter_count"] == 134_515_008
    assert shown.modelinfo[f"{shown.modelinfo['general.architecture']}.context_length"] == 8192
    assert "fake-chat" in shown.modelfile


@pytest.mark.parametrize("name", ["rag/handbook", "rag/handbook:latest"])
def test_a_collection_is_a_model_like_any_other(client, name):
    pieces = [part.message.content for part in client.chat(name, ask("The key?"), stream=True)]

    assert client.chat(name, ask("The key?")).message.content == "".join(pieces) == ANSWER
    assert client.generate(name, "The key?").response == ANSWER
    assert "completion" in client.show(name).capabilities


def test_vectors_come_from_the_service_that_makes_them(client):
    assert [len(vector) for vector in client.embed("mini:latest", ["a", "b"]).embeddings] == [8, 8]
    assert client.show("mini").capabilities == ["embedding"]


def test_running_models_are_those_of_servers_that_answer_and_no_collections(client):
    running = {model.model: model for model in client.ps().models}

    assert set(running) == MODELS - {"rag/handbook"}
    assert running["fake-chat"].context_length == 8192
    assert running["fake-chat"].expires_at > datetime.datetime.now(datetime.UTC)


# --- chat -------------------------------------------------------------------------------------------------------


def test_a_chat_is_answered(client):
    answer = client.chat("gpt-4o-mini", ask(f"echo: {UNICODE}"))

    assert answer.message.role == "assistant"
    assert answer.message.content == UNICODE
    assert answer.model == "gpt-4o-mini"  # as it was asked for
    check_ending(answer)


def test_a_chat_is_streamed_in_pieces(client):
    whole = client.chat("fake-chat", ask("tell me something"))
    parts = list(client.chat("fake-chat", ask("tell me something"), stream=True))

    assert "".join(part.message.content for part in parts) == whole.message.content
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert len(parts) > whole.eval_count
    assert (parts[-1].prompt_eval_count, parts[-1].eval_count) == (whole.prompt_eval_count, whole.eval_count)
    check_ending(parts[-1])


async def test_the_asynchronous_client_chats(async_client):
    answer = await async_client.chat("fake-chat", ask("echo: one two"))
    parts = [part async for part in await async_client.chat("fake-chat", ask("echo: one two"), stream=True)]

    assert answer.message.content == "one two"
    assert "".join(part.message.content for part in parts) == "one two"
    check_ending(parts[-1])


def test_a_name_with_latest_leads_to_the_model(client, stack):
    answer = client.chat("fake-chat:latest", ask("hello"))

    assert answer.model == "fake-chat:latest"
    assert stack.last_body()["model"] == "fake-chat"


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_was_cut_says_so(client, stream):
    answer = client.chat("fake-chat", ask("hello"), options={"num_predict": 3}, stream=stream)
    last = list(answer)[-1] if stream else answer

    assert last.done_reason == "length"
    assert last.eval_count == 3


def test_options_become_the_engines_own(client, stack):
    options = ollama.Options(
        temperature=0.5,
        top_k=20,
        top_p=0.9,
        seed=42,
        stop=["END"],
        num_predict=7,
        repeat_penalty=1.1,
        presence_penalty=0.2,
        frequency_penalty=0.3,
        num_ctx=2048,
    )

    client.chat("fake-chat", ask("hello"), options=options, keep_alive="5m")

    body = stack.last_body()
    assert body == {
        "model": "fake-chat",
        "messages": ask("hello"),
        "temperature": 0.5,
        "top_k": 20,
        "top_p": 0.9,
        "seed": 42,
        "stop": ["END"],
        "max_tokens": 7,
        "repeat_penalty": 1.1,
        "presence_penalty": 0.2,
        "frequency_penalty": 0.3,
        "stream": False,
    }


def test_without_a_limit_none_is_sent(client, stack):
    client.chat("fake-chat", ask("hello"), options={"num_predict": -1})

    assert "max_tokens" not in stack.last_body()


@pytest.mark.parametrize("keep_alive", [0, -1, 300, 1.5, "5m", "-1"])
def test_any_keep_alive_is_accepted(client, keep_alive):
    assert client.chat("fake-chat", ask("echo: hi"), keep_alive=keep_alive).message.content == "hi"


def test_images_reach_the_engine_as_data_urls(client, stack):
    client.chat("fake-chat", [{"role": "user", "content": "what is it?", "images": [PNG]}])

    text, image = stack.last_body()["messages"][0]["content"]
    assert text == {"type": "text", "text": "what is it?"}
    assert image["type"] == "image_url"
    assert image["image_url"]["url"].startswith("data:image/png;base64,iVBORw0KGgo")


@pytest.mark.parametrize("stream", [False, True])
def test_thinking_comes_apart_from_the_answer(client, stack, stream):
    answer = client.chat("fake-chat", ask("echo: done"), think="low", stream=stream)
    parts = list(answer) if stream else [answer]

    assert "".join(part.message.content for part in parts) == "done"
    assert len("".join(part.message.thinking or "" for part in parts).split()) == 8
    assert stack.last_body()["reasoning_effort"] == "low"


@pytest.mark.parametrize("think", [False, True])
def test_thinking_is_switched_in_the_template(client, stack, think):
    client.chat("fake-chat", ask("hello"), think=think)

    assert stack.last_body()["chat_template_kwargs"] == {"enable_thinking": think}


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_come_with_the_tokens(client, stream):
    answer = client.chat("fake-chat", ask("echo: one two"), logprobs=True, top_logprobs=2, stream=stream)

    tokens = [token for part in (answer if stream else [answer]) for token in part.logprobs or ()]
    assert "".join(token.token for token in tokens) == "one two"
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in tokens)


# --- formats and tools ------------------------------------------------------------------------------------------


class Place(pydantic.BaseModel):
    name: str
    population: int


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_follows_a_schema(client, stack, stream):
    answer = client.chat("fake-chat", ask("'Basel' has 170000 people"), format=Place.model_json_schema(), stream=stream)

    text = "".join(part.message.content for part in (answer if stream else [answer]))
    assert Place.model_validate_json(text) == Place(name="Basel", population=170_000)
    assert stack.last_body()["response_format"]["json_schema"]["schema"] == Place.model_json_schema()


def test_json_format_gives_json(client, stack):
    answer = client.generate("fake-chat", "keys 'name' and 'city'", format="json")

    assert set(json.loads(answer.response)) == {"name", "city"}
    assert stack.last_body()["response_format"] == {"type": "json_object"}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("index", [False, True], ids=["engine without index", "engine with index"])
def test_tools_are_called_whole_and_their_results_used(client, stack, stream, index):
    stack.engine.script(path="/v1/chat/completions", no_tool_index=not index)
    messages = ask("get_weather for 'Basel' and 3 days")

    answer = client.chat("fake-chat", messages, tools=[get_weather], stream=stream)
    parts = list(answer) if stream else [answer]

    calls = [call for part in parts for call in part.message.tool_calls or ()]
    assert [(call.function.name, call.function.arguments) for call in calls] == [
        ("get_weather", {"city": "Basel", "days": 3})
    ]
    assert parts[-1].done
    sent = stack.last_body()["tools"][0]
    assert sent["type"] == "function"
    assert sent["function"]["name"] == "get_weather"
    assert sent["function"]["parameters"]["required"] == ["city", "days"]

    called = next(part.message for part in parts if part.message.tool_calls)
    result = {"role": "tool", "tool_name": "get_weather", "content": get_weather(**calls[0].function.arguments)}
    final = client.chat("fake-chat", [*messages, called, result], tools=[get_weather])

    assert final.message.content == "The tool answered: rain in Basel for 3 days"
    _, assistant, tool = stack.last_body()["messages"]
    assert assistant["tool_calls"][0]["id"] == tool["tool_call_id"]
    assert json.loads(assistant["tool_calls"][0]["function"]["arguments"]) == {"city": "Basel", "days": 3}


def test_results_of_two_calls_go_to_their_calls(client, stack):
    calls = [{"function": {"name": name, "arguments": {"n": n}}} for n, name in enumerate(["first", "second"])]
    client.chat(
        "fake-chat",
        [
            *ask("go on"),
            {"role": "assistant", "tool_calls": calls},
            {"role": "tool", "tool_name": "second", "content": "2"},
            {"role": "tool", "tool_name": "first", "content": "1"},
        ],
    )

    _, assistant, second, first = stack.last_body()["messages"]
    ids = {call["function"]["name"]: call["id"] for call in assistant["tool_calls"]}
    assert ids == {"first": first["tool_call_id"], "second": second["tool_call_id"]}
    assert len(set(ids.values())) == 2


# --- generate ---------------------------------------------------------------------------------------------------


def test_a_prompt_is_a_chat_of_one_turn(client, stack):
    answer = client.generate("fake-chat", "echo: hello", system="You are brief.")

    assert answer.response == "hello"
    assert stack.last_body()["messages"] == [{"role": "system", "content": "You are brief."}, *ask("echo: hello")]
    check_ending(answer)


async def test_a_prompt_is_streamed(async_client):
    parts = [part async for part in await async_client.generate("fake-chat", "echo: one two", stream=True)]

    assert "".join(part.response for part in parts) == "one two"
    check_ending(parts[-1])


def test_images_of_a_prompt_reach_the_engine(client, stack):
    client.generate("fake-chat", "what is it?", images=[PNG])

    assert stack.last_body()["messages"][0]["content"][1]["type"] == "image_url"


def test_a_raw_prompt_is_completed_without_a_template(client, stack):
    answer = client.generate("fake-chat", "echo: as it is", raw=True, options={"num_predict": 2})

    assert answer.response == "as it"
    assert answer.done_reason == "length"
    assert stack.last_body("/v1/completions")["prompt"] == "echo: as it is"


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_of_a_raw_prompt_come_with_the_tokens(client, stack, stream):
    answer = client.generate("fake-chat", "echo: one two", raw=True, logprobs=True, top_logprobs=2, stream=stream)

    tokens = [token for part in (answer if stream else [answer]) for token in part.logprobs or ()]
    assert stack.last_body("/v1/completions")["logprobs"] == 2
    assert "".join(token.token for token in tokens) == "one two"
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in tokens)


def test_a_suffix_is_sent_for_filling_in(client, stack):
    answer = client.generate("fake-chat", "def f():", suffix="return x")

    assert answer.response
    body = stack.last_body("/v1/completions")
    assert (body["prompt"], body["suffix"]) == ("def f():", "return x")


def test_a_template_of_the_callers_is_refused_with_what_to_do(client):
    with pytest.raises(ollama.ResponseError, match="raw=true") as raised:
        client.generate("fake-chat", "hello", template="{{ .Prompt }}")

    assert raised.value.status_code == 400


@pytest.mark.parametrize(("keep_alive", "reason"), [(None, "load"), (300, "load"), (0, "unload")])
def test_an_empty_prompt_only_loads_the_model(client, stack, keep_alive, reason):
    generated = client.generate("fake-chat", "", keep_alive=keep_alive)
    chatted = client.chat("fake-chat", keep_alive=keep_alive)

    assert (generated.response, generated.done, generated.done_reason) == ("", True, reason)
    assert (chatted.message.content, chatted.done, chatted.done_reason) == ("", True, reason)
    assert stack.engine.requests() == []


# --- embeddings -------------------------------------------------------------------------------------------------


def test_texts_are_embedded(client, stack):
    one = client.embed("fake-embed", "one text")
    many = client.embed("fake-embed", ["one text", "another"], dimensions=8)

    assert len(one.embeddings) == 1
    assert math.isclose(sum(value * value for value in one.embeddings[0]), 1, rel_tol=1e-6)
    assert [len(vector) for vector in many.embeddings] == [8, 8]
    assert many.embeddings[0] != many.embeddings[1]
    assert many.prompt_eval_count == 3
    assert many.total_duration > 0
    assert stack.last_body("/v1/embeddings")["input"] == ["one text", "another"]


async def test_the_older_endpoint_embeds_too(async_client):
    older = await async_client.embeddings("fake-embed:latest", "one text")
    newer = await async_client.embed("fake-embed", "one text")

    assert list(older.embedding) == list(newer.embeddings[0])


def test_nothing_to_embed_only_loads_the_model(client, stack):
    assert client.embed("fake-embed").embeddings == []
    assert client.embed("fake-embed", []).embeddings == []
    assert client.embeddings("fake-embed").embedding == []
    assert stack.engine.requests() == []


# --- failures ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_an_unknown_model_is_not_found(client, stream):
    with pytest.raises(ollama.ResponseError) as raised:
        list(client.chat("nothing:latest", ask("hello"), stream=stream))

    assert raised.value.status_code == 404
    assert raised.value.error.startswith("there is no model 'nothing'")


def test_a_wrong_key_is_refused_in_words(stack):
    with ollama.Client(host=stack.url) as client, pytest.raises(ollama.ResponseError) as raised:
        client.list()

    assert raised.value.status_code == 401
    assert "Authorization: Bearer" in raised.value.error


def test_a_wrong_format_is_refused_in_words(client):
    with pytest.raises(ollama.ResponseError) as raised:
        client._request(
            ollama.ChatResponse,
            "POST",
            "/api/chat",
            json={"model": "fake-chat", "messages": ask("hello"), "format": "yaml", "stream": False},
        )

    assert raised.value.status_code == 400
    assert raised.value.error == "format: 'yaml' is neither 'json' nor a JSON schema"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fault", "status"),
    [({"status": 503}, 503), ({"status": 429}, 429), ({"status": 500}, 502), ({"die_head": True}, 502)],
)
def test_an_engines_failure_before_the_answer(client, stack, stream, fault, status):
    stack.engine.script(path="/v1/chat/completions", **fault)

    with pytest.raises(ollama.ResponseError) as raised:
        list(client.chat("fake-chat", ask("hello"), stream=stream))

    assert raised.value.status_code == status
    assert isinstance(raised.value.error, str)


@pytest.mark.parametrize("fault", [{"error_event": 3}, {"die_after": 3}, {"truncate": 3}])
def test_a_failure_in_the_middle_of_a_stream_raises_our_words(client, stack, fault):
    stack.engine.script(path="/v1/chat/completions", **fault)
    parts = []

    with pytest.raises(ollama.ResponseError, match="fake") as raised:
        parts.extend(client.chat("fake-chat", ask("echo: one two three four"), stream=True))

    assert "".join(part.message.content for part in parts) == "one two three"
    assert not any(part.done for part in parts)
    assert isinstance(raised.value.error, str)


def test_what_the_gateway_does_not_do_is_told_in_words(client):
    """Models come from recipes: nothing is pulled, copied or deleted through this API."""
    for refused in (
        lambda: client.pull("smollm2"),
        lambda: client.copy("fake-chat", "mine"),
        lambda: client.delete("fake-chat"),
    ):
        with pytest.raises(ollama.ResponseError) as raised:
            refused()
        assert raised.value.status_code == 404
        assert isinstance(raised.value.error, str)


def test_the_heartbeat_of_ollamas_command_line_is_answered(stack):
    """`HEAD /`, before each of its commands and without a key."""
    assert httpx.head(stack.url).status_code == 200


# --- without a key ----------------------------------------------------------------------------------------------


def test_a_client_of_this_machine_needs_no_key_where_that_is_allowed(stack):
    settings = GatewaySettings(api_keys=("sk-a",), backends={"fake": stack.engine.url}, allow_loopback_without_key=True)
    with in_thread(running(create_app(settings))) as url, ollama.Client(host=url) as client:
        assert client.chat("fake-chat", ask("echo: come in")).message.content == "come in"


def test_the_key_may_come_from_the_environment(stack, monkeypatch):
    monkeypatch.setenv("OLLAMA_API_KEY", stack.key)
    monkeypatch.setenv("OLLAMA_HOST", stack.url)
    with ollama.Client() as client:
        assert client.chat("fake-chat", ask("echo: hello")).message.content == "hello"

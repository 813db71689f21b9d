"""OpenAI's own client, as anyone has it installed, against the gateway: whole answers."""

import asyncio
import base64
import json
import math
import struct

import httpx
import openai
import pydantic
import pytest

from tests.contract.conftest import MODELS

UNICODE = 'naïve 🚀 你好 👩\u200d🚀 🇨🇭 مرحبا \u2028 \x00 "quoted" back\\slash'
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city", "days"],
        },
    },
}
TIME = {
    "type": "function",
    "function": {
        "name": "get_time",
        "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}, "required": ["zone"]},
    },
}


def ask(text):
    return [{"role": "user", "content": text}]


# --- chat -------------------------------------------------------------------------------------------------------


def test_a_chat_is_answered_with_its_usage(client):
    answer = client.chat.completions.create(model="fake-chat", messages=ask("echo: hello world"))

    assert answer.object == "chat.completion"
    assert answer.model == "fake-chat"
    assert [choice.index for choice in answer.choices] == [0]
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content == "hello world"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == 2
    assert answer.usage.prompt_tokens > 0
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 2


async def test_the_asynchronous_client_gets_the_same_answer(client, async_client):
    same = {"model": "fake-chat", "messages": ask("tell me something"), "seed": 7}

    plain = await asyncio.to_thread(client.chat.completions.create, **same)
    asynchronous = await async_client.chat.completions.create(**same)

    assert asynchronous.choices == plain.choices
    assert asynchronous.usage == plain.usage


async def test_answers_to_many_at_once_are_not_mixed_up(async_client):
    texts = [f"number {number}" for number in range(64)]

    answers = await asyncio.gather(
        *(async_client.chat.completions.create(model="fake-chat", messages=ask(f"echo: {text}")) for text in texts)
    )

    assert [answer.choices[0].message.content for answer in answers] == texts


@pytest.mark.parametrize("name", ["fake-chat", "fake/fake-chat", "gpt-4o-mini", "default"])
def test_every_name_of_a_model_leads_to_it(client, stack, name):
    client.chat.completions.create(model=name, messages=ask("hello"))

    assert stack.last_body()["model"] == "fake-chat"


def test_an_answer_is_cut_at_max_tokens(client):
    answer = client.chat.completions.create(model="fake-chat", messages=ask("hello"), max_completion_tokens=5)

    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 5


def test_an_answer_ends_before_a_stop_text(client):
    answer = client.chat.completions.create(model="fake-chat", messages=ask("echo: one two three four"), stop=["three"])

    assert answer.choices[0].message.content == "one two "
    assert answer.choices[0].finish_reason == "stop"


def test_n_answers_come_with_their_indices(client):
    answer = client.chat.completions.create(model="fake-chat", messages=ask("hello"), n=3)

    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) == 3


def test_logprobs_come_with_their_alternatives(client):
    answer = client.chat.completions.create(
        model="fake-chat", messages=ask("echo: one two three"), logprobs=True, top_logprobs=3
    )

    tokens = answer.choices[0].logprobs.content
    assert "".join(token.token for token in tokens) == "one two three"
    for token in tokens:
        assert token.logprob <= 0
        assert bytes(token.bytes).decode() == token.token
        assert token.top_logprobs[0].token == token.token
        assert len(token.top_logprobs) == 3


def test_text_of_any_script_arrives_unharmed_both_ways(client, stack):
    answer = client.chat.completions.create(model="fake-chat", messages=ask(f"echo: {UNICODE}"))

    assert answer.choices[0].message.content == UNICODE
    assert stack.last_body()["messages"] == ask(f"echo: {UNICODE}")


def test_reasoning_is_passed_on(client):
    answer = client.chat.completions.create(model="fake-chat", messages=ask("hello"), reasoning_effort="low")

    assert answer.choices[0].message.reasoning_content
    assert answer.usage.completion_tokens_details.reasoning_tokens > 0


def test_images_go_to_the_engine_as_they_came(client, stack):
    parts = [
        {"type": "text", "text": "what is it?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}},
    ]

    client.chat.completions.create(model="fake-chat", messages=[{"role": "user", "content": parts}])

    assert stack.last_body()["messages"][0]["content"] == parts


# --- tools and schemas ------------------------------------------------------------------------------------------


def test_a_tool_is_called_and_its_result_used(client):
    question = ask("get_weather for 'Basel' and 3 days")
    answer = client.chat.completions.create(model="fake-chat", messages=question, tools=[WEATHER, TIME])

    message = answer.choices[0].message
    assert answer.choices[0].finish_reason == "tool_calls"
    assert message.content is None
    assert [call.function.name for call in message.tool_calls] == ["get_weather"]
    assert json.loads(message.tool_calls[0].function.arguments) == {"city": "Basel", "days": 3}

    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "rain"}
    final = client.chat.completions.create(
        model="fake-chat", messages=[*question, message.model_dump(exclude_none=True), result], tools=[WEATHER, TIME]
    )
    assert final.choices[0].message.content == "The tool answered: rain"


def test_tools_are_called_in_parallel_unless_forbidden(client):
    both = {"model": "fake-chat", "tools": [WEATHER, TIME], "messages": ask("get_weather and get_time, please")}

    parallel = client.chat.completions.create(**both)
    single = client.chat.completions.create(**both, parallel_tool_calls=False)

    calls = parallel.choices[0].message.tool_calls
    assert [call.function.name for call in calls] == ["get_weather", "get_time"]
    assert len({call.id for call in calls}) == 2
    assert len(single.choices[0].message.tool_calls) == 1


@pytest.mark.parametrize(
    ("choice", "called"),
    [
        ({"type": "function", "function": {"name": "get_time"}}, "get_time"),
        ("required", "get_weather"),
        ("none", None),
    ],
)
def test_tool_choice_is_obeyed(client, choice, called):
    answer = client.chat.completions.create(
        model="fake-chat", messages=ask("hello"), tools=[WEATHER, TIME], tool_choice=choice
    )

    calls = answer.choices[0].message.tool_calls
    assert (calls[0].function.name if calls else None) == called


class Invoice(pydantic.BaseModel):
    customer: str
    items: list[str]
    total: int
    paid: bool


def test_an_answer_is_parsed_into_a_pydantic_model(client, stack):
    answer = client.chat.completions.parse(
        model="fake-chat", messages=ask("'Ada' bought 'a lamp' for 42"), response_format=Invoice
    )

    assert answer.choices[0].message.parsed == Invoice(customer="Ada", items=["a lamp"], total=42, paid=True)
    sent = stack.last_body()["response_format"]
    assert sent["type"] == "json_schema"
    assert sent["json_schema"]["strict"] is True
    assert sent["json_schema"]["schema"]["required"] == ["customer", "items", "total", "paid"]


def test_tool_arguments_are_parsed_into_a_pydantic_model(client):
    answer = client.chat.completions.parse(
        model="fake-chat",
        messages=ask("make an invoice: 'Ada' bought 'a lamp' for 42"),
        tools=[openai.pydantic_function_tool(Invoice)],
    )

    parsed = answer.choices[0].message.tool_calls[0].function.parsed_arguments
    assert parsed == Invoice(customer="Ada", items=["a lamp"], total=42, paid=True)


def test_json_mode_gives_json(client):
    answer = client.chat.completions.create(
        model="fake-chat", messages=ask("keys 'name' and 'city'"), response_format={"type": "json_object"}
    )

    assert set(json.loads(answer.choices[0].message.content)) == {"name", "city"}


# --- completions and embeddings ---------------------------------------------------------------------------------


def test_a_text_is_completed(client, stack):
    answer = client.completions.create(model="gpt-4o-mini", prompt="echo: once upon a time", max_tokens=3, seed=3)

    assert answer.object == "text_completion"
    assert answer.choices[0].text == "once upon a"
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 3
    assert stack.last_body("/v1/completions")["seed"] == 3


def test_texts_and_tokens_are_completed(client):
    texts = client.completions.create(model="fake-chat", prompt=["echo: one", "echo: two"])
    tokens = client.completions.create(model="fake-chat", prompt=[1, 2, 3], logprobs=2)

    assert [choice.text for choice in texts.choices] == ["one", "two"]
    assert [choice.index for choice in texts.choices] == [0, 1]
    logprobs = tokens.choices[0].logprobs
    assert "".join(logprobs.tokens) == tokens.choices[0].text
    assert all(len(alternatives) == 2 for alternatives in logprobs.top_logprobs)


def test_embeddings_are_the_same_as_floats_and_as_base64(client, stack):
    same = {"model": "fake-embed", "input": ["one text", "another"], "dimensions": 16}

    floats = client.embeddings.create(**same, encoding_format="float")
    by_default = client.embeddings.create(**same)  # the client asks for base64 and decodes it
    asked = stack.last_body("/v1/embeddings")["encoding_format"]
    encoded = client.embeddings.create(**same, encoding_format="base64")

    assert [item.index for item in floats.data] == [0, 1]
    assert asked == "base64"
    for item, default, raw in zip(floats.data, by_default.data, encoded.data, strict=True):
        assert math.isclose(sum(value * value for value in item.embedding), 1, rel_tol=1e-6)
        assert default.embedding == pytest.approx(item.embedding, abs=1e-6)
        assert struct.unpack("<16f", base64.b64decode(raw.embedding)) == pytest.approx(item.embedding, abs=1e-6)
    assert floats.usage.prompt_tokens == floats.usage.total_tokens > 0


async def test_equal_texts_have_equal_embeddings(async_client):
    answer = await async_client.embeddings.create(model="fake-embed", input=["same", "other", "same"])

    first, second, third = (item.embedding for item in answer.data)
    assert first == third != second


# --- models -----------------------------------------------------------------------------------------------------


def test_models_are_listed_with_their_state(client):
    models = {model.id: model for model in client.models.list()}

    assert set(models) == MODELS
    assert models["fake-chat"].object == "model"
    assert models["fake-chat"].sparkstack["state"] == "ready"
    assert "gpt-4o-mini" in models["fake-chat"].sparkstack["aliases"]


@pytest.mark.parametrize("name", ["fake-chat", "gpt-4o-mini", "default", "fake/fake-chat"])
def test_a_model_is_found_by_every_name(client, name):
    assert client.models.retrieve(name).id == "fake-chat"


# --- what goes through ------------------------------------------------------------------------------------------

ODD_VALUES = {
    "top_k": 40,
    "big": 123_456_789_012_345_678_901_234_567_890,
    "near": 9_007_199_254_740_993,
    "tiny": 1e-300,
    "tenth": 0.1,
    "text": UNICODE,
    "empty": {},
    "none": None,
    "nested": {"list": [[], [1, "two", None, True]], "": 0},
}


@pytest.mark.parametrize("name", ["fake-chat", "gpt-4o-mini"])
@pytest.mark.parametrize("stream", [False, True])
def test_fields_that_the_gateway_does_not_know_reach_the_engine_unchanged(client, stack, name, stream):
    answer = client.chat.completions.create(
        model=name, messages=ask("hello"), stream=stream, extra_body={"x_odd": ODD_VALUES, **ODD_VALUES}
    )
    if stream:
        assert list(answer)

    sent = stack.last_body()
    assert sent["x_odd"] == ODD_VALUES
    assert {key: sent[key] for key in ODD_VALUES} == ODD_VALUES
    assert type(sent["near"]) is int
    assert type(sent["big"]) is int


def test_the_request_id_comes_back_and_goes_on(client, stack):
    own = client.chat.completions.with_raw_response.create(
        model="fake-chat", messages=ask("hello"), extra_headers={"x-request-id": "trace-42"}
    )
    made = client.chat.completions.create(model="fake-chat", messages=ask("hello"))

    assert own.headers["x-request-id"] == "trace-42"
    assert own.parse().choices[0].message.content
    assert stack.engine.requests()[0]["headers"]["x-request-id"] == "trace-42"
    assert len(made._request_id) == 32
    assert stack.last_headers()["x-request-id"] == made._request_id


def test_harmless_headers_go_on_and_the_callers_key_does_not(client, stack):
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    client.chat.completions.create(
        model="fake-chat",
        messages=ask("hello"),
        extra_headers={"traceparent": trace, "x-team": "red", "x-api-key": "k"},
    )

    headers = stack.last_headers()
    assert headers["traceparent"] == trace
    assert headers["x-team"] == "red"
    assert not {"authorization", "x-api-key", "user-agent", "x-stainless-lang"} & set(headers)
    assert stack.key not in str(headers)


ODD_BODY = b'{ "model":"fake-chat","messages":[{"role":"user","content":"echo: \\u0041"}],"x":1.10E+2 ,"x":-0.0 }'
ODD_VALUE = (
    b'{"model":"gpt-4o-mini","messages":[{"role":"user","content":"echo: \\u0041"}],"x":[ 1.10E+2, {"y" :-0.0}]}'
)


@pytest.mark.parametrize(
    ("sent", "arrives"),
    [
        pytest.param(ODD_BODY, ODD_BODY, id="the whole body where nothing changes"),
        pytest.param(ODD_VALUE, ODD_VALUE.replace(b"gpt-4o-mini", b"fake-chat"), id="each value where the model does"),
    ],
)
def test_what_needs_no_change_is_relayed_byte_for_byte(stack, sent, arrives):
    """Written as no JSON library would: spaces, number forms, escapes, a key twice."""
    answer = httpx.post(
        f"{stack.url}/v1/chat/completions", content=sent, headers={"authorization": f"Bearer {stack.key}"}
    )

    assert answer.json()["choices"][0]["message"]["content"] == "A"
    assert stack.last_headers()["content-length"] == str(len(arrives))
    assert stack.last_body() == json.loads(arrives)

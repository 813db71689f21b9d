"""OpenAI's own client against the gateway: streams."""

import json
import time
from collections import defaultdict

import openai
import pydantic
import pytest

from tests.contract.test_openai_client import TIME, UNICODE, WEATHER, Invoice, ask
from tests.testkit.server import eventually


def contents(chunks, choice=0):
    """Return the text of one choice."""
    deltas = (each.delta.content for chunk in chunks for each in chunk.choices if each.index == choice)
    return "".join(delta or "" for delta in deltas)


# --- chat -------------------------------------------------------------------------------------------------------


def test_a_stream_says_the_same_as_a_whole_answer(client):
    same = {"model": "fake-chat", "messages": ask("tell me something"), "seed": 7}

    whole = client.chat.completions.create(**same)
    chunks = list(client.chat.completions.create(**same, stream=True))

    assert contents(chunks) == whole.choices[0].message.content
    assert len(chunks) >= whole.usage.completion_tokens
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]


async def test_the_asynchronous_client_gets_the_same_stream(client, async_client):
    same = {"model": "fake-chat", "messages": ask("tell me something"), "seed": 7, "stream": True}

    chunks = [chunk async for chunk in await async_client.chat.completions.create(**same)]

    assert contents(chunks) == contents(client.chat.completions.create(**same))


def test_the_first_chunk_comes_long_before_the_last(client):
    """A buffered stream would come all at once."""
    started = time.monotonic()
    arrivals = [
        time.monotonic() - started
        for _ in client.chat.completions.create(
            model="fake-chat", messages=ask("hello"), stream=True, extra_headers={"x-fake-slow-body": "1"}
        )
    ]

    assert arrivals[0] < arrivals[-1] / 3


@pytest.mark.parametrize("options", [None, {"include_usage": False}, {}])
def test_no_usage_comes_where_nobody_asked(client, stack, options):
    chunks = list(
        client.chat.completions.create(
            model="fake-chat", messages=ask("hello"), stream=True, **({"stream_options": options} if options else {})
        )
    )

    assert all(chunk.usage is None and chunk.choices for chunk in chunks)
    assert stack.last_body()["stream_options"] == {"include_usage": True}  # the gateway accounts for it all the same


def test_usage_comes_last_where_it_was_asked_for(client):
    same = {"model": "fake-chat", "messages": ask("tell me something")}

    whole = client.chat.completions.create(**same)
    chunks = list(client.chat.completions.create(**same, stream=True, stream_options={"include_usage": True}))

    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage


def test_usage_is_counted_where_the_engine_sends_none(client):
    same = {"model": "fake-chat", "messages": ask("tell me something")}

    whole = client.chat.completions.create(**same)
    chunks = list(
        client.chat.completions.create(
            **same,
            stream=True,
            stream_options={"include_usage": True},
            extra_headers={"x-fake-no-usage": "1"},
        )
    )

    assert chunks[-1].choices == []
    assert chunks[-1].id == chunks[0].id
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens


def test_other_stream_options_go_on(client, stack):
    list(
        client.chat.completions.create(
            model="fake-chat", messages=ask("hello"), stream=True, stream_options={"include_obfuscation": False}
        )
    )

    assert stack.last_body()["stream_options"] == {"include_obfuscation": False, "include_usage": True}


@pytest.mark.parametrize("manner", ["split", "crlf", "batch", "comments"])
def test_a_stream_is_read_however_it_is_written(client, manner):
    headers = {
        "split": {"x-fake-split": "1"},
        "crlf": {"x-fake-crlf": "1"},
        "batch": {"x-fake-batch": "3"},
        "comments": {"x-fake-comment-every": "1"},
    }[manner]

    chunks = client.chat.completions.create(
        model="fake-chat", messages=ask(f"echo: {UNICODE}"), stream=True, extra_headers=headers
    )

    assert contents(chunks) == UNICODE


def test_the_wire_ends_with_one_done(client):
    with client.chat.completions.with_streaming_response.create(
        model="fake-chat", messages=ask("hello"), stream=True
    ) as response:
        lines = [line for line in response.iter_lines() if line]

    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-request-id"]
    assert lines[-1] == "data: [DONE]"
    assert all(line.startswith("data: {") for line in lines[:-1])


def test_n_streams_come_in_turns(client):
    chunks = list(client.chat.completions.create(model="fake-chat", messages=ask("hello"), n=3, stream=True))

    texts = {contents(chunks, choice) for choice in range(3)}
    assert len(texts) == 3
    assert sum(bool(chunk.choices[0].finish_reason) for chunk in chunks) == 3


def test_logprobs_come_with_each_token(client):
    chunks = client.chat.completions.create(
        model="fake-chat", messages=ask("echo: one two"), stream=True, logprobs=True, top_logprobs=2
    )

    tokens = [token for chunk in chunks if chunk.choices[0].logprobs for token in chunk.choices[0].logprobs.content]
    assert "".join(token.token for token in tokens) == "one two"
    assert all(len(token.top_logprobs) == 2 for token in tokens)


def test_reasoning_comes_before_the_answer(client):
    chunks = list(
        client.chat.completions.create(model="fake-chat", messages=ask("hello"), stream=True, reasoning_effort="low")
    )

    kinds = [
        "reasoning" if getattr(chunk.choices[0].delta, "reasoning_content", None) else "content"
        for chunk in chunks
        if chunk.choices[0].delta.content or getattr(chunk.choices[0].delta, "reasoning_content", None)
    ]
    assert kinds == sorted(kinds, reverse=True)
    assert set(kinds) == {"reasoning", "content"}


async def test_a_stream_that_is_closed_ends_at_the_engine(async_client, stack):
    cancelled = stack.engine.state().cancelled
    stack.engine.script(tokens_per_s=20)
    stream = await async_client.chat.completions.create(model="fake-chat", messages=ask("hello"), stream=True)
    async for _ in stream:
        break

    await stream.close()

    await eventually(lambda: stack.engine.state().cancelled == cancelled + 1)


# --- tools ------------------------------------------------------------------------------------------------------

WITH_AND_WITHOUT_INDEX = pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="the engine numbers the calls"),
        pytest.param({"x-fake-no-tool-index": "1"}, id="the engine sends no index"),
    ],
)


@WITH_AND_WITHOUT_INDEX
def test_each_delta_of_a_tool_call_has_its_index(client, headers):
    chunks = client.chat.completions.create(
        model="fake-chat",
        messages=ask("get_weather for 'Basel' and 3 days, and get_time in 'CET'"),
        tools=[WEATHER, TIME],
        stream=True,
        extra_headers=headers,
    )

    deltas = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    assert all(type(delta.index) is int for delta in deltas)
    calls = defaultdict(lambda: ["", ""])
    for delta in deltas:
        calls[delta.index][0] += delta.function.name or ""
        calls[delta.index][1] += delta.function.arguments or ""
    assert {index: (name, json.loads(text)) for index, (name, text) in calls.items()} == {
        0: ("get_weather", {"city": "Basel", "days": 3}),
        1: ("get_time", {"zone": "CET"}),
    }
    assert len(deltas) > 4  # in pieces


@WITH_AND_WITHOUT_INDEX
def test_the_stream_helper_puts_tool_calls_together(client, headers):
    events = defaultdict(list)
    with client.chat.completions.stream(
        model="fake-chat",
        messages=ask("get_weather for 'Basel' and 3 days, and get_time in 'CET'"),
        tools=[WEATHER, TIME],
        extra_headers=headers,
    ) as stream:
        for event in stream:
            events[event.type].append(event)
        final = stream.get_final_completion()

    assert [(event.index, event.name) for event in events["tool_calls.function.arguments.done"]] == [
        (0, "get_weather"),
        (1, "get_time"),
    ]
    message = final.choices[0].message
    assert final.choices[0].finish_reason == "tool_calls"
    assert [json.loads(call.function.arguments) for call in message.tool_calls] == [
        {"city": "Basel", "days": 3},
        {"zone": "CET"},
    ]
    assert all(call.id and call.type == "function" for call in message.tool_calls)


@WITH_AND_WITHOUT_INDEX
async def test_the_asynchronous_stream_helper_parses_tool_arguments(async_client, headers):
    async with async_client.chat.completions.stream(
        model="fake-chat",
        messages=ask("make an invoice: 'Ada' bought 'a lamp' for 42"),
        tools=[openai.pydantic_function_tool(Invoice)],
        extra_headers=headers,
    ) as stream:
        final = await stream.get_final_completion()

    parsed = final.choices[0].message.tool_calls[0].function.parsed_arguments
    assert parsed == Invoice(customer="Ada", items=["a lamp"], total=42, paid=True)


def test_calls_of_two_choices_are_numbered_apart(client):
    chunks = client.chat.completions.create(
        model="fake-chat",
        messages=ask("get_weather and get_time"),
        tools=[WEATHER, TIME],
        n=2,
        stream=True,
        extra_headers={"x-fake-no-tool-index": "1"},
    )

    indices = defaultdict(set)
    for chunk in chunks:
        for choice in chunk.choices:
            indices[choice.index] |= {call.index for call in choice.delta.tool_calls or ()}
    assert indices == {0: {0, 1}, 1: {0, 1}}


# --- schemas ----------------------------------------------------------------------------------------------------


class Place(pydantic.BaseModel):
    name: str
    population: int


def test_the_stream_helper_parses_the_answer(client):
    with client.chat.completions.stream(
        model="fake-chat",
        messages=ask("'Basel' has 170000 people"),
        response_format=Place,
        stream_options={"include_usage": True},
    ) as stream:
        types = [event.type for event in stream]
        final = stream.get_final_completion()

    assert final.choices[0].message.parsed == Place(name="Basel", population=170_000)
    assert types.count("content.done") == 1
    assert types.count("content.delta") > 2
    assert final.usage.completion_tokens > 0


# --- completions ------------------------------------------------------------------------------------------------


def test_a_completion_is_streamed_with_its_usage(client):
    same = {"model": "fake-chat", "prompt": "once upon a time"}

    whole = client.completions.create(**same)
    chunks = list(client.completions.create(**same, stream=True, stream_options={"include_usage": True}))

    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == whole.choices[0].text
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage


async def test_completions_of_two_prompts_stream_side_by_side(async_client):
    texts = {0: "", 1: ""}
    async for chunk in await async_client.completions.create(
        model="fake-chat", prompt=["echo: one two", "echo: three four"], stream=True
    ):
        assert chunk.usage is None
        texts[chunk.choices[0].index] += chunk.choices[0].text

    assert texts == {0: "one two", 1: "three four"}

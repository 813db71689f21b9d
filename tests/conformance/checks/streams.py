"""Streams: their form, their end, usage, thoughts, characters cut in two, many at once, clients that leave."""

import asyncio
import itertools
import json
import time
from typing import Any

from services.kit.sse import EventSplitter, event_data
from tests.conformance.checks.registry import check
from tests.conformance.subject import Subject

LONG_TOKENS = 300
_EMOJI = "🦜👩‍🚀 naïve 日本語 🏳️‍🌈"


@check
async def streaming(subject: Subject) -> None:
    """a stream says what the whole answer says, in events of OpenAI's form, and ends with `[DONE]`"""
    whole = await subject.client.chat.completions.create(**subject.ask(max_tokens=12))
    async with subject.http.stream("POST", "/v1/chat/completions", json=subject.ask(max_tokens=12, stream=True)) as got:
        assert got.status_code == 200
        assert got.headers["content-type"].startswith("text/event-stream")
        events = EventSplitter().feed(await got.aread())
    assert event_data(events[-1]) == b"[DONE]"
    chunks = [json.loads(data) for event in events[:-1] if (data := event_data(event)) is not None]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == (
        whole.choices[0].message.content
    )
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert [reason for reason in reasons if reason] == [whole.choices[0].finish_reason]
    assert len(chunks) > 3


@check
async def usage_chunk(subject: Subject) -> None:
    """`include_usage` brings one last event with the usage and no choices; nobody else gets one"""
    fields = subject.ask(max_tokens=6, stream=True)
    asked = [
        chunk
        async for chunk in await subject.client.chat.completions.create(
            **fields, stream_options={"include_usage": True}
        )
    ]
    assert asked[-1].choices == []
    assert asked[-1].usage is not None
    assert 0 < asked[-1].usage.completion_tokens <= 6
    assert all(chunk.usage is None for chunk in asked[:-1])
    plain = [chunk async for chunk in await subject.client.chat.completions.create(**fields)]
    assert all(chunk.choices and chunk.usage is None for chunk in plain)


@check
async def completion_stream(subject: Subject) -> None:
    """`/v1/completions` streams its text"""
    fields: dict[str, Any] = {"model": subject.place.model, "prompt": "one, two,", "max_tokens": 6, "temperature": 0}
    whole = await subject.client.completions.create(**fields)
    chunks = [chunk async for chunk in await subject.client.completions.create(**fields, stream=True)]
    assert "".join(choice.text for chunk in chunks for choice in chunk.choices) == whole.choices[0].text


@check
async def reasoning(subject: Subject) -> None:
    """a model's thoughts come as `reasoning_content`, whole and streamed, apart from the answer"""
    assert subject.place.thinks, "nothing makes it think"
    fields = subject.ask("Hello.", extra_body=subject.place.thinks, max_tokens=100)
    message = (await subject.client.chat.completions.create(**fields)).choices[0].message.model_dump()
    assert message["reasoning_content"]
    assert message["content"]
    thoughts = content = ""
    async for chunk in await subject.client.chat.completions.create(**fields, stream=True):
        for choice in chunk.choices:
            delta = choice.delta.model_dump()
            thoughts += delta.get("reasoning_content") or ""
            content += delta.get("content") or ""
    assert thoughts.strip()
    assert content.strip()


@check
async def unicode(subject: Subject) -> None:
    """characters whose bytes are parts of several tokens arrive whole, in the stream too"""
    fields = subject.dictate(_EMOJI)
    expected = json.dumps(_EMOJI, ensure_ascii=False) if subject.place.dictated else _EMOJI
    whole = await subject.client.chat.completions.create(**fields)
    assert json_text(whole.choices[0].message.content) == json_text(expected)
    async with subject.http.stream("POST", "/v1/chat/completions", json={**fields, "stream": True}) as got:
        body = await got.aread()
    body.decode("utf-8", "strict")
    text = ""
    for event in EventSplitter().feed(body):
        data = event_data(event)
        assert data is not None
        data.decode("utf-8", "strict")
        for choice in json.loads(data)["choices"] if data != b"[DONE]" else ():
            text += choice["delta"].get("content") or ""
    assert json_text(text) == json_text(expected)
    assert "\ufffd" not in text


def json_text(said: str | None) -> str:
    """Return a text, unquoted where it is JSON: an engine may write a character as an escape."""
    assert said
    return str(json.loads(said)) if said.startswith('"') else said


@check
async def long_answer(subject: Subject) -> None:
    """a long answer streams to its end, every token counted"""
    fields = subject.ask("Tell a long story.", max_tokens=LONG_TOKENS, stream=True, extra_body={"ignore_eos": True})
    options = {"include_usage": True}
    chunks = [chunk async for chunk in await subject.client.chat.completions.create(**fields, stream_options=options)]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == LONG_TOKENS
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
    assert reasons == ["length"]


@check
async def many_at_once(subject: Subject) -> None:
    """eight streams at once all come to their end, none with another's tokens"""

    async def one(number: int) -> tuple[str, set[str]]:
        text, ids = "", set()
        fields = subject.ask(f"Say {number}.", max_tokens=10, stream=True)
        async for chunk in await subject.client.chat.completions.create(**fields):
            ids.add(chunk.id)
            for choice in chunk.choices:
                text += choice.delta.content or ""
        return text, ids

    found = await asyncio.gather(*(one(number) for number in range(8)))
    assert all(text for text, _ in found)
    assert all(len(ids) == 1 for _, ids in found)
    assert len({next(iter(ids)) for _, ids in found}) == 8


@check
async def client_leaves(subject: Subject) -> None:
    """when a client leaves a stream the engine stops within 100 ms, or a token; its own metrics say so"""
    found = [await _seconds_to_stop(subject)]
    while found[-1][0] > found[-1][1] and len(found) < 3:
        found.append(await _seconds_to_stop(subject))
    seconds, allowed = found[-1]
    assert seconds <= allowed, f"it stopped {seconds:.2f} s after the client had left"


async def _seconds_to_stop(subject: Subject) -> tuple[float, float]:
    """Return how long the engine went on, and how long it may: on a busy machine a token and a look take their time."""
    fields = subject.ask("Tell a long story.", max_tokens=LONG_TOKENS, stream=True, extra_body={"ignore_eos": True})
    stream = await subject.client.chat.completions.create(**fields)
    times: list[float] = []
    async for _ in stream:
        times.append(time.monotonic())
        if len(times) == 8:
            break
    looked_at = time.monotonic()
    assert await subject.under_way() == 1
    look_s = time.monotonic() - looked_at
    token_s = max(after - before for before, after in itertools.pairwise(times[1:]))
    await stream.close()
    left_at = time.monotonic()
    while time.monotonic() < left_at + 5:
        asked_at = time.monotonic()
        if await subject.under_way() == 0:
            return asked_at - left_at, 0.1 + 2 * token_s + look_s
    raise AssertionError("five seconds after the client left, the engine was still generating for nobody")

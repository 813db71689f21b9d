"""A stream reaches the client as the engine makes it: piece by piece, and byte for byte."""

import itertools
import re
import statistics
import time

import httpx
import pytest

from services.kit.sse import DONE
from tests.integration.gateways import CHAT, MODEL, Streamed, chat_body, gateway, split_events
from tests.integration.raw_client import asked
from tests.testkit.server import fake_engine

INTERVAL_S = 0.025
_VARIABLE = re.compile(rb'chatcmpl-fake\d+|"created":\d+')


async def test_chunks_come_one_by_one_at_the_engines_pace():
    async with (
        fake_engine(tokens_per_s=1 / INTERVAL_S, answer_tokens=24) as engine,
        gateway(engine) as front,
        asked(front.url, CHAT, chat_body(stream=True)) as client,
    ):
        assert await client.read_head() == 200
        pieces = [piece for piece in await client.read_pieces() if b'"content":"' in piece.data]
    gaps = [after.at_s - before.at_s for before, after in itertools.pairwise(pieces)]
    lumps = [piece for piece in pieces if len(split_events(piece.data)) > 2]
    assert len(pieces) >= 20, "24 tokens came in fewer pieces: they were held back"
    assert len(lumps) <= 2
    assert statistics.median(gaps) > INTERVAL_S / 2
    assert sum(gaps) == pytest.approx(23 * INTERVAL_S, rel=0.35)


async def test_the_first_chunk_is_there_while_the_engine_still_works_on_the_rest():
    async with (
        fake_engine(tokens_per_s=20, answer_tokens=100) as engine,
        gateway(engine) as front,
        asked(front.url, CHAT, chat_body(stream=True)) as client,
    ):
        await client.read_head()
        await client.read_piece()
        assert engine.state().open_streams == 1
        assert engine.state().finished == 0


async def test_the_head_of_a_stream_comes_before_its_first_token():
    async with (
        fake_engine(ttft_ms=60_000) as engine,
        gateway(engine) as front,
        asked(front.url, CHAT, chat_body(stream=True)) as client,
    ):
        assert await client.read_head() == 200
    assert client.headers["content-type"].startswith("text/event-stream")
    assert client.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    "written",
    [
        {},
        {"split": "1"},
        {"split": "2"},
        {"split": "3"},
        {"split": "7"},
        {"split": "61"},
        {"batch": "5"},
        {"crlf": "1"},
        {"crlf": "1", "split": "1"},
        {"crlf": "1", "split": "3"},
        {"comment-every": "2", "split": "5"},
        {"batch": "4", "crlf": "1", "split": "50"},
    ],
    ids=lambda written: "-".join(f"{name}{value}" for name, value in written.items()) or "plain",
)
async def test_events_are_the_engines_own_bytes_however_tcp_cuts_them(written):
    """Emoji, CJK and combining letters: nearly every cut of one to three bytes is inside a character."""
    headers = {f"x-fake-{name}": value for name, value in written.items()}
    body = chat_body(
        messages=[{"role": "user", "content": "unicode please"}],
        stream_options={"include_usage": True},
        max_tokens=12,
    )
    async with fake_engine() as engine, gateway(engine) as front:
        async with httpx.AsyncClient(trust_env=False, verify=False) as client:
            direct = await client.post(engine.url + CHAT, json={**body, "stream": True}, headers=headers)
        relayed = await front.stream(headers=headers, **body)
    straight = Streamed(direct, direct.content, whole=True)
    assert relayed.done
    assert relayed.text == straight.text
    assert not relayed.text.isascii()
    assert _same(relayed.events[:-1]) == _same(straight.events[:-1])
    assert relayed.events[-1] == DONE


def _same(events: list[bytes]) -> list[bytes]:
    """Return the events without what differs from one answer of the engine to the next."""
    return [_VARIABLE.sub(b"", event) for event in events]


async def test_an_event_that_comes_slowly_in_pieces_is_sent_on_when_it_is_whole():
    async with fake_engine(answer_tokens=3) as engine, gateway(engine) as front:
        headers = {"x-fake-slow-body": "2", "x-fake-split": "40"}
        async with asked(front.url, CHAT, chat_body(stream=True), headers=headers) as client:
            await client.read_head()
            pieces = await client.read_pieces()
    assert all(piece.data.endswith(b"\n\n") for piece in pieces)
    assert len(pieces) >= 3


async def test_streams_side_by_side_do_not_wait_for_each_other():
    """A stream that takes its time must not hold up a quick one of the same engine."""
    async with (
        fake_engine() as engine,
        gateway(engine) as front,
        asked(front.url, CHAT, chat_body(stream=True), headers={"x-fake-ttft-ms": "60000"}) as slow,
    ):
        await slow.read_head()
        began = time.monotonic()
        assert (await front.stream()).done
        assert time.monotonic() - began < 2
        assert engine.state().open_streams == 1


async def test_the_same_holds_for_text_completions():
    async with fake_engine(tokens_per_s=1 / INTERVAL_S, answer_tokens=8) as engine, gateway(engine) as front:
        body = {"model": MODEL, "prompt": "unicode", "stream": True}
        async with asked(front.url, "/v1/completions", body, headers={"x-fake-split": "3"}) as client:
            assert await client.read_head() == 200
            pieces = await client.read_pieces()
    events = split_events(b"".join(piece.data for piece in pieces))
    assert events[-1] == DONE
    assert len(pieces) >= 8

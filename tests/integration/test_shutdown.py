"""SIGTERM: what can end in time does, the rest is cut and accounted for, and the process is gone within its grace."""

import signal
import time

import httpx
import pytest

from tests.integration.children import gateway_process
from tests.integration.gateways import CHAT, chat_body
from tests.integration.raw_client import asked, raw_client
from tests.testkit.server import eventually, fake_engine

pytestmark = pytest.mark.slow  # processes that are started, stopped and waited for

SLACK_S = 5.0
ENDED = (0, -signal.SIGTERM)


async def test_a_stream_that_ends_within_the_grace_is_finished():
    async with fake_engine(tokens_per_s=40, answer_tokens=20) as engine, gateway_process(engine.url) as front:
        async with asked(front.url, CHAT, chat_body(stream=True)) as client:
            await client.read_head()
            first = await client.read_piece()
            front.terminate()
            pieces = [first, *await client.read_pieces()]
        assert await front.child.wait() in ENDED
        (line,) = front.requests(CHAT)
    text = b"".join(piece.data for piece in pieces)
    assert text.endswith(b"data: [DONE]\n\n")
    assert text.count(b'"content":"') == 20
    assert (line["outcome"], line["completion_tokens"]) == ("ok", 20)


async def test_a_stream_that_does_not_end_is_cut_after_the_grace_and_accounted_for():
    async with fake_engine(tokens_per_s=20, answer_tokens=5000) as engine:
        async with gateway_process(engine.url, grace_s=1) as front:
            async with asked(front.url, CHAT, chat_body(stream=True)) as client:
                await client.read_head()
                await client.read_piece()
                began = time.monotonic()
                front.terminate()
                rest = await client.reader.read()
                assert await front.child.wait() in ENDED
                assert 1 <= time.monotonic() - began < 1 + SLACK_S
            (line,) = front.requests(CHAT)
        await eventually(lambda: engine.state().cancelled == 1)
    assert b"[DONE]" not in rest
    assert not rest.endswith(b"0\r\n\r\n"), "a cut stream must not look like a whole one"
    assert line["outcome"] == "cancelled"
    assert line["usage_source"] == "estimate", "there is no time to ask anyone"
    assert 1 <= line["completion_tokens"] <= engine.state().cancellations[0].chunks_sent


async def test_idle_connections_do_not_hold_it():
    """Browsers and clients keep theirs open for minutes."""
    async with fake_engine() as engine, gateway_process(engine.url) as front:
        async with httpx.AsyncClient(base_url=front.url, trust_env=False, verify=False) as client:
            assert (await client.post(CHAT, json=chat_body())).status_code == 200
            async with raw_client(front.url):
                began = time.monotonic()
                front.terminate()
                assert await front.child.wait() in ENDED
                assert time.monotonic() - began < SLACK_S
        assert front.lines("request.crashed") == []


@pytest.mark.parametrize("backend", ["http://127.0.0.1:9", ""], ids=["dead backend", "no backend"])
async def test_it_ends_as_well_without_a_backend(backend):
    async with gateway_process(backend) as front:
        began = time.monotonic()
        front.terminate()
        assert await front.child.wait() in ENDED
        assert time.monotonic() - began < SLACK_S

"""While an engine reads a long prompt, comments keep proxies and clients from hanging up."""

from services.kit.sse import KEEP_ALIVE
from tests.integration.gateways import CHAT, chat_body, gateway
from tests.integration.raw_client import asked
from tests.testkit.server import fake_engine

SLOW = {"x-fake-ttft-ms": "400"}


async def test_comments_come_until_the_first_token_and_not_after(fake_engine):
    async with (
        gateway(fake_engine, keep_alive_s=0.05) as front,
        asked(front.url, CHAT, chat_body(stream=True), headers=SLOW) as client,
    ):
        await client.read_head()
        pieces = await client.read_pieces()
    comments = [piece for piece in pieces if piece.data == KEEP_ALIVE]
    assert 2 <= len(comments) <= 9
    assert [piece.data for piece in pieces[: len(comments)]] == [KEEP_ALIVE] * len(comments)
    assert pieces[-1].data.endswith(b"data: [DONE]\n\n")


async def test_they_do_not_come_in_the_middle_of_a_slow_stream():
    async with fake_engine(tokens_per_s=10, answer_tokens=4) as engine, gateway(engine, keep_alive_s=0.02) as front:
        streamed = await front.stream()
    first = next(number for number, event in enumerate(streamed.events) if b'"content":"' in event)
    assert streamed.done
    assert KEEP_ALIVE not in streamed.events[first:]


async def test_a_quick_engine_needs_none(fake_engine):
    async with gateway(fake_engine) as front:
        assert KEEP_ALIVE not in (await front.stream()).body


async def test_the_answer_is_the_same_with_them(fake_engine):
    async with gateway(fake_engine, keep_alive_s=0.05) as front:
        with_comments = await front.stream(headers=SLOW)
        without = await front.stream()
    assert KEEP_ALIVE in with_comments.body
    assert with_comments.text == without.text
    assert with_comments.data[-1] == "[DONE]"


async def test_the_engines_own_comments_go_on(fake_engine):
    async with gateway(fake_engine) as front:
        streamed = await front.stream(headers={"x-fake-comment-every": "5"})
    assert streamed.events.count(b": keep-alive\n\n") == 5
    assert streamed.done


async def test_a_plain_request_gets_none(fake_engine):
    """Its body is JSON from the first byte to the last."""
    async with gateway(fake_engine, keep_alive_s=0.05) as front:
        response = await front.chat(headers={"x-fake-head-ms": "200"})
    assert response.json()["choices"][0]["finish_reason"] == "stop"


async def test_ollamas_format_has_no_comments(fake_engine):
    """Its clients parse each line."""
    fake_engine.script(path=CHAT, ttft_ms=200)
    body = {"model": "fake-chat", "messages": [{"role": "user", "content": "hello"}]}
    async with gateway(fake_engine, keep_alive_s=0.05) as front:
        response = await front.client.post("/api/chat", json=body)
    lines = response.content.splitlines()
    assert response.status_code == 200
    assert all(line.startswith(b"{") for line in lines)
    assert b'"done":true' in lines[-1]

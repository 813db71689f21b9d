"""A client that leaves frees the engine within 100 ms, and what was used until then is accounted for."""

import asyncio
import random
import statistics

import pytest

from tests.integration.gateways import CHAT, MODEL, Gateway, chat_body, gateway
from tests.integration.raw_client import RawClient, asked, raw_client
from tests.testkit.engine import FakeEngine
from tests.testkit.server import eventually, fake_engine
from tests.testkit.tokens import apply_template, split_tokens

CLOSED_WITHIN_S = 0.1
PROMPT_TOKENS = len(split_tokens(apply_template(chat_body()["messages"])))


async def _engine_works(engine: FakeEngine) -> None:
    await eventually(lambda: engine.state().open_streams == 1)


async def _left_and_noticed(client: RawClient, engine: FakeEngine, *, reset: bool = False) -> float:
    """Leave, and return the seconds until the engine knew."""
    known = engine.state().cancelled
    left_at_s = client.leave(reset=reset)
    await eventually(lambda: engine.state().cancelled > known)
    return engine.state().cancellations[-1].noticed_at_s - left_at_s


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_leaving_in_the_middle_of_a_stream(reset):
    delays = []
    async with fake_engine(tokens_per_s=100, answer_tokens=1000) as engine, gateway(engine) as front:
        for _ in range(3):
            async with asked(front.url, CHAT, chat_body(stream=True)) as client:
                await client.read_head()
                for _ in range(5):
                    await client.read_piece()
                delays.append(await _left_and_noticed(client, engine, reset=reset))
        totals = await front.totals()
        metrics = await front.metrics()
        generated = sum(each.chunks_sent for each in engine.state().cancellations)
    assert statistics.median(delays) < CLOSED_WITHIN_S
    assert totals["cancelled"] == totals["requests"] == 3
    assert totals["failed"] == 0
    assert totals["prompt_tokens"] == 3 * PROMPT_TOKENS
    assert 3 * 4 <= totals["completion_tokens"] <= generated
    assert metrics.value("gen_ai_client_token_usage_sum", gen_ai_token_type="output") == totals["completion_tokens"]
    assert metrics.value("gen_ai_client_token_usage_sum", gen_ai_token_type="input") == totals["prompt_tokens"]
    assert metrics.value("gateway_exchanges_total", outcome="cancelled", gen_ai_request_model=MODEL) == 3
    assert metrics.value("gateway_usage_source_total", source="tokenizer") == 3


async def test_leaving_before_the_head_of_the_answer():
    """The engine is in the prefill of a long prompt and has not said a word."""
    async with fake_engine() as engine, gateway(engine) as front:
        async with asked(front.url, CHAT, chat_body(stream=True), headers={"x-fake-stall-head": "1"}) as client:
            await _engine_works(engine)
            assert await _left_and_noticed(client, engine) < CLOSED_WITHIN_S
        totals = await front.totals()
    assert totals["cancelled"] == 1
    assert totals["prompt_tokens"] == PROMPT_TOKENS
    assert totals["completion_tokens"] == 0


async def test_leaving_before_the_first_token():
    async with fake_engine(ttft_ms=60_000) as engine, gateway(engine) as front:
        async with asked(front.url, CHAT, chat_body(stream=True)) as client:
            await client.read_head()
            assert await _left_and_noticed(client, engine) < CLOSED_WITHIN_S
        totals = await front.totals()
    assert totals["cancelled"] == 1
    assert totals["prompt_tokens"] == PROMPT_TOKENS
    assert totals["completion_tokens"] == 0


@pytest.mark.parametrize("fault", ["stall-head", "stall-after"])
async def test_leaving_during_a_request_that_is_no_stream(fault):
    """Before the head, and while half of the body is there."""
    async with fake_engine() as engine, gateway(engine) as front:
        async with asked(front.url, CHAT, chat_body(), headers={f"x-fake-{fault}": "1"}) as client:
            await _engine_works(engine)
            assert await _left_and_noticed(client, engine) < CLOSED_WITHIN_S
        totals = await front.totals()
        metrics = await front.metrics()
    assert totals["cancelled"] == 1
    assert totals["prompt_tokens"] == PROMPT_TOKENS
    assert metrics.value("gen_ai_server_request_duration_seconds_count", outcome="cancelled") == 1


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate"])
async def test_leaving_a_stream_in_ollamas_form(path):
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hello"}], "prompt": "Hello"}
    async with fake_engine(tokens_per_s=100, answer_tokens=1000) as engine, gateway(engine) as front:
        async with asked(front.url, path, body) as client:
            await client.read_head()
            await client.read_piece()
            assert await _left_and_noticed(client, engine) < CLOSED_WITHIN_S
        totals = await front.totals()
    assert totals["cancelled"] == 1
    assert totals["completion_tokens"] >= 1


async def test_leaving_during_embeddings():
    body = {"model": "fake-embed", "input": "four words of text"}
    async with fake_engine(ttft_ms=60_000) as engine, gateway(engine) as front:
        async with asked(front.url, "/v1/embeddings", body) as client:
            await _engine_works(engine)
            assert await _left_and_noticed(client, engine) < CLOSED_WITHIN_S
        totals = await front.totals()
    assert totals["cancelled"] == 1
    assert totals["prompt_tokens"] == 4


@pytest.mark.parametrize(
    "messages",
    [
        '[{"role": "user", "content": "hi", "weight": 1e999}]',
        f'[{{"role": "user", "content": {"[" * 900}"hi"{"]" * 900}}}]',
    ],
    ids=["number out of range", "deep nesting"],
)
async def test_a_prompt_that_nobody_can_read_is_accounted_for_too(messages):
    """JSON that the gateway only passes on may have what its own parser refuses when the tokens are counted."""
    async with fake_engine() as engine, gateway(engine) as front:
        engine.script(path=CHAT, stall_head=True)
        body = f'{{"model": "{MODEL}", "stream": true, "messages": {messages}}}'.encode()
        async with raw_client(front.url) as client:
            await client.send("POST", CHAT, body)
            await _engine_works(engine)
            await _left_and_noticed(client, engine)
        totals = await front.totals()
    assert totals["cancelled"] == 1
    assert totals["prompt_tokens"] >= 1


async def test_a_stalled_tokenizer_does_not_hold_the_engines_slot():
    """The count comes after the upstream is closed, and never instead of it."""
    async with fake_engine(ttft_ms=60_000) as engine, gateway(engine) as front:
        engine.script(path="/apply-template", status=404)
        engine.script(path="/tokenize", head_ms=200)
        async with asked(front.url, CHAT, chat_body(stream=True)) as client:
            await client.read_head()
            assert await _left_and_noticed(client, engine) < CLOSED_WITHIN_S
        assert (await front.totals())["cancelled"] == 1


async def test_fifty_clients_that_leave_at_random_moments_leave_nothing_behind():
    """The property: no exchange under way, no connection open upstream, and a ledger that adds up."""
    dice = random.Random(7)
    clients, answer_tokens = 50, 24
    async with fake_engine(ttft_ms=30, tokens_per_s=50, answer_tokens=answer_tokens) as engine:
        async with gateway(engine) as front:
            patience_s = [30.0] * 5 + [dice.uniform(0, 0.7) for _ in range(clients - 5)]
            visits = [_visit(front, seconds) for seconds in patience_s]
            received = sum(await asyncio.gather(*visits))
            await front.settled()
            state = await eventually(lambda: engine.state() if not engine.state().open_streams else None)
            totals = await front.totals()
            metrics = await front.metrics()
        assert engine.state().open_connections == 0
    assert state.finished + state.cancelled == state.started
    assert state.finished >= 5
    assert state.cancelled >= 5, "the moments were not random enough to show anything"
    assert state.broken == totals["failed"] == 0
    # A client may leave before its request has come in, or has reached the engine, or while the engine finishes.
    assert state.started <= totals["requests"] <= clients
    assert state.cancelled <= totals["cancelled"] <= totals["requests"] - 5
    # Complete answers count as the engine reported them; the others between what arrived and what was generated.
    reported = metrics.value("gateway_usage_source_total", source="engine") * answer_tokens
    generated = state.finished * answer_tokens + sum(each.chunks_sent for each in state.cancellations)
    assert max(received, reported) <= totals["completion_tokens"] <= generated
    assert totals["prompt_tokens"] == PROMPT_TOKENS * totals["requests"]
    assert metrics.value("gen_ai_client_token_usage_sum", gen_ai_token_type="output") == totals["completion_tokens"]
    assert metrics.value("gateway_requests_in_flight") == 0


async def _visit(front: Gateway, patience_s: float) -> int:
    """Read a stream for so long, then leave; return how many tokens had come."""
    tokens = 0
    try:
        async with asyncio.timeout(patience_s), asked(front.url, CHAT, chat_body(stream=True)) as client:
            try:
                await client.read_head()
                while data := (await client.read_piece()).data:
                    tokens += data.count(b'"content":"')
            finally:
                client.leave(reset=patience_s > 0.35)
    except TimeoutError:
        pass
    return tokens

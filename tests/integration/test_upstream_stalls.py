"""Silence has a bound at each stage: of the head, of the first token, in the middle, and of the client itself."""

import time

import pytest

from tests.integration.gateways import CHAT, chat_body, gateway
from tests.integration.raw_client import asked
from tests.integration.raw_engine import EVENT_STREAM, raw_engine, say
from tests.testkit.server import eventually, fake_engine

pytestmark = pytest.mark.slow

BOUND_S = 0.3
NEVER_S = 60.0
SLACK_S = 3.0
"""Of a busy machine. What must not be waited for is twenty times as long."""
ROLE = b'data: {"choices": [{"index": 0, "delta": {"role": "assistant", "content": null}, "finish_reason": null}]}\n\n'
FIRST = b'data: {"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": null}]}\n\n'


class Watch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def assert_stopped_by(self, bound_s: float) -> None:
        assert bound_s <= time.monotonic() - self._began < bound_s + SLACK_S


# --- no head ------------------------------------------------------------------------------------------------------


async def test_a_stream_without_a_head_is_a_504_after_the_first_token_bound(fake_engine):
    async with gateway(fake_engine, first_token_timeout_s=BOUND_S) as front:
        watch = Watch()
        response = await front.chat(stream=True, headers={"x-fake-stall-head": "1"})
        watch.assert_stopped_by(BOUND_S)
        await eventually(lambda: fake_engine.state().cancelled == 1)
        assert (await front.totals())["failed"] == 1
    error = response.json()["error"]
    assert response.status_code == 504
    assert (error["type"], error["code"]) == ("timeout_error", "engine_timeout")
    assert "GATEWAY_FIRST_TOKEN_TIMEOUT_S" in error["message"]
    assert len(fake_engine.requests(CHAT)) == 1, "a slow engine is not asked a second time"


async def test_a_plain_request_has_a_bound_of_its_own(fake_engine):
    async with gateway(fake_engine, response_timeout_s=BOUND_S) as front:
        watch = Watch()
        response = await front.chat(headers={"x-fake-stall-head": "1"})
        watch.assert_stopped_by(BOUND_S)
        await eventually(lambda: fake_engine.state().cancelled == 1)
    assert (response.status_code, response.json()["error"]["code"]) == (504, "engine_timeout")


async def test_a_lower_first_token_bound_that_was_set_holds_for_plain_requests_too(fake_engine):
    async with gateway(fake_engine, first_token_timeout_s=BOUND_S, response_timeout_s=NEVER_S) as front:
        watch = Watch()
        response = await front.chat(headers={"x-fake-stall-head": "1"})
        watch.assert_stopped_by(BOUND_S)
    assert response.status_code == 504


async def test_the_lower_of_the_two_is_the_response_bound_where_that_is_lower(fake_engine):
    async with gateway(fake_engine, first_token_timeout_s=NEVER_S, response_timeout_s=BOUND_S) as front:
        watch = Watch()
        response = await front.chat(headers={"x-fake-stall-head": "1"})
        watch.assert_stopped_by(BOUND_S)
    assert response.status_code == 504


async def test_a_plain_answer_may_take_longer_than_the_idle_bound_to_begin(fake_engine):
    """A long answer that is no stream is silence and then everything at once."""
    async with gateway(fake_engine, idle_timeout_s=BOUND_S) as front:
        response = await front.chat(headers={"x-fake-head-ms": "600"})
    assert response.status_code == 200


# --- a head, but no token ---------------------------------------------------------------------------------------


async def test_a_head_without_a_token_is_kept_alive_and_then_ended_by_an_error(fake_engine):
    settings = {"first_token_timeout_s": BOUND_S, "keep_alive_s": 0.05, "idle_timeout_s": NEVER_S}
    async with gateway(fake_engine, **settings) as front:
        watch = Watch()
        streamed = await front.stream(headers={"x-fake-stall-after": "0"})
        watch.assert_stopped_by(BOUND_S)
        await eventually(lambda: fake_engine.state().cancelled == 1)
        assert (await front.totals())["failed"] == 1
    comments = [event for event in streamed.events if event.startswith(b":")]
    assert streamed.response.status_code == 200
    assert len(comments) >= 2
    assert streamed.error is not None
    assert streamed.error["code"] == "engine_timeout"
    assert not streamed.done


async def test_a_role_is_no_token():
    """The first event of a chat says only who speaks; engines send it before the prefill is done."""
    async with (
        raw_engine(say(EVENT_STREAM, ROLE, then_stall=True)) as engine,
        gateway(backends={"raw": engine.url}, first_token_timeout_s=BOUND_S, idle_timeout_s=NEVER_S) as front,
    ):
        watch = Watch()
        streamed = await front.stream()
        watch.assert_stopped_by(BOUND_S)
        await eventually(lambda: not engine.open_posts)
    assert streamed.error is not None
    assert streamed.error["code"] == "engine_timeout"


async def test_the_engines_own_comments_do_not_stretch_the_bound():
    comments = [EVENT_STREAM, *[b": still at it\n\n"] * 3]
    async with (
        raw_engine(say(*comments, then_stall=True)) as engine,
        gateway(backends={"raw": engine.url}, first_token_timeout_s=BOUND_S, idle_timeout_s=NEVER_S) as front,
    ):
        watch = Watch()
        streamed = await front.stream()
        watch.assert_stopped_by(BOUND_S)
    assert streamed.body.count(b": still at it\n\n") == 3
    assert streamed.error is not None


async def test_a_long_prefill_is_not_silence(fake_engine):
    """The idle bound begins with the first token."""
    async with gateway(fake_engine, idle_timeout_s=BOUND_S, first_token_timeout_s=NEVER_S) as front:
        streamed = await front.stream(headers={"x-fake-ttft-ms": "600"})
    assert streamed.done
    assert streamed.error is None


# --- silence in the middle --------------------------------------------------------------------------------------


async def test_silence_in_the_middle_of_a_stream_ends_it_with_an_error(fake_engine):
    async with gateway(fake_engine, idle_timeout_s=BOUND_S) as front:
        watch = Watch()
        streamed = await front.stream(headers={"x-fake-stall-after": "4"})
        watch.assert_stopped_by(BOUND_S)
        await eventually(lambda: fake_engine.state().cancelled == 1)
        totals = await front.totals()
    assert len(streamed.text.split()) == 4
    assert streamed.error is not None
    assert streamed.error["code"] == "engine_timeout"
    assert "GATEWAY_IDLE_TIMEOUT_S" in streamed.error["message"]
    assert not streamed.done
    assert totals["failed"] == 1
    assert totals["completion_tokens"] == 4


@pytest.mark.parametrize("stall_after", ["0", "1"], ids=["after the head", "half-way"])
async def test_silence_in_a_plain_answers_body_is_a_504(fake_engine, stall_after):
    async with gateway(fake_engine, idle_timeout_s=BOUND_S) as front:
        watch = Watch()
        response = await front.chat(headers={"x-fake-stall-after": stall_after})
        watch.assert_stopped_by(BOUND_S)
        await eventually(lambda: fake_engine.state().cancelled == 1)
        assert (await front.totals())["failed"] == 1
    assert (response.status_code, response.json()["error"]["code"]) == (504, "engine_timeout")


@pytest.mark.parametrize("kind", [b"text/html", b"application/json"])
async def test_an_answer_of_another_kind_than_asked_for_has_a_bound_too(kind):
    """A stream was asked for; what came is no stream, and does not come to an end."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: " + kind + b"\r\ncontent-length: 100\r\n\r\n"
    async with (
        raw_engine(say(head, then_stall=True)) as engine,
        gateway(backends={"raw": engine.url}, connect_timeout_s=BOUND_S) as front,
    ):
        watch = Watch()
        response = await front.chat(stream=True)
        watch.assert_stopped_by(BOUND_S)
        await eventually(lambda: not engine.open_posts)
    assert (response.status_code, response.json()["error"]["code"]) == (502, "engine_invalid_response")


async def test_an_error_whose_body_does_not_come_is_told_by_its_status(fake_engine):
    fake_engine.script(path=CHAT, status=503, retry_after="3", stall_after=0)
    async with gateway(fake_engine, connect_timeout_s=0.2) as front:
        response = await front.chat()
    assert response.status_code == 503
    assert response.headers["retry-after"] == "3"


# --- slow, but alive --------------------------------------------------------------------------------------------


async def test_a_slow_plain_body_that_goes_on_passes(fake_engine):
    async with gateway(fake_engine, idle_timeout_s=BOUND_S) as front:
        watch = Watch()
        response = await front.chat(headers={"x-fake-slow-body": "60", "x-fake-split": "40"})
        watch.assert_stopped_by(BOUND_S)
    assert response.status_code == 200
    assert response.json()["usage"]["completion_tokens"] == 24


async def test_a_slow_stream_that_goes_on_passes():
    async with (
        fake_engine(tokens_per_s=15, answer_tokens=8) as engine,
        gateway(engine, idle_timeout_s=BOUND_S) as front,
    ):
        watch = Watch()
        streamed = await front.stream()
        watch.assert_stopped_by(BOUND_S)
    assert streamed.done


# --- the client -------------------------------------------------------------------------------------------------


async def test_a_client_that_stops_reading_frees_the_engine_after_the_idle_bound():
    """Nothing says that it has left; only its full buffers do."""
    long_answer = chat_body(stream=True, logprobs=True, top_logprobs=20, max_tokens=6000, ignore_eos=True)
    async with fake_engine(n_ctx=10_000) as engine, gateway(engine, idle_timeout_s=BOUND_S) as front:
        async with asked(front.url, CHAT, long_answer, receive_bytes=4096):
            await eventually(lambda: engine.state().open_streams == 1)
            await eventually(lambda: engine.state().cancelled == 1, timeout_s=20)
            totals = await front.totals()
        sent = engine.state().cancellations[0].chunks_sent
    assert totals["cancelled"] == 1
    assert totals["failed"] == 0
    assert 0 < totals["completion_tokens"] <= sent < 6000


async def test_a_client_that_reads_slowly_gets_everything():
    """Each event is about 2.4 kB; the client takes them much slower than the engine makes them."""
    answer = chat_body(stream=True, logprobs=True, top_logprobs=20, max_tokens=300, ignore_eos=True)
    async with fake_engine() as engine, gateway(engine, idle_timeout_s=5) as front:
        async with asked(front.url, CHAT, answer, receive_bytes=4096) as client:
            await client.read_head()
            pieces = await client.read_pieces()
        totals = await front.totals()
    assert b"".join(piece.data for piece in pieces).endswith(b"data: [DONE]\n\n")
    assert totals["completion_tokens"] == 300
    assert totals["cancelled"] == 0

"""What is no answer in the protocol never reaches the client as if it were one."""

import pytest

from tests.integration.gateways import CHAT, Streamed, gateway
from tests.integration.raw_engine import EVENT_STREAM, raw_engine, say
from tests.testkit.server import eventually

TOKEN = b'data: {"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": null}]}\n\n'
END = b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'


def plain(body: bytes, kind: bytes = b"application/json", status: bytes = b"200 OK", extra: bytes = b"") -> bytes:
    """Return a whole HTTP response."""
    head = b"HTTP/1.1 %b\r\ncontent-type: %b\r\n%bcontent-length: %d\r\n\r\n" % (status, kind, extra, len(body))
    return head + body


def assert_error_event(streamed: Streamed, code: str) -> None:
    assert streamed.response.status_code == 200
    assert streamed.error is not None, streamed.body
    assert streamed.error.keys() == {"message", "type", "param", "code"}
    assert streamed.error["code"] == code
    assert "[DONE]" not in streamed.data


@pytest.mark.parametrize("garbage", ["html", "binary"])
async def test_a_stream_that_is_no_event_stream_is_a_502(fake_engine, garbage):
    async with gateway(fake_engine) as front:
        response = await front.chat(stream=True, headers={"x-fake-garbage": garbage})
        assert (await front.totals())["failed"] == 1
    assert (response.status_code, response.json()["error"]["code"]) == (502, "engine_invalid_response")
    assert "not text/event-stream" in response.json()["error"]["message"]
    assert "<html>" not in response.text


@pytest.mark.parametrize("garbage", ["html", "text", "json", "binary"])
async def test_a_plain_answer_that_is_no_json_is_a_502(fake_engine, garbage):
    async with gateway(fake_engine) as front:
        response = await front.chat(headers={"x-fake-garbage": garbage})
        assert (await front.totals())["failed"] == 1
    assert (response.status_code, response.json()["error"]["code"]) == (502, "engine_invalid_response")
    assert "no JSON" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [b"", b"   ", b"\xff\xfe", b"[" * 5000, b'["half', b'{"choices": null, "broken', b'{"choices": []} trailing'],
    ids=["empty", "blank", "bytes", "brackets", "half a list", "wrong type first", "more than JSON"],
)
async def test_a_plain_answer_of_no_whole_json_is_a_502(body):
    async with raw_engine(say(plain(body))) as engine, gateway(backends={"raw": engine.url}) as front:
        response = await front.chat()
    assert (response.status_code, response.json()["error"]["code"]) == (502, "engine_invalid_response")


async def test_text_in_an_event_stream_ends_in_an_error(fake_engine):
    async with gateway(fake_engine) as front:
        streamed = await front.stream(headers={"x-fake-garbage": "text"})
        await eventually(lambda: not fake_engine.state().open_streams)
    assert_error_event(streamed, "engine_invalid_response")


async def test_a_broken_event_ends_the_stream_after_what_was_good(fake_engine):
    async with gateway(fake_engine) as front:
        streamed = await front.stream(headers={"x-fake-garbage": "json"})
        totals = await front.totals()
        await eventually(lambda: not fake_engine.state().open_streams)
    assert_error_event(streamed, "engine_invalid_response")
    assert len(streamed.text.split()) == 1
    assert b"half a" not in streamed.body
    assert totals["failed"] == 1
    assert totals["completion_tokens"] == 1


async def test_good_events_in_one_piece_with_a_broken_one_are_delivered():
    piece = EVENT_STREAM + TOKEN + TOKEN + b"data: {broken\n\n" + TOKEN
    async with raw_engine(say(piece)) as engine, gateway(backends={"raw": engine.url}) as front:
        streamed = await front.stream()
    assert_error_event(streamed, "engine_invalid_response")
    assert streamed.text == "HiHi"


@pytest.mark.parametrize("event", [b"data: [1, \n\n", b'data: {"choices": null, "id\n\n', b"data: nul\n\n"])
async def test_a_broken_event_of_an_unexpected_type_is_a_broken_event(event):
    async with (
        raw_engine(say(EVENT_STREAM + TOKEN + event + END)) as engine,
        gateway(backends={"raw": engine.url}) as front,
    ):
        streamed = await front.stream()
    assert_error_event(streamed, "engine_invalid_response")
    assert streamed.text == "Hi"


async def test_events_of_another_form_go_on_as_they_came():
    """Engines put their own into a stream; only the client can know what they are."""
    own = b'event: progress\ndata: {"done": 0.5, "error": null}\n\ndata: [1, 2]\n\nid: 7\nretry: 100\n\n'
    async with (
        raw_engine(say(EVENT_STREAM + own + TOKEN + END)) as engine,
        gateway(backends={"raw": engine.url}) as front,
    ):
        streamed = await front.stream()
    assert streamed.done
    assert streamed.body.startswith(own + TOKEN)


async def test_an_error_field_of_null_is_no_error():
    body = b'{"choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}], "error": null}'
    async with raw_engine(say(plain(body))) as engine, gateway(backends={"raw": engine.url}) as front:
        response = await front.chat()
    assert response.status_code == 200
    assert response.content == body


@pytest.mark.parametrize("after", ["0", "3"])
async def test_an_error_event_becomes_our_envelope_and_the_end(fake_engine, after):
    async with gateway(fake_engine) as front:
        streamed = await front.stream(headers={"x-fake-error-event": after})
        totals = await front.totals()
        metrics = await front.metrics()
    assert_error_event(streamed, "engine_error")
    assert streamed.error["type"] == "upstream_error"
    assert "scripted failure" in streamed.error["message"]
    assert len(streamed.text.split()) == int(after)
    assert totals["failed"] == 1
    assert metrics.value("gateway_exchanges_total", outcome="failed") == 1


@pytest.mark.parametrize(
    "event",
    [
        b'event: error\ndata: {"error": {"message": "out of memory"}}\n\n',
        b'data: {"error": "out of memory"}\n\n',
        b"event: error\ndata: out of memory\n\n",
        b'data: {"error": {"message": "out of memory", "code": 500}, "choices": []}\n\n',
        b'data: {"error": {"message": "out of memory"}, "choices": null}\n\n',
        b'event: error\ndata: {"message": "out of memory"}\n\n',
    ],
    ids=["named", "string", "text", "with choices", "with null choices", "without envelope"],
)
async def test_every_engines_way_to_write_an_error_event_is_understood(event):
    async with (
        raw_engine(say(EVENT_STREAM + TOKEN + event + END)) as engine,
        gateway(backends={"raw": engine.url}) as front,
    ):
        streamed = await front.stream()
    assert_error_event(streamed, "engine_error")
    assert "out of memory" in streamed.error["message"]
    assert streamed.text == "Hi"


async def test_an_error_event_about_the_context_keeps_its_code():
    """The client can correct this one: agents cut their history when they see it."""
    event = b'data: {"error": {"code": 400, "message": "too long", "type": "exceed_context_size_error"}}\n\n'
    async with raw_engine(say(EVENT_STREAM + event)) as engine, gateway(backends={"raw": engine.url}) as front:
        streamed = await front.stream()
    assert_error_event(streamed, "context_length_exceeded")


async def test_an_error_in_a_body_of_status_200_is_an_error(fake_engine):
    async with gateway(fake_engine) as front:
        response = await front.chat(headers={"x-fake-error-event": "0"})
    assert (response.status_code, response.json()["error"]["code"]) == (502, "engine_error")


async def test_a_json_error_instead_of_a_stream_is_that_error():
    body = plain(b'{"error": {"message": "no slot is free"}}')
    async with raw_engine(say(body)) as engine, gateway(backends={"raw": engine.url}) as front:
        response = await front.chat(stream=True)
    assert response.status_code == 502
    assert "no slot is free" in response.json()["error"]["message"]


async def test_a_whole_answer_instead_of_a_stream_is_refused():
    body = plain(b'{"choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}]}')
    async with raw_engine(say(body)) as engine, gateway(backends={"raw": engine.url}) as front:
        response = await front.chat(stream=True)
    assert (response.status_code, response.json()["error"]["code"]) == (502, "engine_invalid_response")


@pytest.mark.parametrize(
    "answer",
    [
        b"this is not HTTP at all\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",
        plain(b"", status=b"204 No Content"),
        plain(b"", status=b"302 Found", extra=b"location: http://127.0.0.1:1/\r\n"),
        b"HTTP/1.1 200 OK\r\ncontent-length: nine\r\n\r\n",
    ],
    ids=["text", "tls", "no content", "redirect", "bad length"],
)
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
async def test_an_answer_that_is_no_http_or_of_no_use_is_a_502(answer, stream):
    async with raw_engine(say(answer)) as engine, gateway(backends={"raw": engine.url}) as front:
        response = await front.chat(stream=stream)
    assert response.status_code == 502
    assert response.json()["error"]["type"] == "upstream_error"


async def test_an_event_without_an_end_is_cut_off_at_its_bound():
    """16 MB of one line are no event; the gateway does not swallow what an engine pours out."""
    flood = [EVENT_STREAM, TOKEN, *[b"data: " + b"x" * 1_000_000] * 20]
    async with raw_engine(say(*flood, then_stall=True)) as engine, gateway(backends={"raw": engine.url}) as front:
        streamed = await front.stream()
    assert_error_event(streamed, "engine_invalid_response")
    assert streamed.text == "Hi"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 409, 422, 429, 500, 501, 502, 503, 504, 507])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
async def test_an_engines_status_becomes_ours(fake_engine, status, stream):
    """Of what the client can correct the status stays; the rest is the engine's fault or the gateway's."""
    expected = {
        400: (400, "invalid_request"),
        401: (502, "engine_error"),
        403: (502, "engine_error"),
        404: (404, "model_not_found"),
        408: (504, "engine_timeout"),
        409: (400, "invalid_request"),
        422: (400, "invalid_request"),
        429: (429, "rate_limited"),
        501: (400, "unsupported_parameter"),
        503: (503, "queue_full"),
        504: (504, "engine_timeout"),
    }
    async with gateway(fake_engine) as front:
        response = await front.chat(stream=stream, headers={"x-fake-status": str(status)})
        assert (await front.totals())["failed"] == 1
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == expected.get(status, (502, "engine_error"))
    assert "scripted failure" in error["message"]
    assert response.headers["content-type"] == "application/json"
    assert len(fake_engine.requests(CHAT)) == 1, "a status is never tried again"


async def test_a_prompt_above_the_context_is_a_400_that_clients_know(fake_engine):
    async with gateway(fake_engine) as front:
        response = await front.chat(messages=[{"role": "user", "content": "word " * 9000}])
    assert (response.status_code, response.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert "8192" in response.json()["error"]["message"]

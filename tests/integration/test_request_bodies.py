"""Whatever a client sends gets an answer that it can read, in one envelope, and reaches no engine unless it is good."""

import asyncio
import json

import httpx
import pytest

from tests.integration.gateways import CHAT, chat_body, gateway
from tests.integration.raw_client import raw_client

MB = 1_000_000
ROUTES = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
JSON = {"content-type": "application/json"}


def assert_envelope(response: httpx.Response, status: int, code: str) -> dict:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert "x-request-id" in response.headers
    return error


# --- size -------------------------------------------------------------------------------------------------------


async def test_60_mb_are_a_413_that_httpx_can_read(fake_engine):
    async with gateway(fake_engine) as front:
        response = await front.client.post(CHAT, content=b"x" * 60 * MB, headers=JSON)
        assert (await front.chat()).status_code == 200
    error = assert_envelope(response, 413, "body_too_large")
    assert "60,000,000" in error["message"]
    assert "32,000,000" in error["message"]
    assert "GATEWAY_MAX_BODY_MB" in error["message"]
    assert len(fake_engine.requests()) == 1


async def test_60_mb_are_a_413_that_a_bare_socket_can_read(fake_engine):
    """A client that writes everything before it reads anything."""
    async with gateway(fake_engine) as front, raw_client(front.url) as client:
        await client.send("POST", CHAT, b"x" * 60 * MB)
        assert await client.read_head() == 413
        assert json.loads(await client.read_body())["error"]["code"] == "body_too_large"
        assert client.headers["connection"] == "close"
        assert await client.reader.read() == b""


async def test_an_upload_in_chunks_that_grows_above_the_limit_is_a_413(fake_engine):
    async def pour():
        for _ in range(40):
            yield b" " * (MB // 10)

    async with gateway(fake_engine, max_body_mb=2) as front:
        response = await front.client.post(CHAT, content=pour(), headers=JSON)
    error = assert_envelope(response, 413, "body_too_large")
    assert "2,000,000" in error["message"]
    assert not fake_engine.requests()


async def test_a_body_just_below_the_limit_passes(fake_engine):
    body = json.dumps(chat_body(max_tokens=1)).encode()
    async with gateway(fake_engine, max_body_mb=2) as front:
        whole = await front.client.post(CHAT, content=body + b" " * (2 * MB - len(body)), headers=JSON)
        above = await front.client.post(CHAT, content=body + b" " * (2 * MB - len(body) + 1), headers=JSON)
    assert whole.status_code == 200
    seen = fake_engine.requests(CHAT)[0]["headers"]
    assert seen["content-length"] == str(2 * MB)
    assert seen["content-type"] == "application/json"
    assert "content-disposition" not in seen
    assert_envelope(above, 413, "body_too_large")


async def test_a_client_that_expects_to_be_told_is_told_before_it_sends(fake_engine):
    """curl asks so for bodies above 1 MB."""
    async with gateway(fake_engine) as front, raw_client(front.url) as client:
        body = json.dumps(chat_body(max_tokens=1)).encode()
        await client.send("POST", CHAT, b"", {"Content-Length": str(len(body)), "Expect": "100-continue"})
        assert await client.read_head() == 100
        client.writer.write(body)
        assert await client.read_head() == 200


async def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_error(fake_engine, logs):
    async with gateway(fake_engine) as front:
        async with raw_client(front.url) as client:
            await client.send("POST", CHAT, b'{"model":', {"Content-Length": "1000"})
        while not (lines := [line for line in logs if line.get("route") == CHAT]):
            await asyncio.sleep(0.005)
        totals = await front.totals()
    assert lines[0]["outcome"] == "client_left"
    assert lines[0]["status"] == 499
    assert totals["requests"] == 0


# --- JSON -------------------------------------------------------------------------------------------------------

NO_REQUEST = {
    "empty": b"",
    "blank": b" \n ",
    "an array": b"[]",
    "a text": b'"hello"',
    "a number": b"7",
    "null": b"null",
    "half": b'{"model": "fake-chat", "messages": [',
    "two": b"{}{}",
    "not UTF-8": b'{"model": "fake-chat", "messages": [{"role": "user", "content": "\xff\xfe"}]}',
    "UTF-16": '{"model": "fake-chat"}'.encode("utf-16"),
    "NaN": b'{"model": "fake-chat", "messages": [{"role": "user", "content": NaN}]}',
    "a zero byte": b'{"model": "fake-chat\x00"}',
    "a form": b"model=fake-chat&messages=hello",
    "brackets": b"[" * 20_000,
    "nested arrays": b'{"model": "fake-chat", "messages": [%b%b]}' % (b"[" * 20_000, b"]" * 20_000),
    "nested objects": b'{"model": "fake-chat", "messages": [%b1%b]}' % (b'{"a":' * 20_000, b"}" * 20_000),
    "nested unknown": b'{"model": "fake-chat", "messages": [{}], "x": %b%b}' % (b"[" * 20_000, b"]" * 20_000),
}


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("body", NO_REQUEST.values(), ids=NO_REQUEST.keys())
async def test_a_body_that_is_no_request_is_a_400(fake_engine, path, body):
    async with gateway(fake_engine) as front:
        response = await front.client.post(path, content=body, headers=JSON)
    assert_envelope(response, 400, "invalid_request")
    assert not fake_engine.requests()


@pytest.mark.parametrize("path", ["/api/chat", "/api/generate", "/api/embed", "/api/show"])
@pytest.mark.parametrize("body", NO_REQUEST.values(), ids=NO_REQUEST.keys())
async def test_the_ollama_routes_refuse_the_same_in_their_own_form(fake_engine, path, body):
    async with gateway(fake_engine) as front:
        response = await front.client.post(path, content=body, headers=JSON)
    assert response.status_code == 400
    assert isinstance(response.json()["error"], str)
    assert not fake_engine.requests()


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": None}, "model"),
        ({"model": 7}, "model"),
        ({"model": ""}, "model"),
        ({"model": "x" * 300}, "model"),
        ({"messages": "hello"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": ["hello"]}, "messages[0]"),
        ({"messages": [{}, None]}, "messages[1]"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": []}, "stream_options"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 3}, "top_p"),
        ({"max_tokens": -5}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"tools": ["hammer"]}, "tools[0]"),
    ],
)
async def test_a_wrong_field_is_named(fake_engine, change, param):
    async with gateway(fake_engine) as front:
        response = await front.client.post(CHAT, json={**chat_body(), **change})
    assert assert_envelope(response, 400, "invalid_request")["param"] == param
    assert not fake_engine.requests()


@pytest.mark.parametrize("path", ROUTES)
async def test_a_missing_model_is_named(fake_engine, path):
    async with gateway(fake_engine) as front:
        response = await front.client.post(path, json={"messages": [{}], "prompt": "a", "input": "a"})
    assert assert_envelope(response, 400, "invalid_request")["param"] == "model"


@pytest.mark.parametrize("path", ROUTES)
async def test_an_unknown_model_is_a_404_that_names_what_there_is(fake_engine, path):
    """llama.cpp would have answered with whatever model it has."""
    async with gateway(fake_engine) as front:
        body = {"model": "gpt-17", "messages": [{"role": "user", "content": "a"}], "prompt": "a", "input": "a"}
        response = await front.client.post(path, json=body)
    error = assert_envelope(response, 404, "model_not_found")
    assert error["param"] == "model"
    assert "'gpt-17'" in error["message"]
    assert "fake-chat, fake-embed" in error["message"]
    assert not fake_engine.requests()


async def test_fields_that_nobody_knows_reach_the_engine_byte_for_byte(fake_engine):
    own = '"logit_bias":{"50256":-1e2},"x_own":[1.10,{"deep":"\\u00e9 é"}],"cache_prompt":true'
    body = json.dumps(chat_body(max_tokens=1))[:-1] + "," + own + "}"
    async with gateway(fake_engine, aliases={"nick": "fake-chat"}) as front:
        sent = body.replace('"fake-chat"', '"nick"').encode()
        assert (await front.client.post(CHAT, content=sent, headers=JSON)).status_code == 200
    seen = fake_engine.requests(CHAT)[-1]["body"]
    assert seen == json.loads(body)
    assert seen["model"] == "fake-chat", "the engine's own id, not the alias"


async def test_a_path_that_is_not_there_and_a_wrong_method_have_the_same_envelope(fake_engine):
    async with gateway(fake_engine) as front:
        assert_envelope(await front.client.get("/v1/nothing"), 404, "not_found")
        wrong = await front.client.get(CHAT)
        assert_envelope(wrong, 405, "method_not_allowed")
        assert wrong.headers["allow"] == "POST"


# --- headers ----------------------------------------------------------------------------------------------------

GARBAGE = {
    "no bytes of a text": b"X-Odd: \xff\xfe\x80\r\n",
    "an empty value": b"X-Odd:\r\n",
    "a tab": b"X-Odd: a\tb\r\n",
    "a long value": b"X-Odd: " + b"v" * 60_000 + b"\r\n",
    "many": b"".join(b"X-Odd-%d: v\r\n" % number for number in range(300)),
    "twice": b"X-Odd: 1\r\nX-Odd: 2\r\n",
    "an odd request id": b'X-Request-Id: "; drop table\r\n',
    "a long request id": b"X-Request-Id: " + b"a" * 5000 + b"\r\n",
    "an odd trace": b"traceparent: 00-nonsense\r\n",
    "an odd hop count": b"X-Sparkstack-Hops: many\r\n",
    "a negative hop count": b"X-Sparkstack-Hops: -9\r\n",
    "a huge hop count": b"X-Sparkstack-Hops: 99999999999999999999\r\n",
    "an odd content type": b"Content-Type: image/png\r\n",
    "an odd connection": b"Connection: keep-alive, X-Odd, ,,\r\n",
    "a foreign scheme": b"Authorization: Basic dXNlcjpwYXNz\r\n",
    "an empty key": b"Authorization: Bearer \r\n",
}
NO_HTTP = {
    "a control character": b"X-Odd: a\x01b\r\n",
    "a zero byte": b"X-Odd: a\x00b\r\n",
    "no name": b": v\r\n",
    "a space in the name": b"X Odd: v\r\n",
    "no colon": b"X-Odd\r\n",
    "two lengths": b"Content-Length: 1\r\nContent-Length: 2\r\n",
    "length and chunks": b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
    "a bare line feed": b"X-Odd: a\nX-Smuggled: b\r\n",
}


async def _with_header(front, line: bytes) -> bytes:
    """Return the status line of a good request with a header line of this kind."""
    body = json.dumps(chat_body(max_tokens=1)).encode()
    length = b"" if b"Content-Length" in line else b"Content-Length: %d\r\n" % len(body)
    async with raw_client(front.url) as client:
        client.writer.write(b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\n%b%b\r\n" % (CHAT.encode(), length, line) + body)
        return await asyncio.wait_for(client.reader.readline(), 5)


@pytest.mark.parametrize("line", GARBAGE.values(), ids=GARBAGE.keys())
async def test_odd_headers_do_no_harm(fake_engine, line):
    async with gateway(fake_engine) as front:
        assert await _with_header(front, line) == b"HTTP/1.1 200 OK\r\n"
        assert (await front.chat()).status_code == 200


@pytest.mark.parametrize("line", NO_HTTP.values(), ids=NO_HTTP.keys())
async def test_what_is_no_http_is_refused_and_nothing_is_smuggled(fake_engine, line):
    async with gateway(fake_engine) as front:
        status = await _with_header(front, line)
        assert (await front.chat()).status_code == 200
    assert status.startswith(b"HTTP/1.1 400 ")
    assert len(fake_engine.requests(CHAT)) == 1, "the refused request has not reached the engine"

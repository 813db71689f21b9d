"""Each scripted failure of the fake engine really does what it says, seen from a socket."""

import asyncio
import contextlib
import json
import re
import signal
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.testkit import faults
from tests.testkit.server import eventually, fake_engine, in_thread, run_process

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"
SILENT_S = 0.15
"""How long nothing must come for us to believe that nothing comes; the engine itself needs a millisecond."""


@pytest.fixture
async def client(fake_engine):
    async with httpx.AsyncClient(base_url=fake_engine.url, trust_env=False, timeout=10) as client:
        yield client


def asking(text="hello", **fields):
    return {"model": "fake-chat", "messages": [{"role": "user", "content": text}], **fields}


def contents(body: bytes) -> int:
    """Count the content chunks of a stream's bytes."""
    return body.count(b'"content":"')


class Raw:
    """One request on a socket of its own, read byte by byte as it comes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, engine):
        host, port = engine.url.removeprefix("http://").split(":")
        return cls(*await asyncio.open_connection(host, int(port)))

    def send(self, *, stream=True, headers=None, path=CHAT, **fields):
        body = json.dumps(asking(stream=stream, **fields)).encode()
        lines = [f"POST {path} HTTP/1.1", "host: fake", f"content-length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        self.writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    async def rest(self) -> bytes:
        """Read to the end of the connection, which must come within five seconds."""
        async with asyncio.timeout(60):
            return await self.reader.read()

    async def until_reset(self) -> bytes:
        """Return what comes before the connection's reset; a clean end is no reset."""
        seen = b""
        with contextlib.suppress(ConnectionResetError):
            async with asyncio.timeout(60):
                while True:
                    seen += await self.reader.readexactly(1)
        return seen

    async def until(self, text: bytes) -> bytes:
        async with asyncio.timeout(60):
            return await self.reader.readuntil(text)

    async def nothing_more(self) -> bytes:
        """Return what still comes before a silence; the connection must stay open."""
        seen = b""
        while True:
            try:
                async with asyncio.timeout(SILENT_S):
                    piece = await self.reader.read(65536)
            except TimeoutError:
                return seen
            assert piece, "the connection was closed"
            seen += piece

    async def close(self):
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


@pytest.fixture
async def raw(fake_engine):
    opened = await Raw.open(fake_engine)
    yield opened
    await opened.close()


# --- the head ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("status", [400, 401, 404, 429, 500, 501, 503])
async def test_a_status_has_llama_cpps_envelope_and_its_retry_after(client, status, stream):
    headers = {"x-fake-status": str(status), "x-fake-retry-after": "7"}
    response = await client.post(CHAT, json=asking(stream=stream), headers=headers)
    assert response.status_code == status
    assert response.headers["retry-after"] == "7"
    assert response.json()["error"]["code"] == status


async def test_a_stalled_head_says_nothing_and_keeps_the_socket_open(raw):
    raw.send(headers={"x-fake-stall-head": "1"})
    assert await raw.nothing_more() == b""


async def test_a_death_before_the_head_is_a_reset_before_any_byte(raw):
    raw.send(headers={"x-fake-die-head": "1"})
    with pytest.raises(ConnectionResetError):
        await raw.rest()


async def test_a_head_can_be_late(client):
    begin = time.monotonic()
    async with client.stream("POST", CHAT, json=asking(stream=True), headers={"x-fake-head-ms": "60"}):
        assert time.monotonic() - begin >= 0.060


# --- the body ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [0, 1, 3])
async def test_a_stream_stalls_after_so_many_chunks(fake_engine, raw, chunks):
    raw.send(headers={"x-fake-stall-after": str(chunks)})
    assert (await raw.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
    assert contents(await raw.nothing_more()) == chunks
    await raw.close()
    await eventually(lambda: fake_engine.state().cancelled)
    assert fake_engine.state().cancellations[0].chunks_sent == chunks


@pytest.mark.parametrize("chunks", [0, 3])
async def test_a_stream_dies_with_a_reset_after_so_many_chunks(fake_engine, raw, chunks):
    raw.send(headers={"x-fake-die-after": str(chunks)})
    seen = await raw.until_reset()
    assert seen.startswith(b"HTTP/1.1 200 OK\r\n")
    assert contents(seen) == chunks
    assert fake_engine.state().broken == 1


async def test_sockets_die_the_same_way_under_uvloop():
    with in_thread(fake_engine(), use_uvloop=True) as engine:
        raw = await Raw.open(engine)
        raw.send(headers={"x-fake-die-after": "3"})
        assert contents(await raw.until_reset()) == 3
        await raw.close()
        assert engine.state().broken == 1


async def test_a_stream_can_die_with_a_close_that_lacks_the_bodys_end(raw):
    raw.send(headers={"x-fake-die-after": "2", "x-fake-die-with": "fin"})
    seen = await raw.rest()
    assert contents(seen) == 2
    assert not seen.endswith(b"0\r\n\r\n")


async def test_a_truncated_stream_ends_cleanly_in_the_middle_of_an_event(client, fake_engine):
    response = await client.post(CHAT, json=asking(stream=True), headers={"x-fake-truncate": "2"})
    whole, _, half = response.content.rpartition(b"\n\n")
    assert contents(whole) == 2
    assert half.startswith(b"data: {")
    assert not half.endswith(b"}")
    assert fake_engine.state().broken == 1


async def test_an_error_event_ends_the_stream_without_done(client):
    response = await client.post(CHAT, json=asking(stream=True), headers={"x-fake-error-event": "2"})
    events = response.content.split(b"\n\n")
    assert contents(response.content) == 2
    assert json.loads(events[-2].removeprefix(b"data: "))["error"]["code"] == 500
    assert events[-1] == b""


@pytest.mark.parametrize(
    ("kind", "content_type", "sign"),
    [
        ("html", "text/html", b"<h1>It works!</h1>"),
        ("text", "text/event-stream", b"this is not an event"),
        ("json", "text/event-stream", b'"content":"half a\n\n'),
        ("binary", "application/octet-stream", bytes(range(256))),
    ],
)
async def test_garbage_is_a_200_that_is_no_stream(client, kind, content_type, sign):
    response = await client.post(CHAT, json=asking(stream=True), headers={"x-fake-garbage": kind})
    assert response.status_code == 200
    assert response.headers["content-type"] == content_type
    assert sign in response.content


async def test_garbage_is_a_broken_document_where_no_stream_was_asked_for(client):
    response = await client.post(CHAT, json=asking(), headers={"x-fake-garbage": "json"})
    assert response.status_code == 200
    with pytest.raises(json.JSONDecodeError):
        response.json()


@pytest.mark.parametrize("script", ["stall-after", "die-after", "truncate"])
async def test_a_plain_answer_breaks_in_its_middle(raw, script):
    raw.send(stream=False, headers={f"x-fake-{script}": "1", "x-fake-die-with": "fin"})
    head = await raw.until(b"\r\n\r\n")
    declared = int(re.search(rb"content-length: (\d+)", head)[1])
    came = len(await (raw.nothing_more() if script == "stall-after" else raw.rest()))
    assert came == declared // 2


async def test_a_slow_body_is_dribbled(client):
    begin = time.monotonic()
    async with client.stream("POST", CHAT, json=asking(max_tokens=1), headers={"x-fake-slow-body": "2"}) as response:
        pieces = [piece async for piece in response.aiter_raw()]
    assert len(json.loads(b"".join(pieces))["choices"]) == 1
    assert max(map(len, pieces)) < len(b"".join(pieces)) / 2
    assert time.monotonic() - begin >= (len(b"".join(pieces)) // 7 - 1) * 0.002


# --- what is left out, and how it is written --------------------------------------------------------------------


async def test_usage_done_and_index_can_be_left_out(client):
    tools = [{"type": "function", "function": {"name": "magic"}}]
    body = asking("magic", stream=True, tools=tools, stream_options={"include_usage": True})
    whole = (await client.post(CHAT, json=body)).content
    assert b'"usage"' in whole
    assert b'"tool_calls":[{"index":0' in whole
    headers = {"x-fake-no-usage": "1", "x-fake-no-done": "1", "x-fake-no-tool-index": "1"}
    bare = (await client.post(CHAT, json=body, headers=headers)).content
    assert b'"usage"' not in bare
    assert b"[DONE]" not in bare
    assert b'"tool_calls":[{"id"' in bare
    assert b'"tool_calls":[{"index"' not in bare
    assert "usage" not in (await client.post(CHAT, json=asking(), headers=headers)).json()


async def test_split_events_are_written_in_pieces_of_so_many_bytes(raw):
    raw.send(text="echo: 🚀", headers={"x-fake-split": "3"})
    await raw.until(b"\r\n\r\n")
    body = await raw.until(b"\r\n0\r\n\r\n")
    sizes = [int(size, 16) for size in re.findall(rb"(?:^|\r\n)([0-9a-f]+)\r\n", body)]
    assert set(sizes[:-1]) <= {1, 2, 3}
    assert sizes.count(3) > len(sizes) / 2
    assert "🚀".encode() not in body, "no piece holds a whole emoji"


async def test_batched_events_come_as_one_piece(raw):
    raw.send(headers={"x-fake-batch": "5"})
    await raw.until(b"\r\n\r\n")
    size = int((await raw.until(b"\r\n")).strip(), 16)
    assert contents(await raw.reader.readexactly(size)) == 4, "five events: the role and four tokens"


async def test_comments_and_crlf(client):
    headers = {"x-fake-comment-every": "2", "x-fake-crlf": "1"}
    body = (await client.post(CHAT, json=asking(stream=True, max_tokens=4), headers=headers)).content
    assert body.replace(b"\r\n", b"").count(b"\n") == 0
    assert body.count(b": keep-alive\r\n\r\n") == 3, "seven events"


async def test_a_kept_alive_socket_is_closed_after_the_answer_without_warning(raw):
    raw.send(stream=False, headers={"x-fake-drop-keepalive": "1"})
    seen = await raw.rest()
    head, _, body = seen.partition(b"\r\n\r\n")
    assert b"connection" not in head.lower()
    assert json.loads(body)["choices"]


async def test_a_kept_alive_socket_can_be_reset_by_the_next_request(raw):
    raw.send(headers={"x-fake-drop-keepalive": "next"})
    await raw.until(b"\r\n0\r\n\r\n")
    assert await raw.nothing_more() == b""
    raw.send()
    with pytest.raises(ConnectionResetError):
        await raw.rest()


async def test_requests_sent_at_once_on_one_socket_are_answered_in_order(fake_engine, raw):
    raw.send(text="echo: first", stream=False)
    raw.send(text="echo: second", stream=False, headers={"connection": "close"})
    assert re.findall(rb'"content":"(\w+)"', await raw.rest()) == [b"first", b"second"]
    assert fake_engine.state().accepted_connections == 1


async def test_a_body_in_chunks_is_read(client, fake_engine):
    async def body():
        yield json.dumps(asking()).encode()[:20]
        yield json.dumps(asking()).encode()[20:]

    assert (await client.post(CHAT, content=body())).status_code == 200
    assert fake_engine.requests()[-1]["headers"]["transfer-encoding"] == "chunked"


# --- what a test sees of it -------------------------------------------------------------------------------------


async def test_a_client_that_leaves_is_noticed_at_once_with_what_it_got():
    async with fake_engine(tokens_per_s=50) as engine:
        raw = await Raw.open(engine)
        raw.send()
        await raw.until(b'"content":"')
        await raw.until(b'"content":"')
        assert engine.state().open_streams == 1
        left_at = time.monotonic()
        await raw.close()
        await eventually(lambda: engine.state().cancelled)
        seen = engine.state().cancellations[0]
        assert (seen.path, seen.model) == (CHAT, "fake-chat")
        assert 2 <= seen.chunks_sent < 24
        assert 0 <= seen.noticed_at_s - left_at < 0.1
        assert engine.state().open_streams == engine.state().finished == 0


async def test_requests_can_be_read_and_forgotten(client, fake_engine):
    await client.get("/v1/models", headers={"x-trace": "a"})
    await client.post(CHAT, json=asking(temperature=0.5), headers={"x-trace": "b"})
    listed = (await client.get("/fake/requests")).json()
    assert listed == fake_engine.requests()
    assert [(each["path"], each["headers"]["x-trace"], each["body"]["temperature"]) for each in listed] == [
        (CHAT, "b", 0.5)
    ]
    assert [each["headers"]["x-trace"] for each in (await client.get("/fake/requests?path=/v1/models")).json()] == ["a"]
    await client.delete("/fake/requests")
    assert fake_engine.requests() == []
    state = (await client.get("/fake/state")).json()
    assert (state["started"], state["finished"], state["cancelled"], state["open_streams"]) == (1, 1, 0, 0)


async def test_rules_fail_what_matches_as_often_as_they_say(client, fake_engine):
    fake_engine.script(path="/v1/models", status=503, times=2)
    assert [(await client.get("/v1/models")).status_code for _ in range(3)] == [503, 503, 200]
    await client.post("/fake/script", json={"model": "fake-embed", "status": 500})
    embed = {"model": "fake-embed", "input": "a"}
    assert (await client.post("/v1/embeddings", json=embed)).status_code == 500
    assert (await client.post(CHAT, json=asking())).status_code == 200
    override = await client.post("/v1/embeddings", json=embed, headers={"x-fake-status": "429"})
    assert override.status_code == 429
    await client.delete("/fake/script")
    assert (await client.post("/v1/embeddings", json=embed)).status_code == 200
    assert (await client.post("/fake/script", json={"statsu": 1})).status_code == 400


@pytest.mark.parametrize("header", [{"x-fake-statsu": "429"}, {"x-fake-status": "many"}, {"x-fake-garbage": "pdf"}])
async def test_a_script_that_cannot_be_understood_is_refused(client, header):
    response = await client.post(CHAT, json=asking(), headers=header)
    assert response.status_code == 400
    assert next(iter(header)) in response.json()["error"]["message"]


async def test_an_engine_dies_and_comes_back_on_its_port():
    async with fake_engine() as engine, httpx.AsyncClient(base_url=engine.url, trust_env=False) as client:
        raw = await Raw.open(engine)
        raw.send(headers={"x-fake-stall-after": "1"})
        await raw.until(b'"content":"')
        await engine.stop()
        with pytest.raises(ConnectionResetError):
            await raw.rest()
        await raw.close()
        assert engine.state().broken == 1
        with pytest.raises(httpx.ConnectError):
            await client.get("/health")
        await engine.start()
        assert (await client.get("/health")).status_code == 200


async def test_the_command_line_serves_and_ends_on_sigterm():
    flags = ["--ttft-ms=40", "--tokens-per-s=500", "--seed=3", "--model=a", "--model=b", "--embedding-model=e"]
    command = [sys.executable, "-m", "tests.testkit.fake_engine", "--port=0", "--no-usage", *flags]
    async with run_process(command, ready=r"^\{.*\}$") as child:
        url = json.loads(child.match[0])["url"]
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            assert [each["id"] for each in (await client.get("/v1/models")).json()["data"]] == ["a", "b", "e"]
            begin = time.monotonic()
            answer = (await client.post(CHAT, json=asking() | {"model": "b"})).json()
            assert time.monotonic() - begin >= 0.040
            assert "usage" not in answer
            left = client.stream(
                "POST", CHAT, json=asking(stream=True) | {"model": "a"}, headers={"x-fake-stall-after": "1"}
            )
            async with left as response:
                body = response.aiter_raw()  # kept: a forgotten iterator closes the stream
                await anext(body)
                assert (await client.get("/fake/state")).json()["open_streams"] == 1
        child.send_signal(signal.SIGTERM)
        assert await child.wait() == 0


def test_the_readme_has_every_header_and_no_other():
    readme = (Path(faults.__file__).parent / "README.md").read_text()
    table = re.findall(r"^\| `(x-fake-[a-z-]+):", readme, re.MULTILINE)
    assert sorted(table) == sorted(faults.HEADERS)

"""An engine that costs next to nothing: raw asyncio, answers made beforehand, one TCP segment an event."""

import argparse
import asyncio
import time
from collections.abc import Iterator
from typing import Any, cast

import httptools
import uvloop

from loadtests.gateway_overhead import wire

_HEAD = b"HTTP/1.1 %s\r\nServer: llama.cpp\r\nContent-Type: %s\r\n"
_STREAM_HEAD = _HEAD % (b"200 OK", b"text/event-stream") + b"Transfer-Encoding: chunked\r\n\r\n"


def _whole(status: bytes, body: bytes) -> bytes:
    return _HEAD % (status, b"application/json; charset=utf-8") + b"Content-Length: %d\r\n\r\n" % len(body) + body


def _http_chunk(data: bytes) -> bytes:
    return b"%x\r\n" % len(data) + data + b"\r\n"


_LISTING = (
    b'{"object":"list","data":[{"id":"%s","object":"model","created":1763700000,"owned_by":"llamacpp",'
    b'"meta":{"n_ctx":8192,"n_params":134515008,"size":98300000}}]}' % wire.MODEL.encode()
)
_FIXED = {
    b"/v1/models": _whole(b"200 OK", _LISTING),
    b"/health": _whole(b"200 OK", b'{"status":"ok"}'),
    b"/get_server_info": _whole(b"200 OK", b"{}"),
}
_NOT_FOUND = _whole(b"404 Not Found", b'{"error":{"message":"not found","type":"not_found_error","code":404}}')
_PLAIN = _whole(b"200 OK", wire.plain_answer(wire.PLAIN_TOKENS))
_ROLE = _http_chunk(wire.ROLE_EVENT)
_FINISH = _http_chunk(wire.FINISH_EVENT)
_DONE = _http_chunk(wire.DONE_EVENT)
_LAST_CHUNK = b"0\r\n\r\n"


class Stub:
    """The engine: where it listens, and how fast its streams are."""

    def __init__(self) -> None:
        self.interval_s = 0.0
        """Between two tokens of a stream; 0 sends them as fast as each can have a segment of its own."""
        self.port = 0
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()

    @property
    def url(self) -> str:
        """The engine's address, without a path."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self, port: int = 0) -> None:
        """Listen on loopback, on any free port by default."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self, self._connections), "127.0.0.1", port, backlog=2048
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Close the listener and every connection."""
        if self._server is not None:
            self._server.close()
            for connection in list(self._connections):
                connection.transport.abort()
            await self._server.wait_closed()


class _Connection(asyncio.Protocol):
    transport: asyncio.Transport

    def __init__(self, stub: Stub, connections: "set[_Connection]") -> None:
        self._stub = stub
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._parser: Any = httptools.HttpRequestParser(self)
        self._url = b""
        self._body = b""
        self._timer: asyncio.Handle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.abort()

    def on_message_begin(self) -> None:
        self._url = b""
        self._body = b""

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if not self._url.endswith(b"/chat/completions"):
            self.transport.write(_FIXED.get(self._url.partition(b"?")[0], _NOT_FOUND))
            return
        stream, usage, tokens = wire.read_request(self._body)
        if stream:
            self._send_stream(tokens, usage)
        else:
            self.transport.write(_PLAIN)

    def _send_stream(self, tokens: int, usage: bool) -> None:
        """Send head and role at once, then a token each interval, then the closing events.

        Every event is written in a turn of the loop of its own: uvloop joins what is written in one turn into
        one segment, and a gateway that gets several events in one read does less work.
        """
        self.transport.write(_STREAM_HEAD)
        closing = [_FINISH, *([_http_chunk(wire.usage_event(tokens))] if usage else []), _DONE, _LAST_CHUNK]
        self._timer = self._loop.call_soon(self._role, tokens, iter(closing))

    def _role(self, tokens: int, closing: Iterator[bytes]) -> None:
        self.transport.write(_ROLE)
        self._timer = self._loop.call_soon(self._token, self._loop.time(), 0, tokens, closing)

    def _token(self, started: float, number: int, tokens: int, closing: Iterator[bytes]) -> None:
        self.transport.write(_http_chunk(wire.content_event(time.monotonic_ns())))
        number += 1
        if number == tokens:
            self._timer = self._loop.call_soon(self._close_stream, closing)
        elif self._stub.interval_s:
            due = started + number * self._stub.interval_s
            self._timer = self._loop.call_at(due, self._token, started, number, tokens, closing)
        else:
            self._timer = self._loop.call_soon(self._token, started, number, tokens, closing)

    def _close_stream(self, closing: Iterator[bytes]) -> None:
        event = next(closing, None)
        if event is None:
            self._timer = None
            return
        self.transport.write(event)
        self._timer = self._loop.call_soon(self._close_stream, closing)


async def _serve(port: int, tokens_per_s: float) -> None:
    stub = Stub()
    stub.interval_s = 1 / tokens_per_s if tokens_per_s else 0.0
    await stub.start(port)
    print(stub.url, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The engine stub alone, until it is terminated.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--tokens-per-s", type=float, default=0.0, help="of each stream; 0 is as fast as it can")
    arguments = parser.parse_args()
    uvloop.run(_serve(arguments.port, arguments.tokens_per_s))

"""An HTTP/1.1 server of callbacks that plays answers step by step and has full control of its sockets.

An ASGI server hides the socket, and a scripted engine must stall, cut and reset it. So: `asyncio.Protocol`,
httptools as the parser, no task and no queue a request. An answer is an iterator of steps, see `Step`.
"""

import asyncio
import enum
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote

import httptools


class Head(NamedTuple):
    """The status line and headers; `length` None means a body whose length is not known: chunked."""

    status: int
    headers: list[tuple[str, str]]
    length: int | None = None


class Break(enum.Enum):
    """What an engine does to its socket when it does not answer well."""

    STALL = "say nothing more and keep the socket open"
    RESET = "cut the connection so that the client gets a reset (RST)"
    CLOSE = "close the connection without the body's end (FIN), as the kernel does for a killed process"


Step = bytes | float | Head | Break
"""Body bytes, written at once as one piece; or seconds since the request came, to wait for; or one of the above."""


class Outcome(enum.Enum):
    """How an answer ended."""

    FINISHED = "finished"
    BROKEN = "broken"
    CANCELLED = "cancelled"


@dataclass(slots=True)
class Request:
    """One whole request; header names are lower-case, the last of two equal names wins."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    keep_alive: bool
    http_1_1: bool


@dataclass(slots=True)
class Answer:
    """What to play, what to tell when it ended, and what to do to the kept-alive socket afterwards."""

    steps: Iterator[Step]
    on_end: Callable[[Outcome], None] | None = None
    drop_keepalive: str | None = None
    """`1`: close right after the answer. `next`: reset when the next request comes on this socket."""


Handler = Callable[[Request], Answer]

_HEADS = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Connection(asyncio.Protocol):
    """One client's socket: reads requests, plays their answers one after the other."""

    def __init__(self, handler: Handler, connections: set["Connection"]) -> None:
        self._handler = handler
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._parser: Any = httptools.HttpRequestParser(self)
        self._waiting: deque[Request] = deque()
        self._answer: Answer | None = None
        self._reset_on_next = False
        self._write_paused = False
        self._timer: asyncio.TimerHandle | None = None
        self._transport: Any = None

    # --- asyncio.Protocol -------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._waiting.clear()
        self._end(Outcome.CANCELLED)

    def pause_writing(self) -> None:
        self._write_paused = True

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._answer is not None and self._timer is None:
            self._play()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._transport.write(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            self._transport.close()

    # --- httptools' callbacks -----------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        if self._reset_on_next:
            self.abort(Break.RESET)

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if self._headers.get("expect", "").lower() == "100-continue":
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        url = httptools.parse_url(self._url)
        query = parse_qs(url.query.decode()) if url.query else {}
        self._waiting.append(
            Request(
                method=self._parser.get_method().decode(),
                path=unquote(url.path.decode()),
                query={name: values[-1] for name, values in query.items()},
                headers=self._headers,
                body=b"".join(self._body),
                keep_alive=self._parser.should_keep_alive(),
                http_1_1=self._parser.get_http_version() == "1.1",
            )
        )
        if self._answer is None:
            self._next_request()

    # --- playing ------------------------------------------------------------------------------------------------

    def _next_request(self) -> None:
        if not self._waiting or self._transport.is_closing():
            return
        self._request = self._waiting.popleft()
        self._chunked = False
        self._started = self._loop.time()
        self._answer = self._handler(self._request)
        self._play()

    def _play(self) -> None:
        self._timer = None
        answer = self._answer
        if answer is None:
            return
        try:
            self._play_steps(answer)
        except Exception:
            self.abort(Break.RESET)
            raise

    def _play_steps(self, answer: Answer) -> None:
        for step in answer.steps:
            kind = type(step)
            if kind is float:
                self._timer = self._loop.call_at(self._started + step, self._play)  # type: ignore[operator]
                return
            if kind is bytes:
                self._write_body(step)  # type: ignore[arg-type]
                if self._write_paused:
                    return  # resume_writing goes on
            elif kind is Head:
                self._write_head(step)  # type: ignore[arg-type]
            elif step is Break.STALL:
                return  # only the client's leaving, or the engine's stop, ends this
            else:
                self.abort(step)  # type: ignore[arg-type]
                return
        self._finish(answer)

    def _write_head(self, head: Head) -> None:
        lines = [_HEADS[head.status]]
        lines += [f"{name}: {value}\r\n".encode("latin-1") for name, value in head.headers]
        if head.length is not None:
            lines.append(b"content-length: %d\r\n" % head.length)
        elif self._request.http_1_1:
            self._chunked = True
            lines.append(b"transfer-encoding: chunked\r\n")
        else:
            self._request.keep_alive = False
        if not self._request.keep_alive:
            lines.append(b"connection: close\r\n")
        lines.append(b"\r\n")
        self._transport.write(b"".join(lines))

    def _write_body(self, data: bytes) -> None:
        if self._chunked:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        self._transport.write(data)

    def _finish(self, answer: Answer) -> None:
        if self._chunked:
            self._transport.write(b"0\r\n\r\n")
        if not self._request.keep_alive or answer.drop_keepalive == "1":
            self._transport.close()
        elif answer.drop_keepalive == "next":
            self._reset_on_next = True
        self._end(Outcome.FINISHED)
        self._next_request()

    def _end(self, outcome: Outcome) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        answer, self._answer = self._answer, None
        if answer is not None and answer.on_end is not None:
            answer.on_end(outcome)

    def abort(self, how: Break) -> None:
        """End the connection at once; what was written before still reaches the client."""
        self._end(Outcome.BROKEN)
        if how is Break.CLOSE:
            self._transport.close()
            return
        handle = self._transport.get_extra_info("socket")
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._transport.abort()

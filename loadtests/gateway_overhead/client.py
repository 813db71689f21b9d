"""The clients: raw asyncio connections that check every answer and cost little themselves."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import httptools

from loadtests.gateway_overhead import wire

_KEPT_ERRORS = 3


@dataclass
class Record:
    """What the connections of one load saw. Times in nanoseconds."""

    answers: int = 0
    chunks: int = 0
    reconnects: int = 0
    error_count: int = 0
    errors: list[str] = field(default_factory=list)
    answer_ns: list[int] = field(default_factory=list)
    first_token_ns: list[int] = field(default_factory=list)
    gap_ns: list[int] = field(default_factory=list)
    delay_ns: list[int] = field(default_factory=list)

    def error(self, text: str) -> None:
        """Count an error and keep the first few."""
        self.error_count += 1
        if len(self.errors) < _KEPT_ERRORS:
            self.errors.append(text)


class Caller(asyncio.Protocol):
    """One connection that sends the same request again and again, the next when the answer is whole.

    Args:
        request: head and body, as it goes out.
        record: where the findings go.
        more: asked after each answer whether another request shall follow.
        left: called once when the connection has ended; with True where the server closed it in good order
            (`Connection: close`) although more was wanted.
    """

    def __init__(self, request: bytes, record: Record, more: Callable[[], bool], left: Callable[[bool], None]) -> None:
        self.record = record
        self._request = request
        self._more = more
        self._left: Callable[[bool], None] | None = left
        self._transport: asyncio.Transport | None = None
        self._parser: Any = httptools.HttpResponseParser(self)
        self._waiting = False
        self.sent_ns = 0

    def begin(self) -> None:
        """Forget the last answer."""
        raise NotImplementedError

    def on_body(self, body: bytes) -> None:
        """Take a piece of the answer's body."""
        raise NotImplementedError

    def wrong(self) -> str:
        """Return what is wrong with the whole answer, an empty text when it is right."""
        raise NotImplementedError

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it
        self._send()

    def _send(self) -> None:
        assert self._transport is not None
        self.begin()
        self._waiting = True
        self.sent_ns = time.monotonic_ns()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.record.error(f"the answer is not HTTP: {error}")
            self.end()

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            return
        self._waiting = False
        wrong = f"status {status}" if status != 200 else self.wrong()
        if wrong:
            self.record.error(wrong)
            self.end()
            return
        self.record.answers += 1
        keeps = self._parser.should_keep_alive()
        if not self._more():
            self.end()
        elif keeps:
            self._send()
        else:
            self.record.reconnects += 1
            self.end(again=True)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._left is not None and self._waiting:
            self.record.error(f"the connection was lost before the answer was whole ({exc or 'closed'})")
        self.end()

    def end(self, *, again: bool = False) -> None:
        """Close the connection and tell so, once."""
        if self._transport is not None:
            self._transport.abort()
        if self._left is not None:
            left, self._left = self._left, None
            left(again)


class PlainCaller(Caller):
    """Asks for whole answers."""

    def begin(self) -> None:
        self._body = b""

    def on_body(self, body: bytes) -> None:
        self._body += body

    def wrong(self) -> str:
        tokens = wire.COMPLETION_TOKENS.search(self._body)
        if wire.LAST_WORD.encode() not in self._body or tokens is None or int(tokens[1]) != wire.PLAIN_TOKENS:
            return f"a short answer of {len(self._body)} bytes: {self._body[:120]!r}"
        self.record.answer_ns.append(time.monotonic_ns() - self.sent_ns)
        return ""


class StreamCaller(Caller):
    """Asks for streams of `chunks` tokens and reads every event."""

    def __init__(self, chunks: int, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._chunks = chunks

    def begin(self) -> None:
        self._pending = b""
        self._seen = 0
        self._last_ns = 0
        self._finished = self._usage = self._done = False

    def on_body(self, body: bytes) -> None:
        now_ns = time.monotonic_ns()
        events = (self._pending + body).split(b"\n\n")
        self._pending = events.pop()
        for event in events:
            content = wire.CONTENT.search(event)
            if content is not None:
                self._token(int(content[1]), now_ns)
            else:
                self._other(event)

    def _token(self, stamp_ns: int, now_ns: int) -> None:
        record = self.record
        if self._last_ns:
            record.gap_ns.append(now_ns - self._last_ns)
        else:
            record.first_token_ns.append(now_ns - self.sent_ns)
        record.delay_ns.append(now_ns - stamp_ns)
        record.chunks += 1
        self._last_ns = now_ns
        self._seen += 1

    def _other(self, event: bytes) -> None:
        if wire.FINISHED.search(event):
            self._finished = True
        tokens = wire.COMPLETION_TOKENS.search(event)
        if tokens is not None and int(tokens[1]) == self._chunks:
            self._usage = True
        if event.strip() == b"data: [DONE]":
            self._done = True

    def wrong(self) -> str:
        if self._seen != self._chunks:
            return f"a short stream: {self._seen} of {self._chunks} tokens"
        missing = {"finish reason": self._finished, "usage": self._usage, "[DONE]": self._done}
        absent = [name for name, seen in missing.items() if not seen]
        return f"a stream without {' and '.join(absent)}" if absent else ""

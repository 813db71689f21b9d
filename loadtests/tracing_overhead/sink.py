"""Who takes spans and records: a raw HTTP server that reads what is posted and answers what it is told to."""

import asyncio
from typing import Any, cast

import httptools


class Sink:
    """A collector, or a tracking service.

    Args:
        status: of each answer.
        after_s: how long each answer takes.
    """

    def __init__(self, status: int = 200, after_s: float = 0.0) -> None:
        self.status = status
        self.after_s = after_s
        self.posts = 0
        self.bytes = 0
        self.port = 0
        self._server: asyncio.Server | None = None
        self._connections: set[_Connection] = set()

    @property
    def url(self) -> str:
        """The address, without a path."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen on any free port of loopback."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self, self._connections), "127.0.0.1", 0)
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

    def __init__(self, sink: Sink, connections: "set[_Connection]") -> None:
        self._sink = sink
        self._connections = connections
        self._parser: Any = httptools.HttpRequestParser(self)
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._sink.bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.abort()

    def on_message_complete(self) -> None:
        self._sink.posts += 1
        self._timer = asyncio.get_running_loop().call_later(self._sink.after_s, self._answer)

    def _answer(self) -> None:
        self.transport.write(b"HTTP/1.1 %d Said\r\nContent-Length: 0\r\n\r\n" % self._sink.status)

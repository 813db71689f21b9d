"""An engine that does what no scripted engine does: each test says with its own bytes how it answers POSTs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from tests.testkit.ports import free_listener

Say = Callable[[asyncio.StreamWriter], Awaitable[None]]

EVENT_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
_LISTING = b'{"object": "list", "data": [{"id": "fake-chat", "object": "model"}]}'


class RawEngine:
    """Lists one model, `fake-chat`; every other request gets what `say` writes, then a close."""

    def __init__(self, say: Say, *, list_models: bool) -> None:
        self.url = ""
        self.posts = 0
        self.open_posts = 0
        self._say = say
        self._list_models = list_models
        self._connections: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection's one request; hang up when the other side does."""
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"GET") and self._list_models:
                writer.write(_plain(_LISTING))
                return
            if head.startswith((b"POST /tokenize", b"POST /apply-template")):
                writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                return
            await self._answer(head.startswith(b"POST"), reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, is_post: bool, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.posts += is_post
        self.open_posts += is_post
        saying = asyncio.ensure_future(self._say(writer))
        leaving = asyncio.ensure_future(_until_left(reader))
        try:
            await asyncio.wait([saying, leaving], return_when=asyncio.FIRST_COMPLETED)
        finally:
            saying.cancel()
            leaving.cancel()
            await asyncio.gather(saying, leaving, return_exceptions=True)
            self.open_posts -= is_post

    async def end(self) -> None:
        """Hang up on everybody."""
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)


async def _until_left(reader: asyncio.StreamReader) -> None:
    while await reader.read(65536):
        pass


def _plain(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )


async def say_nothing(_writer: asyncio.StreamWriter) -> None:
    """Accept the request and never answer."""
    await asyncio.get_running_loop().create_future()


def say(*pieces: bytes, then_stall: bool = False) -> Say:
    """Write the pieces, then close, or fall silent."""

    async def write(writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if then_stall:
            await say_nothing(writer)

    return write


@contextlib.asynccontextmanager
async def raw_engine(how: Say, *, list_models: bool = True) -> AsyncIterator[RawEngine]:
    """Run such an engine on a free port; without `list_models` a GET gets what `how` writes too."""
    engine = RawEngine(how, list_models=list_models)
    listener = free_listener()
    server = await asyncio.start_server(engine.serve, sock=listener)
    engine.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        yield engine
    finally:
        server.close()
        await engine.end()

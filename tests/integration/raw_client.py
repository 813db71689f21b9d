"""A client that is a bare socket: it sees when each piece comes, and leaves or stops reading when it likes."""

import asyncio
import contextlib
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import urlsplit

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class Piece(NamedTuple):
    """One chunk of a chunked body, and when it was there, by `time.monotonic()`."""

    at_s: float
    data: bytes


class RawClient:
    """One connection and one request on it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.status = 0
        self.headers: dict[str, str] = {}

    async def send(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        """Send a whole request."""
        fields = {"Host": "127.0.0.1", "Content-Type": "application/json", "Content-Length": str(len(body))}
        lines = [f"{name}: {value}" for name, value in {**fields, **(headers or {})}.items()]
        head = "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode("latin-1")
        self.writer.write(head + body)
        await self.writer.drain()

    async def read_head(self) -> int:
        """Read the response's head and return its status."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.strip().split("\r\n")
        self.status = int(first.split(" ")[1])
        self.headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return self.status

    async def read_piece(self) -> Piece:
        """Return the next chunk of the body; empty data at its end."""
        size = int(await self.reader.readline(), 16)
        data = await self.reader.readexactly(size + 2)
        return Piece(time.monotonic(), data[:-2])

    async def read_pieces(self) -> list[Piece]:
        """Return all chunks."""
        pieces = []
        while (piece := await self.read_piece()).data:
            pieces.append(piece)
        return pieces

    async def read_body(self) -> bytes:
        """Return the body of a response that says its length."""
        return await self.reader.readexactly(int(self.headers["content-length"]))

    def leave(self, *, reset: bool = False) -> float:
        """Close the connection, with a reset (RST) where told so; return when."""
        if reset:
            handle = self.writer.get_extra_info("socket")
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self.writer.transport.abort()
        else:
            self.writer.close()
        return time.monotonic()


@contextlib.asynccontextmanager
async def raw_client(url: str, *, receive_bytes: int | None = None) -> AsyncIterator[RawClient]:
    """Connect to a server; `receive_bytes` makes the client's buffers small, so that it is full soon."""
    parts = urlsplit(url)
    handle = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    handle.setblocking(False)
    if receive_bytes is not None:
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    try:
        await asyncio.get_running_loop().sock_connect(handle, (parts.hostname, parts.port))
        reader, writer = await asyncio.open_connection(sock=handle, limit=receive_bytes or 2**20)
    except BaseException:  # a timeout too
        handle.close()
        raise
    try:
        yield RawClient(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def asked(
    url: str,
    path: str,
    document: Any,
    *,
    headers: Mapping[str, str] | None = None,
    receive_bytes: int | None = None,
) -> AsyncIterator[RawClient]:
    """Connect and POST a JSON document; nothing of the answer has been read."""
    async with raw_client(url, receive_bytes=receive_bytes) as client:
        await client.send("POST", path, json.dumps(document).encode(), headers)
        yield client

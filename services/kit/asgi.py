"""The few things that the hot routes need of ASGI: read a body within bounds, send a whole response."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterable
from typing import Any, TypeVar

from services.kit.errors import BodyTooLarge, RequestTimeout

Scope = dict[str, Any]
Receive = Any
Send = Any
Headers = Iterable[tuple[bytes, bytes]]

T = TypeVar("T")

DRAIN_MAX_BYTES = 64 * 1024 * 1024
DRAIN_MAX_S = 5.0
BODY_IDLE_S = 60.0


class ClientLeft(Exception):
    """The client closed its connection before its request was read."""


def header(scope: Scope, name: bytes) -> bytes | None:
    """Return the first header of this lower-case name."""
    for key, value in scope["headers"]:
        if key == name:
            return bytes(value)
    return None


async def read_body(scope: Scope, receive: Receive, max_bytes: int, setting: str) -> bytes:
    """Return the whole request body; `setting` is the variable that raises the limit.

    Raises:
        BodyTooLarge: above `max_bytes`. What the client still sends is read first, up to 64 MB or 5 s, so
            that it gets to read the answer instead of a broken pipe.
        RequestTimeout: the client sent nothing for 60 s.
        ClientLeft: it went away.
    """
    await _check_declared(scope, receive, max_bytes, setting)
    message = await _next(receive)
    if not message.get("more_body"):
        body = message.get("body", b"")
        if len(body) > max_bytes:
            raise _too_large(len(body), max_bytes, setting)
        return bytes(body)
    parts = [message.get("body", b"")]
    size = len(parts[0])
    while message.get("more_body"):
        message = await _next(receive)
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > max_bytes:
            await _drain(receive)
            raise _too_large(size, max_bytes, setting)
    return b"".join(parts)


async def stream_body(scope: Scope, receive: Receive, max_bytes: int, setting: str) -> AsyncIterator[bytes]:
    """Yield the request body in the pieces in which it comes; none of it is kept.

    Raises:
        BodyTooLarge, RequestTimeout, ClientLeft: as `read_body`; a body that did not say its length may be too
            large only after most of it has been given out.
    """
    await _check_declared(scope, receive, max_bytes, setting)
    size = 0
    more = True
    while more:
        message = await _next(receive)
        piece = message.get("body", b"")
        more = message.get("more_body", False)
        size += len(piece)
        if size > max_bytes:
            if more:
                await _drain(receive)
            raise _too_large(size, max_bytes, setting)
        if piece:
            yield piece


async def _check_declared(scope: Scope, receive: Receive, max_bytes: int, setting: str) -> None:
    declared = header(scope, b"content-length")
    if declared is not None and declared.isdigit() and int(declared) > max_bytes:
        await _drain(receive)
        raise _too_large(int(declared), max_bytes, setting)


async def _next(receive: Receive) -> dict[str, Any]:
    try:
        async with asyncio.timeout(BODY_IDLE_S):
            message: dict[str, Any] = await receive()
    except TimeoutError:
        raise RequestTimeout(f"no byte of the request body came for {BODY_IDLE_S:.0f} s; send it again") from None
    if message["type"] == "http.disconnect":
        raise ClientLeft
    return message


async def _drain(receive: Receive) -> None:
    size = 0
    try:
        async with asyncio.timeout(DRAIN_MAX_S):
            while size < DRAIN_MAX_BYTES:
                message = await _next(receive)
                size += len(message.get("body", b""))
                if not message.get("more_body"):
                    return
    except TimeoutError:
        return


def _too_large(size: int, max_bytes: int, setting: str) -> BodyTooLarge:
    return BodyTooLarge(
        f"the request body has at least {size:,} bytes, the limit is {max_bytes:,}; send less, or raise {setting}"
    )


async def unless_client_leaves(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` returns; it is cancelled when the client leaves. The request's body has been read.

    Raises:
        ClientLeft: it left first.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_until_left(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientLeft
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def send_response(send: Send, status: int, headers: Headers, body: bytes) -> None:
    """Send a whole response; its content-length is added."""
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [*headers, (b"content-length", str(len(body)).encode())],
        }
    )
    await send({"type": "http.response.body", "body": body})

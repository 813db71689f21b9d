"""Answers on the wire: whole, or as server-sent events; both end the model's work when the client leaves.

Starlette's own StreamingResponse notices a client that left only when it sends; the seven rules of streaming
(docs/decisions/0003-streaming-rules.md) want the model to stop within 100 ms.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import msgspec
import structlog
from fastapi.responses import Response

from services.kit.asgi import ClientLeft, Receive, Send, send_response, unless_client_leaves
from services.kit.errors import AppError, Internal
from services.kit.middleware import LOG_FIELDS, REQUEST_ID
from services.kit.sse import encode_event

_log = structlog.get_logger("rag")
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class _UntilClientLeaves(Response):
    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Work until done, or until nobody waits for it any more."""
        try:
            await unless_client_leaves(receive, self._work(scope, send))
        except ClientLeft:
            scope[LOG_FIELDS]["outcome"] = "client_left"

    async def _work(self, scope: Any, send: Send) -> None:
        raise NotImplementedError


class WholeAnswer(_UntilClientLeaves):
    """A JSON document, once it is there."""

    def __init__(self, make: Callable[[], Awaitable[dict[str, Any]]]) -> None:
        super().__init__()
        self._make = make

    async def _work(self, scope: Any, send: Send) -> None:
        document = await self._make()
        await send_response(send, 200, [(b"content-type", b"application/json")], msgspec.json.encode(document))


class EventStream(_UntilClientLeaves):
    """Events as they come. The head waits for the first: what fails before it has a status of its own."""

    def __init__(self, events: AsyncIterator[bytes]) -> None:
        super().__init__()
        self._events = events

    async def _work(self, scope: Any, send: Send) -> None:
        head_sent = False
        assert isinstance(self._events, AsyncGenerator)
        try:
            async with aclosing(self._events) as events:
                async for event in events:
                    if not head_sent:
                        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
                        head_sent = True
                    await send({"type": "http.response.body", "body": event, "more_body": True})
        except Exception as failure:
            if not head_sent:
                raise
            error = _told(failure, scope)
            await send({"type": "http.response.body", "body": encode_event(error.body()), "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def _told(failure: Exception, scope: Any) -> AppError:
    """Return what the client is told of a failure in the middle of its stream."""
    request_id = scope[REQUEST_ID].decode()
    if isinstance(failure, AppError):
        scope[LOG_FIELDS]["error"] = failure.code
        return failure
    _log.error("stream.crashed", request_id=request_id, exc_info=failure)
    scope[LOG_FIELDS]["error"] = Internal.code
    return Internal(f"internal error; the log of this service has it under request id {request_id}")

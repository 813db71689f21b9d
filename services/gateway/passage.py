"""Paths that belong to a service behind the gateway: every method goes on as it comes, and so does the answer.

Which paths these are, and whose, stands in `catalogue.json`: there is no table of services here. Bodies are streamed
both ways and nothing is kept: an upload costs no memory, an event of an answer that is a stream is passed on when it
comes. Nothing is tried a second time, since what has been sent of a body is gone.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any
from urllib.parse import quote

import aiohttp

from services.gateway.adapters.openai_compatible import OpenAICompatible
from services.gateway.backends import Backend
from services.gateway.door import Door
from services.gateway.errors import from_own
from services.gateway.headers import request_headers, response_headers
from services.gateway.refusals import read_briefly
from services.kit.asgi import ClientLeft, Receive, Scope, Send, header, stream_body
from services.kit.errors import AppError, EngineTimeout, EngineUnreachable, InvalidRequest
from services.kit.middleware import LOG_FIELDS, ROUTE
from services.kit.sse import encode_event

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
UPLOAD_LIMIT = "GATEWAY_MAX_UPLOAD_MB"
_EVENTS = "text/event-stream"
_ABOUT_THE_BODY = (b"content-type", b"content-length", b"content-encoding", b"accept")
"""Headers that are the gateway's own elsewhere; here the body is the client's, byte for byte."""
_ABOUT_THE_ANSWER = (b"content-type", b"content-length", b"content-encoding", b"cache-control")
_IN_A_PATH = "%/:@!$&'()*+,;=~"
_IN_A_QUERY = f"{_IN_A_PATH}?"


class PassageRoute:
    """The requests for one path of a service, and for all that is below it: a raw ASGI callable.

    Args:
        template: the route's name in logs and metrics.
    """

    def __init__(self, door: Door, template: str, backend: Backend) -> None:
        self._door = door
        self._template = template
        self._backend = backend

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Errors are raised and become the envelope in `kit.middleware`."""
        scope[ROUTE] = self._template
        door, backend = self._door, self._backend
        client = door.keys.identify(scope)
        scope[LOG_FIELDS].update(client=client, backend=backend.name)
        headers = _headers(scope, door, backend.name, client)
        passage = Passage(door, backend, scope, receive, send)
        try:
            await passage.run(_target(scope), headers)
        finally:
            if passage.may_have_changed:
                door.backends.changed(backend.name)


class Passage:
    """One request and its answer; used once."""

    def __init__(self, door: Door, backend: Backend, scope: Scope, receive: Receive, send: Send) -> None:
        settings = door.settings
        self.may_have_changed = scope["method"] not in ("GET", "HEAD")
        """Discovery had better look: at a list of models that may be another, or at a service that may be gone."""
        self._settings = settings
        self._name = backend.name
        self._api: OpenAICompatible = backend.api
        self._scope = scope
        self._receive = receive
        self._send = send
        self._body_read = asyncio.Event()
        self._body_failure: AppError | ClientLeft | None = None
        self._answering = False
        self._events = False
        self._left = False
        self._bound = asyncio.timeout(None)
        self._late = ""

    async def run(self, target: str, headers: Mapping[str, str]) -> None:
        """Carry the request to its service and the answer back.

        Raises:
            AppError: a failure before the first byte of the answer; a stream of events tells of later ones itself.
            ClientLeft
        """
        task = asyncio.current_task()
        assert task is not None
        watcher = asyncio.create_task(self._watch_client(task))
        try:
            async with self._bound:
                await self._pass_on(target, headers)
        except TimeoutError:
            await self._fail(EngineTimeout(f"{self._name} {self._late}"))
        except AppError as error:
            self.may_have_changed |= isinstance(error, EngineUnreachable)
            await self._fail(error)
        except asyncio.CancelledError:
            if not self._left:  # the server itself is ending
                raise
            task.uncancel()
            raise ClientLeft from None
        finally:
            watcher.cancel()

    async def _pass_on(self, target: str, headers: Mapping[str, str]) -> None:
        body = self._body() if _has_body(self._scope) else None
        if body is None:
            self._wait_for_the_head()
        try:
            response = await self._api.pass_on(self._scope["method"], target, headers, body)
        except AppError:
            if self._body_failure is not None:
                raise self._body_failure from None
            raise
        try:
            if response.status == 401:  # of the gateway's own key: the client's has been good
                raise from_own(401, await read_briefly(response), response.headers, self._name)
            await self._answer(response)
        finally:
            response.close()

    # The way up

    async def _body(self) -> AsyncIterator[bytes]:
        """Yield the client's body. Its silence has a bound of its own; that of the service begins with each piece."""
        settings = self._settings
        try:
            async for piece in stream_body(self._scope, self._receive, settings.max_upload_bytes, UPLOAD_LIMIT):
                self._expect(settings.idle_timeout_s, "took nothing of the upload for", "GATEWAY_IDLE_TIMEOUT_S")
                yield piece
                if not self._answering:
                    self._bound.reschedule(None)
        except (AppError, ClientLeft) as failure:
            self._body_failure = failure
            raise
        self._wait_for_the_head()

    def _wait_for_the_head(self) -> None:
        self._body_read.set()
        bound = self._settings.plain_head_timeout_s
        self._expect(bound, "sent no answer within", "GATEWAY_RESPONSE_TIMEOUT_S")

    def _expect(self, seconds: float, otherwise: str, setting: str) -> None:
        """Have the passage end when nothing moves for so long; once the answer comes, only that counts."""
        if not self._answering:
            self._late = f"{otherwise} {seconds:g} s ({setting})"
            self._bound.reschedule(asyncio.get_running_loop().time() + seconds)

    # The way down

    async def _answer(self, response: aiohttp.ClientResponse) -> None:
        idle_s = self._settings.idle_timeout_s
        self._events = response.content_type == _EVENTS
        self.may_have_changed |= self._events
        self._late = f"fell silent in the middle of the answer for {idle_s:g} s (GATEWAY_IDLE_TIMEOUT_S)"
        self._answering = True
        headers = _answer_headers(response, self._api.url)
        await self._send({"type": "http.response.start", "status": response.status, "headers": headers})
        loop = asyncio.get_running_loop()
        try:
            self._bound.reschedule(loop.time() + idle_s)
            while chunk := await response.content.readany():
                await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
                self._bound.reschedule(loop.time() + idle_s)
        except (aiohttp.ClientError, ConnectionError):
            if self._body_failure is not None:
                raise self._body_failure from None
            raise EngineUnreachable(
                f"the connection to {self._name} was lost in the middle of the answer, which is incomplete; "
                "ask again, or see `sparkstack status`"
            ) from None
        await self._send({"type": "http.response.body", "body": b""})

    async def _fail(self, error: AppError) -> None:
        """Tell the client of a failure.

        An answer that has begun and is no stream of events can't tell: it is left without its end, upon which the
        server breaks the connection off.
        """
        if not self._answering:
            raise error
        self._scope[LOG_FIELDS]["error"] = error.code
        if self._events:
            await self._send({"type": "http.response.body", "body": encode_event(error.body())})

    async def _watch_client(self, task: "asyncio.Task[None]") -> None:
        await self._body_read.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._left = True
        task.cancel()


def _has_body(scope: Scope) -> bool:
    return header(scope, b"content-length") not in (None, b"0") or header(scope, b"transfer-encoding") is not None


def _headers(scope: Scope, door: Door, backend: str, client: str) -> dict[str, str]:
    headers = request_headers(scope, door.tracer)
    del headers["Content-Type"]
    for name in _ABOUT_THE_BODY:
        value = header(scope, name)
        if value is not None:
            headers[name.decode()] = value.decode("latin-1")
    headers.update(door.vouch(backend, client))
    return headers


def _target(scope: Scope) -> str:
    """Return path and query for the service, each byte encoded as it came.

    Raises:
        InvalidRequest: a path that might lead elsewhere there.
    """
    if any(part in (".", "..") for part in scope["path"].split("/")):
        raise InvalidRequest(f"the path {scope['path']!r} has a segment that is no name; leave it out")
    path = quote(scope["raw_path"], safe=_IN_A_PATH)
    query = quote(scope["query_string"], safe=_IN_A_QUERY)
    return f"{path}?{query}" if query else path


def _answer_headers(response: aiohttp.ClientResponse, url: str) -> list[tuple[bytes, bytes]]:
    headers = [(name, value) for name, value in response_headers(response.raw_headers) if name != b"location"]
    for name, value in response.raw_headers:
        lower = name.lower()
        if lower in _ABOUT_THE_ANSWER:
            headers.append((lower, value))
        elif lower == b"location":  # the service's own address means nothing to the client
            headers.append((lower, value.removeprefix(url.encode())))
    if response.content_type == _EVENTS:
        headers.append((b"x-accel-buffering", b"no"))
    return headers


def passage_paths(backends: Any) -> list[tuple[str, str]]:
    """Return path and backend's name, the longest path first: it is the one that is meant where two fit.

    Args:
        backends: with a `name` and `paths`, in order of precedence.
    """
    found: dict[str, str] = {}
    for backend in backends:
        for path in backend.paths:
            found.setdefault(path, backend.name)
    return sorted(found.items(), key=lambda item: (-item[0].count("/"), item[0]))

"""The routes under `/api` that get and remove models' files, by the engines service."""

from collections.abc import AsyncIterator

import msgspec

from services.gateway.door import Call
from services.gateway.ollama.requests import DeleteRequest, PullRequest, named
from services.gateway.ollama.route import OllamaRoute, send_json
from services.gateway.requests import RequestReader
from services.kit.asgi import Send, send_response, unless_client_leaves
from services.kit.errors import AppError, EngineError, NotFound

_LINES = [(b"content-type", b"application/x-ndjson")]


class Pull(OllamaRoute):
    """POST /api/pull: get a model's files, with progress"""

    path = "/api/pull"
    _reader = RequestReader(PullRequest)

    async def answer(self, call: Call) -> None:
        request = self._reader.read(call.body).known
        engines = self.door.engines()
        # A name that is unknown here may be new there: the engines service decides.
        lines = engines.service.pull(named(request).removesuffix(":latest"))
        work = _stream(call.send, lines) if request.stream is not False else _collect(call.send, lines)
        try:
            await unless_client_leaves(call.receive, work)
        finally:
            engines.changed()


async def _stream(send: Send, lines: AsyncIterator[bytes]) -> None:
    """Pass progress on line by line; a refusal before the first line has a status."""
    head_sent = False
    try:
        async for line in lines:
            if not head_sent:
                head_sent = True
                headers = [*_LINES, (b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": line, "more_body": True})
    except AppError as error:
        if not head_sent:
            raise
        line = msgspec.json.encode({"error": error.message}) + b"\n"
        await send({"type": "http.response.body", "body": line, "more_body": True})
    if not head_sent:
        raise EngineError("the engines service said nothing of the pull; see `sparkstack logs engines`")
    await send({"type": "http.response.body", "body": b""})


async def _collect(send: Send, lines: AsyncIterator[bytes]) -> None:
    """Answer once, with how it ended."""
    last = b"{}"
    async for line in lines:
        last = line
    said = msgspec.json.decode(last, type=dict)
    if "error" in said or "status" not in said:
        raise EngineError(str(said.get("error") or "the pull ended without a word; see `sparkstack logs engines`"))
    await send_json(send, {"status": said["status"]})


class Delete(OllamaRoute):
    """DELETE /api/delete: remove a model's files"""

    path = "/api/delete"
    method = "DELETE"
    _reader = RequestReader(DeleteRequest)

    async def answer(self, call: Call) -> None:
        name = named(self._reader.read(call.body).known)
        engines = self.door.engines()
        target = await self.resolve(name)
        if not target.managed:
            raise NotFound(f"{name} is served by {target.backend}; its files are not for this gateway to remove")
        await engines.service.delete_files(target.upstream_id)
        await engines.look_again(at_once=True)
        await send_response(call.send, 200, [], b"")

"""What the routes under `/api` share: names, translation, loading."""

from functools import partial
from typing import Any

import msgspec

from services.gateway.catalogue import Target
from services.gateway.door import Call
from services.gateway.formats import AnswerFormat, Forward
from services.gateway.ollama.answers import EmbedFormat, loaded
from services.gateway.ollama.keep_alive import read_keep_alive
from services.gateway.ollama.requests import EmbedRequest, embed_body
from services.gateway.raw_route import RawRoute
from services.kit.asgi import Send, send_response, unless_client_leaves

_MOST_NAME = 256
_JSON = [(b"content-type", b"application/json")]
_READ_AGAIN: tuple[str, ...] = ("messages", "prompt", "input", "tools", "tool_choice", "response_format")
"""Fields that are read again: tokens are counted where the engine does not, tools by its normaliser, all by records."""


class OllamaRoute(RawRoute):
    """What the routes that relay share."""

    async def resolve(self, name: str) -> Target:
        """Return where a name leads; Ollama's clients may add `:latest` to any name."""
        return await self.door.resolve(name.removesuffix(":latest"))

    async def relay(
        self,
        call: Call,
        name: str,
        operation: str,
        path: str,
        document: dict[str, Any],
        answer_format: AnswerFormat,
        keep_alive: float | str | None,
    ) -> None:
        """Send a translated request on."""
        call.model = name[:_MOST_NAME]
        target = await self.resolve(name)
        encoded = partial(_named, document)
        fields = {key: msgspec.json.encode(document[key]) for key in _READ_AGAIN if key in document}
        forward = Forward(path, encoded, operation, bool(document.get("stream")), fields, read_keep_alive(keep_alive))
        await self.door.relay(call, target, forward, answer_format)

    async def embed(self, call: Call, request: EmbedRequest, *, legacy: bool) -> None:
        """Answer with vectors; nothing to embed only makes sure that the model is there, as with Ollama."""
        if not request.input:
            await self.make_ready(call, request.model, request.keep_alive)
            empty = {"embedding": []} if legacy else {"model": request.model, "embeddings": []}
            await send_json(call.send, empty)
            return
        answer_format = EmbedFormat(request.model, legacy=legacy)
        path, document = "/v1/embeddings", embed_body(request)
        await self.relay(call, request.model, "embeddings", path, document, answer_format, request.keep_alive)

    async def load(self, call: Call, name: str, keep_alive: float | str | None, *, chat: bool) -> None:
        """Answer a request without a prompt: load the model, or let it go."""
        reason = await self.make_ready(call, name, keep_alive)
        await send_json(call.send, loaded(name, chat=chat, reason=reason))

    async def make_ready(self, call: Call, name: str, keep_alive: float | str | None) -> str:
        """Load a model, or unload it where `keep_alive` is 0; return which. Other servers' models are left alone."""
        target = await self.resolve(name)
        seconds = read_keep_alive(keep_alive)
        if target.managed:
            if seconds == 0:
                await self.door.unload(target.upstream_id)
            else:
                await unless_client_leaves(call.receive, self.door.load(target.upstream_id, seconds))
        return "unload" if seconds == 0 else "load"


def _named(document: dict[str, Any], model: str) -> bytes:
    return msgspec.json.encode({"model": model, **document})


async def send_json(send: Send, document: Any) -> None:
    """Send a document with status 200."""
    await send_response(send, 200, _JSON, msgspec.json.encode(document))

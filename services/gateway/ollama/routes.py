"""The routes under `/api`. Their errors are Ollama's: `{"error": "a sentence"}` with the usual status."""

from typing import Any

import msgspec

from services.gateway.catalogue import Target
from services.gateway.door import Call, Forward
from services.gateway.formats import AnswerFormat
from services.gateway.ollama import models
from services.gateway.ollama.answers import EmbedFormat, OllamaFormat, loaded
from services.gateway.ollama.requests import (
    ChatRequest,
    EmbedRequest,
    GenerateRequest,
    LegacyEmbedRequest,
    ShowRequest,
    chat_body,
    embed_body,
    generate_body,
)
from services.gateway.raw_route import RawRoute
from services.gateway.requests import RequestReader
from services.kit.asgi import Send, send_response
from services.kit.errors import AppError, InvalidRequest

_JSON = [(b"content-type", b"application/json")]
_COUNTED: tuple[str, ...] = ("messages", "prompt", "input")
"""Fields whose tokens are counted where the engine does not."""


def error_body(path: str, error: AppError) -> bytes:
    """Return an error as the clients of a path read it: Ollama's take a sentence, all others the envelope."""
    if path.startswith("/api/"):
        return msgspec.json.encode({"error": error.message})
    return error.body()


class OllamaRoute(RawRoute):
    """What the routes that relay share."""

    async def resolve(self, name: str) -> Target:
        """Return where a name leads; Ollama's clients may add `:latest` to any name."""
        return await self.door.resolve(name.removesuffix(":latest"))

    async def relay(
        self, call: Call, name: str, operation: str, path: str, document: dict[str, Any], answer_format: AnswerFormat
    ) -> None:
        """Send a translated request on."""
        target = await self.resolve(name)
        body = msgspec.json.encode({"model": target.upstream_id, **document})
        fields = {key: msgspec.json.encode(document[key]) for key in _COUNTED if key in document}
        forward = Forward(path, body, operation, bool(document.get("stream")), fields)
        await self.door.relay(call, target, forward, answer_format)

    async def embed(self, call: Call, request: EmbedRequest, *, legacy: bool) -> None:
        """Answer with vectors; nothing to embed only makes sure that the model is there, as with Ollama."""
        if not request.input:
            await self.resolve(request.model)
            empty = {"embedding": []} if legacy else {"model": request.model, "embeddings": []}
            await _send_json(call.send, empty)
            return
        answer_format = EmbedFormat(request.model, legacy=legacy)
        await self.relay(call, request.model, "embeddings", "/v1/embeddings", embed_body(request), answer_format)

    async def load(self, call: Call, name: str, keep_alive: float | str | None, *, chat: bool) -> None:
        """Answer a request without a prompt: is the model there?"""
        await self.resolve(name)
        await _send_json(call.send, loaded(name, chat=chat, reason=_load_reason(keep_alive)))


async def _send_json(send: Send, document: Any) -> None:
    await send_response(send, 200, _JSON, msgspec.json.encode(document))


class Chat(OllamaRoute):
    """POST /api/chat: continue a conversation"""

    path = "/api/chat"
    _reader = RequestReader(ChatRequest)

    async def answer(self, call: Call) -> None:
        request = self._reader.read(call.body).known
        if not request.messages:
            await self.load(call, request.model, request.keep_alive, chat=True)
            return
        answer_format = OllamaFormat(request.model, chat=True)
        path, document = "/v1/chat/completions", chat_body(request)
        await self.relay(call, request.model, "chat", path, document, answer_format)


class Generate(OllamaRoute):
    """POST /api/generate: answer a prompt"""

    path = "/api/generate"
    _reader = RequestReader(GenerateRequest)

    async def answer(self, call: Call) -> None:
        request = self._reader.read(call.body).known
        if not request.prompt and not request.images and request.suffix is None:
            await self.load(call, request.model, request.keep_alive, chat=False)
            return
        path, document = generate_body(request)
        answer_format = OllamaFormat(request.model, chat=False)
        operation = "chat" if path.startswith("/v1/chat") else "text_completion"
        await self.relay(call, request.model, operation, path, document, answer_format)


class Embed(OllamaRoute):
    """POST /api/embed: vectors of texts"""

    path = "/api/embed"
    _reader = RequestReader(EmbedRequest)

    async def answer(self, call: Call) -> None:
        await self.embed(call, self._reader.read(call.body).known, legacy=False)


class LegacyEmbeddings(OllamaRoute):
    """POST /api/embeddings: the vector of one text, for older clients"""

    path = "/api/embeddings"
    _reader = RequestReader(LegacyEmbedRequest)

    async def answer(self, call: Call) -> None:
        request = self._reader.read(call.body).known
        await self.embed(call, EmbedRequest(model=request.model, input=request.prompt), legacy=True)


class Show(OllamaRoute):
    """POST /api/show: what is known of a model"""

    path = "/api/show"
    _reader = RequestReader(ShowRequest)

    async def answer(self, call: Call) -> None:
        request = self._reader.read(call.body).known
        name = request.model or request.name
        if not name:
            raise InvalidRequest("model: which one? GET /api/tags lists them", param="model")
        target = await self.resolve(name)
        await _send_json(call.send, models.shown(target, self.door.backends[target.backend]))


class Tags(OllamaRoute):
    """GET /api/tags: every model"""

    path = "/api/tags"
    method = "GET"

    async def answer(self, call: Call) -> None:
        await _send_json(call.send, {"models": [models.listed(entry) for entry in self.door.catalogue.entries()]})


class Running(OllamaRoute):
    """GET /api/ps: what is loaded, by the last discovery"""

    path = "/api/ps"
    method = "GET"

    async def answer(self, call: Call) -> None:
        ready = [
            entry
            for entry in self.door.catalogue.entries()
            if self.door.backends[entry.target.backend].state == "ready"
        ]
        await _send_json(call.send, {"models": [models.running(entry) for entry in ready]})


class Version(OllamaRoute):
    """GET /api/version: the version of Ollama whose API this is"""

    path = "/api/version"
    method = "GET"

    async def answer(self, call: Call) -> None:
        await _send_json(call.send, {"version": models.API_VERSION})


def _load_reason(keep_alive: float | str | None) -> str:
    """Return `unload` where the client lets the model go. Residency is the engine's; `/api/ps` says what is true."""
    return "unload" if keep_alive in (0, "0", "0s") else "load"


OLLAMA_ROUTES: tuple[type[OllamaRoute], ...] = (
    Chat,
    Generate,
    Embed,
    LegacyEmbeddings,
    Show,
    Tags,
    Running,
    Version,
)

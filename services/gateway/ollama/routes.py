"""The routes under `/api`. Their errors are Ollama's: `{"error": "a sentence"}` with the usual status."""

import msgspec

from services.gateway.catalogue import RAG
from services.gateway.control import SERVING
from services.gateway.door import Call
from services.gateway.models import managed, wanted, wanted_names
from services.gateway.ollama import models
from services.gateway.ollama.answers import OllamaFormat
from services.gateway.ollama.files import Delete, Pull
from services.gateway.ollama.requests import (
    ChatRequest,
    EmbedRequest,
    GenerateRequest,
    LegacyEmbedRequest,
    ShowRequest,
    chat_body,
    generate_body,
    named,
)
from services.gateway.ollama.route import OllamaRoute, send_json
from services.gateway.requests import RequestReader
from services.kit.errors import AppError


def error_body(path: str, error: AppError) -> bytes:
    """Return an error as the clients of a path read it: Ollama's take a sentence, all others the envelope."""
    if path.startswith("/api/"):
        return msgspec.json.encode({"error": error.message})
    return error.body()


class Chat(OllamaRoute):
    """POST /api/chat: continue a conversation"""

    path = "/api/chat"
    operation = "chat"
    _reader = RequestReader(ChatRequest)

    async def answer(self, call: Call) -> None:
        request = self._reader.read(call.body).known
        if not request.messages:
            await self.load(call, request.model, request.keep_alive, chat=True)
            return
        answer_format = OllamaFormat(request.model, chat=True)
        path, document = "/v1/chat/completions", chat_body(request)
        await self.relay(call, request.model, "chat", path, document, answer_format, request.keep_alive)


class Generate(OllamaRoute):
    """POST /api/generate: answer a prompt"""

    path = "/api/generate"
    operation = "chat"
    _reader = RequestReader(GenerateRequest)

    async def answer(self, call: Call) -> None:
        request = self._reader.read(call.body).known
        if not request.prompt and not request.images and request.suffix is None:
            await self.load(call, request.model, request.keep_alive, chat=False)
            return
        path, document = generate_body(request)
        answer_format = OllamaFormat(request.model, chat=False)
        operation = "chat" if path.startswith("/v1/chat") else "text_completion"
        await self.relay(call, request.model, operation, path, document, answer_format, request.keep_alive)


class Embed(OllamaRoute):
    """POST /api/embed: vectors of texts"""

    path = "/api/embed"
    operation = "embeddings"
    _reader = RequestReader(EmbedRequest)

    async def answer(self, call: Call) -> None:
        await self.embed(call, self._reader.read(call.body).known, legacy=False)


class LegacyEmbeddings(OllamaRoute):
    """POST /api/embeddings: the vector of one text, for older clients"""

    path = "/api/embeddings"
    operation = "embeddings"
    _reader = RequestReader(LegacyEmbedRequest)

    async def answer(self, call: Call) -> None:
        request = self._reader.read(call.body).known
        asked = EmbedRequest(model=request.model, input=request.prompt, keep_alive=request.keep_alive)
        await self.embed(call, asked, legacy=True)


class Show(OllamaRoute):
    """POST /api/show: what is known of a model"""

    path = "/api/show"
    _reader = RequestReader(ShowRequest)

    async def answer(self, call: Call) -> None:
        request = self._reader.read(call.body).known
        target = await self.resolve(named(request))
        await send_json(call.send, models.shown(target))


class Tags(OllamaRoute):
    """GET /api/tags: every model"""

    path = "/api/tags"
    method = "GET"

    async def answer(self, call: Call) -> None:
        found = [models.listed(entry) for entry in wanted(self.door, call.scope)]
        found += [models.listed_as(name, entry) for name, entry in wanted_names(self.door, call.scope)]
        await send_json(call.send, {"models": found})


class Running(OllamaRoute):
    """GET /api/ps: what is loaded, as it was a moment ago. A collection of documents is no load: nobody can end it"""

    path = "/api/ps"
    method = "GET"

    async def answer(self, call: Call) -> None:
        door = self.door
        loaded = [
            entry
            for entry in door.catalogue.entries()
            if RAG not in entry.target.facts.capabilities and door.state(entry.target) in SERVING
        ]
        found = [models.running(entry, managed(door, entry.target)) for entry in loaded]
        await send_json(call.send, {"models": found})


class Version(OllamaRoute):
    """GET /api/version: the version of Ollama whose API this is"""

    path = "/api/version"
    method = "GET"

    async def answer(self, call: Call) -> None:
        await send_json(call.send, {"version": models.API_VERSION})


OLLAMA_ROUTES: tuple[type[OllamaRoute], ...] = (
    Chat,
    Generate,
    Embed,
    LegacyEmbeddings,
    Show,
    Tags,
    Running,
    Version,
    Pull,
    Delete,
)

"""The hot routes: chat, completions, embeddings and reranking, as raw ASGI callables."""

from functools import partial
from typing import Any

import msgspec

from services.gateway.door import Call
from services.gateway.exchange import Exchange
from services.gateway.formats import Forward
from services.gateway.raw_route import RawRoute
from services.gateway.requests import (
    Parsed,
    chat_reader,
    check_chat,
    check_text_or_tokens,
    completion_reader,
    embedding_reader,
    rerank_reader,
)
from services.gateway.usage import usage_document
from services.kit.errors import AppError
from services.kit.openai import (
    Answer,
    ChatCompletionRequest,
    CompletionRequest,
    EmbeddingRequest,
    RerankRequest,
    StreamOptions,
)
from services.kit.sse import DONE, KEEP_ALIVE, encode_event, event_data


class OpenAIFormat:
    """Events go on as they came but for usage: what nobody asked for is left out, what the engine left out added."""

    content_type = b"text/event-stream; charset=utf-8"
    keep_alive = KEEP_ALIVE

    def __init__(self, *, usage_asked: bool) -> None:
        self.ends_with_usage = usage_asked
        self._usage_sent = False
        self._last = b""

    def event(self, event: bytes, answer: Answer | None) -> bytes:
        if answer is None:
            return event
        if answer.usage is not None and not answer.choices:
            self._usage_sent = self.ends_with_usage
            return event if self.ends_with_usage else b""
        if answer.usage is not None and self.ends_with_usage:
            self._usage_sent = True
        self._last = event
        return event

    def finish(self, exchange: Exchange) -> bytes:
        if self.ends_with_usage and not self._usage_sent:
            return encode_event(msgspec.json.encode(self._usage_chunk(exchange))) + DONE
        return DONE

    def _usage_chunk(self, exchange: Exchange) -> dict[str, Any]:
        last = msgspec.json.decode(event_data(self._last) or b"{}")
        kept = {name: last[name] for name in ("id", "object", "created", "model") if name in last}
        return {**kept, "choices": [], "usage": usage_document(exchange)}

    def error(self, error: AppError) -> bytes:
        return encode_event(error.body())

    def plain(self, body: bytes, exchange: Exchange) -> bytes:
        return body


class _OpenAIRoute(RawRoute):
    upstream_path = ""
    """What engines call the route; empty where it is the same."""

    async def relay(
        self,
        call: Call,
        request: Parsed[ChatCompletionRequest]
        | Parsed[CompletionRequest]
        | Parsed[EmbeddingRequest]
        | Parsed[RerankRequest],
        *,
        stream: bool = False,
        options: StreamOptions | None = None,
    ) -> None:
        """Send the request on, for the model's own name and with usage asked for in streams."""
        call.model, call.fields = request.known.model, request.fields
        target = await self.door.resolve(request.known.model)
        usage_asked = options is not None and bool(options.include_usage)
        encoded = partial(request.encoded, ask_usage=stream and not usage_asked)
        forward = Forward(self.upstream_path or self.path, encoded, self.operation, stream, request.fields)
        await self.door.relay(call, target, forward, OpenAIFormat(usage_asked=usage_asked))


class ChatCompletions(_OpenAIRoute):
    """POST /v1/chat/completions: continue a conversation"""

    path = "/v1/chat/completions"
    operation = "chat"

    async def answer(self, call: Call) -> None:
        request = chat_reader.read(call.body)
        known = request.known
        check_chat(known)
        await self.relay(call, request, stream=bool(known.stream), options=known.stream_options)


class Completions(_OpenAIRoute):
    """POST /v1/completions: continue a text"""

    path = "/v1/completions"
    operation = "text_completion"

    async def answer(self, call: Call) -> None:
        request = completion_reader.read(call.body)
        known = request.known
        check_text_or_tokens("prompt", known.prompt)
        await self.relay(call, request, stream=bool(known.stream), options=known.stream_options)


class Embeddings(_OpenAIRoute):
    """POST /v1/embeddings: vectors of texts"""

    path = "/v1/embeddings"
    operation = "embeddings"

    async def answer(self, call: Call) -> None:
        request = embedding_reader.read(call.body)
        check_text_or_tokens("input", request.known.input)
        await self.relay(call, request)


class Rerank(_OpenAIRoute):
    """POST /v1/rerank: documents in the order of how well they answer a query"""

    path = "/v1/rerank"
    operation = "rerank"

    async def answer(self, call: Call) -> None:
        await self.relay(call, rerank_reader.read(call.body))


class RerankV2(Rerank):
    """POST /v2/rerank: the same, where Cohere's newer clients ask for it"""

    path = "/v2/rerank"
    upstream_path = Rerank.path


HOT_ROUTES: tuple[type[RawRoute], ...] = (ChatCompletions, Completions, Embeddings, Rerank, RerankV2)

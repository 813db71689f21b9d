"""The hot routes: `/v1/chat/completions`, `/v1/completions` and `/v1/embeddings`, as raw ASGI callables."""

from typing import Any

import msgspec

from services.gateway.exchange import Exchange
from services.gateway.headers import request_headers
from services.gateway.raw_route import RawRoute
from services.gateway.requests import (
    Parsed,
    chat_reader,
    check_chat,
    check_text_or_tokens,
    completion_reader,
    embedding_reader,
)
from services.gateway.tool_index import ToolIndex
from services.gateway.usage import usage_document
from services.kit.asgi import Receive, Scope, Send
from services.kit.errors import AppError
from services.kit.openai import Answer, ChatCompletionRequest, CompletionRequest, EmbeddingRequest
from services.kit.sse import DONE, KEEP_ALIVE, encode_event, event_data


class OpenAIFormat:
    """Events go on as they came; three edits: usage that nobody asked for is left out, usage that the engine left
    out is added, and tool-call deltas without an index get theirs.
    """

    content_type = b"text/event-stream; charset=utf-8"
    keep_alive = KEEP_ALIVE

    def __init__(self, *, usage_asked: bool, tools: bool) -> None:
        self.ends_with_usage = usage_asked
        self._usage_sent = False
        self._tool_index = ToolIndex() if tools else None
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
        return event if self._tool_index is None else self._tool_index.fix(event, answer)

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


class _Generation(RawRoute):
    """What chat and completions share."""

    async def _relay_generation(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        client: str,
        request: Parsed[ChatCompletionRequest] | Parsed[CompletionRequest],
        operation: str,
    ) -> None:
        known = request.known
        headers = request_headers(scope, self.door.tracer)
        target = await self.door.resolve(known.model)
        stream = bool(known.stream)
        usage_asked = known.stream_options is not None and bool(known.stream_options.include_usage)
        tools = isinstance(known, ChatCompletionRequest) and bool(known.tools)
        exchange = self.door.begin(scope, client, target, operation, stream=stream, fields=request.fields)
        await self.door.relay(
            scope,
            receive,
            send,
            exchange,
            OpenAIFormat(usage_asked=usage_asked, tools=tools),
            path=self.path,
            body=request.encoded(target.upstream_id, ask_usage=stream and not usage_asked),
            headers=headers,
        )


class ChatCompletions(_Generation):
    """POST /v1/chat/completions: continue a conversation"""

    path = "/v1/chat/completions"

    async def answer(self, scope: Scope, receive: Receive, send: Send, client: str, body: bytes) -> None:
        request = chat_reader.read(body)
        check_chat(request.known)
        await self._relay_generation(scope, receive, send, client, request, "chat")


class Completions(_Generation):
    """POST /v1/completions: continue a text"""

    path = "/v1/completions"

    async def answer(self, scope: Scope, receive: Receive, send: Send, client: str, body: bytes) -> None:
        request = completion_reader.read(body)
        check_text_or_tokens("prompt", request.known.prompt)
        await self._relay_generation(scope, receive, send, client, request, "text_completion")


class Embeddings(RawRoute):
    """POST /v1/embeddings: vectors of texts"""

    path = "/v1/embeddings"

    async def answer(self, scope: Scope, receive: Receive, send: Send, client: str, body: bytes) -> None:
        request: Parsed[EmbeddingRequest] = embedding_reader.read(body)
        check_text_or_tokens("input", request.known.input)
        headers = request_headers(scope, self.door.tracer)
        target = await self.door.resolve(request.known.model)
        exchange = self.door.begin(scope, client, target, "embeddings", stream=False, fields=request.fields)
        await self.door.relay(
            scope,
            receive,
            send,
            exchange,
            OpenAIFormat(usage_asked=False, tools=False),
            path=self.path,
            body=request.encoded(target.upstream_id, ask_usage=False),
            headers=headers,
        )


HOT_ROUTES: tuple[type[RawRoute], ...] = (ChatCompletions, Completions, Embeddings)

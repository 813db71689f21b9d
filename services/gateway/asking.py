"""The client span of each time that a model is asked, and what the request's own span says of question and answer.

Where a request is not traced, or its trace is not sampled, nothing is worked out for it.
"""

import time
from collections.abc import Mapping
from functools import lru_cache
from typing import cast
from urllib.parse import urlsplit

from services.gateway import asked
from services.gateway.exchange import Exchange
from services.kit import genai, tracing
from services.kit.errors import AppError
from services.kit.tracing import NOTHING, Span, Value


class Asking:
    """The spans of one exchange, one for each server that is asked; at most one is open."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._span: Span = NOTHING
        self._attempts = 0
        self._began = 0.0
        above = tracing.current()
        self._above = above if above.recording else NOTHING
        if above.recording and above.captures_content:
            exchange.keeps_answer = True

    def begin(self, url: str, headers: Mapping[str, str]) -> Mapping[str, str]:
        """Begin a span; return the headers that make the server's own spans its children."""
        if self._above is NOTHING:
            return headers
        exchange = self._exchange
        self._attempts += 1
        self._began = time.monotonic()
        attributes: dict[str, Value] = {
            **_request(exchange),
            **_server(url),
            "sparkstack.backend": exchange.target.backend,
            "sparkstack.attempt": self._attempts,
        }
        name = f"{exchange.operation} {exchange.model}"
        self._span = self._above.child(name, attributes, kind="client")
        return {**headers, **self._span.headers()}

    def lost(self, error: AppError) -> None:
        """End the span of a server that was lost before a byte of its answer: another one is asked."""
        self._span.record_error(error.code)
        self._span.end()
        self._span = NOTHING

    def end(self) -> None:
        """End the span with what is known when the exchange is settled."""
        span, exchange = self._span, self._exchange
        if span is NOTHING:
            return
        reasons = [exchange.finish_reason] if exchange.finish_reason else []
        first = exchange.first_token_at
        span.set(
            genai.response(
                exchange.upstream_id,
                finish_reasons=reasons,
                first_chunk_s=None if first is None else max(0.0, first - self._began),
            )
        )
        if exchange.billed and exchange.usage is not None:
            span.set(genai.usage(exchange.usage.prompt_tokens, exchange.usage.completion_tokens))
        if exchange.outcome == "cancelled":
            span.set({"sparkstack.cancelled": True})
        elif exchange.error_code is not None:
            span.record_error(exchange.error_code)
        if span.captures_content:
            self._show_content(span)
        span.end()
        self._span = NOTHING

    def _show_content(self, span: Span) -> None:
        exchange = self._exchange
        if exchange.operation in ("embeddings", "rerank"):
            return
        question = asked.prompt_of(exchange.fields)
        messages = asked.messages_of(exchange.fields) or [{"role": "user", "content": question}]
        span.set(genai.messages(messages, exchange.answer_text, exchange.finish_reason or "stop"))
        if self._above.is_root:
            self._above.set(genai.preview(question, exchange.answer_text))


@lru_cache(maxsize=256)
def _server(url: str) -> Mapping[str, Value]:
    """Return whom an address names; engines have a few, asked for again and again."""
    server = urlsplit(url)
    found: dict[str, Value] = {"server.address": server.hostname or ""}
    if server.port:
        found["server.port"] = server.port
    return found


def _request(exchange: Exchange) -> dict[str, Value]:
    """Return what is asked for. Reranking is no operation of GenAI's; it has OpenInference's word for it, as in RAG."""
    if exchange.operation == "rerank":
        return {genai.REQUEST_MODEL: exchange.model, genai.ROLE: "RERANKER"}
    operation = cast("genai.Operation", exchange.operation)
    fields = asked.numbers_of(exchange.fields)
    found = genai.request(operation, exchange.model, fields, provider=exchange.engine or "openai")
    if exchange.stream:
        found[genai.STREAM] = True
    return found

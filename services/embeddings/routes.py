"""The API. Raw ASGI callables: FastAPI's way costs more than embedding a short text on a GPU does."""

import hmac
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from starlette.routing import Route

from services.embeddings.answers import embeddings_answer, model_document, rerank_answer, shortened
from services.embeddings.catalogue import Card
from services.embeddings.models import Asked, Models
from services.embeddings.requests import (
    BodyReader,
    EmbeddingsBody,
    RerankBody,
    TokenizeBody,
    dimensions_of,
    document_texts,
    fit,
    texts_of,
)
from services.embeddings.settings import EmbeddingsSettings
from services.kit.asgi import Receive, Scope, Send, header, read_body, send_response, unless_client_leaves
from services.kit.errors import ContextLengthExceeded, InvalidApiKey, InvalidRequest
from services.kit.middleware import LOG_FIELDS, ROUTE

_JSON = [(b"content-type", b"application/json")]
_ON_THE_LOOP_NUMBERS = 16_384
"""Fewer numbers are written where they are; more would hold up all other requests meanwhile."""

_embeddings = BodyReader(EmbeddingsBody)
_rerank = BodyReader(RerankBody)
_tokenize = BodyReader(TokenizeBody)

Handler = Callable[[Scope, bytes], Awaitable[bytes]]


class Api:
    """The endpoints over the models."""

    def __init__(self, settings: EmbeddingsSettings, models: Models) -> None:
        self._settings = settings
        self._models = models
        self._key = f"Bearer {settings.api_key}".encode() if settings.api_key else b""
        self._started = int(time.time())

    def routes(self) -> list[Route]:
        """Return the routes for the router."""
        table: list[tuple[str, str, Handler]] = [
            ("GET", "/v1/models", self.models),
            ("GET", "/v1/models/{model:path}", self.model),
            ("POST", "/v1/embeddings", self.embeddings),
            ("POST", "/v1/rerank", self.rerank),
            ("POST", "/v2/rerank", self.rerank),  # where Cohere's newer client asks
            ("POST", "/tokenize", self.tokenize),
        ]
        return [
            Route(path, _Endpoint(self, path, handler, method), methods=[method], include_in_schema=False)
            for method, path, handler in table
        ]

    def check_key(self, scope: Scope) -> None:
        """Check the caller's key.

        Raises:
            InvalidApiKey
        """
        if self._key and not hmac.compare_digest(header(scope, b"authorization") or b"", self._key):
            raise InvalidApiKey("this service embeds for the gateway: send `Authorization: Bearer $EMBEDDINGS_API_KEY`")

    async def read(self, scope: Scope, receive: Receive) -> bytes:
        """Return the request's body.

        Raises:
            BodyTooLarge, RequestTimeout, ClientLeft
        """
        return await read_body(scope, receive, self._settings.max_body_mb * 1_000_000, "EMBEDDINGS_MAX_BODY_MB")

    async def models(self, _scope: Scope, _body: bytes) -> bytes:
        """List what can be asked for here, loaded or not."""
        data = [self._document(model) for model in self._models.all]
        return msgspec.json.encode({"object": "list", "data": data})

    async def model(self, scope: Scope, _body: bytes) -> bytes:
        """Describe one model."""
        return msgspec.json.encode(self._document(self._models.get(scope["path_params"]["model"], None)))

    def _document(self, model: Any) -> dict[str, Any]:
        default = self._models.defaults[model.card.capability] is model
        return model_document(model.card, default=default, created=self._started)

    async def embeddings(self, scope: Scope, body: bytes) -> bytes:
        """Embed texts."""
        asked = _embeddings.read(body)
        model = self._models.get(asked.model, "embeddings")
        dimensions = dimensions_of(model, asked.dimensions)
        texts = texts_of(asked.input, await model.tokeniser(), self._settings.max_texts)
        limit, cut = model.card.context_tokens, bool(asked.truncate)
        if asked.truncate_prompt_tokens is not None:
            cut = True
            limit = _cut_at(asked.truncate_prompt_tokens, limit)
        fitting = await fit(model, texts, limit, "input", cut=cut)
        computed = await model.embed(fitting.texts, fitting.lengths)
        tokens = sum(fitting.lengths)
        _note(scope, model.card.id, len(texts), tokens, computed)
        vectors = shortened(computed.rows, dimensions)
        base64 = asked.encoding_format == "base64"
        if base64 or vectors.size <= _ON_THE_LOOP_NUMBERS:
            return embeddings_answer(model.card.id, vectors, tokens, base64=base64)
        answer: bytes = await model.apart(lambda: embeddings_answer(model.card.id, vectors, tokens, base64=base64))
        return answer

    async def rerank(self, scope: Scope, body: bytes) -> bytes:
        """Score documents against a query."""
        asked = _rerank.read(body)
        model = self._models.get(asked.model, "rerank")
        texts = document_texts(asked.documents, self._settings.max_documents)
        (query_tokens,) = await model.count([asked.query])
        limit = _document_limit(model.card, query_tokens)
        limit = min(limit, asked.max_tokens_per_doc or limit)
        fitting = await fit(model, texts, limit, "documents", cut=asked.truncate is not False)
        shared = query_tokens if model.card.reads_pairs else 0
        computed = await model.score(Asked(asked.query, fitting.texts), [each + shared for each in fitting.lengths])
        tokens = query_tokens + sum(fitting.lengths)
        _note(scope, model.card.id, len(texts), tokens, computed)
        return rerank_answer(
            f"rerank-{uuid.uuid4().hex}",
            model.card,
            computed.rows,
            texts,
            tokens,
            top_n=asked.top_n,
            return_documents=bool(asked.return_documents),
            cut=fitting.cut,
        )

    async def tokenize(self, _scope: Scope, body: bytes) -> bytes:
        """Count and list a text's tokens."""
        asked = _tokenize.read(body)
        text = asked.content if asked.content is not None else asked.prompt
        if text is None:
            raise InvalidRequest("content: the text to be tokenised is missing", param="content")
        model = self._models.get(asked.model, None)
        tokeniser = await model.tokeniser()
        tokens: list[int] = await model.apart(lambda: tokeniser.encode(text, special=asked.add_special_tokens))
        return msgspec.json.encode({"count": len(tokens), "tokens": tokens, "max_model_len": model.card.context_tokens})


class _Endpoint:
    """One route: check the key, read the body, answer unless the client leaves."""

    def __init__(self, api: Api, path: str, handler: Handler, method: str) -> None:
        self._api = api
        self._path = path
        self._handler = handler
        self._reads_body = method == "POST"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Errors are raised and become the envelope in `kit.middleware`."""
        scope[ROUTE] = self._path
        self._api.check_key(scope)
        if self._reads_body:
            body = await self._api.read(scope, receive)
            answer = await unless_client_leaves(receive, self._handle(scope, body))
        else:
            answer = await self._handler(scope, b"")
        await send_response(send, 200, _JSON, answer)

    async def _handle(self, scope: Scope, body: bytes) -> bytes:
        return await self._handler(scope, body)


def _document_limit(card: Card, query_tokens: int) -> int:
    """Return the tokens of one document that the model reads beside the query.

    Raises:
        ContextLengthExceeded: the query leaves too little room.
    """
    if card.reads_windows:
        return sys.maxsize
    most = card.context_tokens // 2 if card.reads_pairs else card.context_tokens
    if query_tokens > most:
        raise ContextLengthExceeded(
            f"the query has {query_tokens:,} tokens, {card.id} reads {most:,} of it: shorten it", param="query"
        )
    return card.context_tokens - (query_tokens if card.reads_pairs else 0)


def _cut_at(wanted: int, limit: int) -> int:
    if wanted == -1:
        return limit
    if not 3 <= wanted <= limit:
        raise InvalidRequest(
            f"truncate_prompt_tokens is {wanted}; it may be 3 to {limit}, or -1 for {limit}",
            param="truncate_prompt_tokens",
        )
    return wanted


def _note(scope: Scope, model: str, texts: int, tokens: int, computed: Any) -> None:
    scope[LOG_FIELDS].update(
        model=model,
        texts=texts,
        tokens=tokens,
        queue_ms=round(computed.queue_s * 1000, 2),
        compute_ms=round(computed.compute_s * 1000, 2),
    )

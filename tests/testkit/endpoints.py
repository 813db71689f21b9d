"""The endpoints of the fake engine: a request's body in, the steps of its answer out."""

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

from tests.testkit.answers import BadRequest, answer_chat, answer_completion
from tests.testkit.embeddings import embeddings_document
from tests.testkit.faults import Faults, Pace, Progress, error_steps, plain_steps, stream_steps
from tests.testkit.rendering import Style, count_usage, document, encode, events
from tests.testkit.schema import UnsupportedSchema
from tests.testkit.settings import FakeEngineSettings
from tests.testkit.tokens import VOCABULARY_SIZE, apply_template, split_tokens, text_of, token_id
from tests.testkit.wire import Step

Endpoint = Callable[[dict[str, Any], Faults, Progress], Iterator[Step]]


class RequestFailed(Exception):
    """An error of the engine's own; `fields` go into its envelope."""

    def __init__(self, status: int, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.status = status
        self.fields = fields


class Endpoints:
    """What the engine answers, by method and path."""

    def __init__(self, settings: FakeEngineSettings) -> None:
        self._settings = settings
        self._created = int(time.time())
        self._numbers = itertools.count(1)
        self._routes: dict[tuple[str, str], Endpoint] = {
            ("GET", "/health"): self._health,
            ("GET", "/v1/models"): self._models,
            ("POST", "/v1/chat/completions"): self._chat,
            ("POST", "/v1/completions"): self._completions,
            ("POST", "/v1/embeddings"): self._embeddings,
            ("POST", "/tokenize"): self._tokenize,
            ("POST", "/apply-template"): self._template,
        }

    def steps(self, method: str, path: str, body: Any, faults: Faults, progress: Progress) -> Iterator[Step]:
        """Return the steps of an answer, an error's in llama.cpp's envelope."""
        try:
            if faults.status is not None and faults.status >= 400:
                raise RequestFailed(faults.status, "scripted failure")
            endpoint = self._routes.get((method, path))
            if endpoint is None:
                raise RequestFailed(404, "File Not Found")
            if method == "POST" and not isinstance(body, dict):
                raise BadRequest("the body must be a JSON object")
            return endpoint(body, faults, progress)
        except RequestFailed as error:
            return error_steps(error.status, str(error), faults, **error.fields)
        except (BadRequest, UnsupportedSchema, TypeError) as error:
            return error_steps(400, str(error), faults)

    def _health(self, _body: Any, faults: Faults, _progress: Progress) -> Iterator[Step]:
        return plain_steps(200, encode({"status": "ok"}), faults, 0.0)

    def _models(self, _body: Any, faults: Faults, _progress: Progress) -> Iterator[Step]:
        names = [*self._settings.models, *self._settings.embedding_models]
        data = [
            {
                "id": name,
                "object": "model",
                "created": self._created,
                "owned_by": "llamacpp",
                "meta": {
                    "vocab_type": 2,
                    "n_vocab": VOCABULARY_SIZE,
                    "n_ctx": self._settings.n_ctx,
                    "n_ctx_train": self._settings.n_ctx,
                    "n_embd": self._settings.embedding_dimensions,
                    "n_params": 134_515_008,
                    "size": 96_576_768,
                    "ftype": "Q4_1",
                },
            }
            for name in names
        ]
        return plain_steps(200, encode({"object": "list", "data": data}), faults, 0.0)

    # --- generation ---------------------------------------------------------------------------------------------

    def _chat(self, body: dict[str, Any], faults: Faults, progress: Progress) -> Iterator[Step]:
        return self._generate(body, faults, progress, chat=True)

    def _completions(self, body: dict[str, Any], faults: Faults, progress: Progress) -> Iterator[Step]:
        return self._generate(body, faults, progress, chat=False)

    def _generate(self, body: dict[str, Any], faults: Faults, progress: Progress, *, chat: bool) -> Iterator[Step]:
        settings = self._settings
        model = self._model(body, settings.models, "This model only makes embeddings")
        compose = answer_chat if chat else answer_completion
        length = settings.answer_tokens if faults.tokens is None else faults.tokens
        prompt, choices = compose(body, seed=settings.seed, answer_tokens=length)
        prompt_tokens = len(split_tokens(prompt))
        self._check_context(prompt_tokens)
        reports_usage = settings.usage and not faults.no_usage
        style = Style(
            id=f"{'chatcmpl' if chat else 'cmpl'}-fake{next(self._numbers)}",
            model=model,
            chat=chat,
            usage=count_usage(prompt_tokens, choices) if reports_usage else None,
            stream_usage=bool((body.get("stream_options") or {}).get("include_usage")),
            logprobs=_logprobs(body, chat=chat),
            tool_index=not faults.no_tool_index,
            done=not faults.no_done,
        )
        pace = self._pace(faults)
        if body.get("stream") and faults.garbage not in ("html", "binary"):
            return stream_steps(events(style, choices), faults, pace, progress)
        ready_s = pace.due(max(choice.count_tokens() for choice in choices))
        return plain_steps(200, document(style, choices), faults, ready_s)

    def _pace(self, faults: Faults) -> Pace:
        ttft_ms = self._settings.ttft_ms if faults.ttft_ms is None else faults.ttft_ms
        rate = self._settings.tokens_per_s if faults.tokens_per_s is None else faults.tokens_per_s
        return Pace.of(ttft_ms, rate)

    def _model(self, body: dict[str, Any], known: Any, wrong_kind: str) -> str:
        """Return the model's name as the answer gives it."""
        name = body.get("model")
        if name in known:
            return str(name)
        if name in (*self._settings.models, *self._settings.embedding_models):
            raise RequestFailed(501, wrong_kind)
        if self._settings.any_model and known:
            return str(known[0])
        raise RequestFailed(404, f"model {name!r} not found")

    def _check_context(self, prompt_tokens: int) -> None:
        limit = self._settings.n_ctx
        if prompt_tokens >= limit:
            raise RequestFailed(
                400,
                f"request ({prompt_tokens} tokens) exceeds the available context size ({limit} tokens), "
                "try increasing it",
                type="exceed_context_size_error",
                n_prompt_tokens=prompt_tokens,
                n_ctx=limit,
            )

    # --- the rest -----------------------------------------------------------------------------------------------

    def _embeddings(self, body: dict[str, Any], faults: Faults, _progress: Progress) -> Iterator[Step]:
        settings = self._settings
        model = self._model(body, settings.embedding_models, "This server does not support embeddings")
        reports_usage = settings.usage and not faults.no_usage
        answer = embeddings_document(body, model, settings.embedding_dimensions, usage=reports_usage)
        return plain_steps(200, encode(answer), faults, self._pace(faults).ttft_s)

    def _tokenize(self, body: dict[str, Any], faults: Faults, _progress: Progress) -> Iterator[Step]:
        pieces = split_tokens(text_of(body.get("content")))
        tokens: list[Any] = [token_id(piece) for piece in pieces]
        if body.get("with_pieces"):
            tokens = [{"id": number, "piece": piece} for number, piece in zip(tokens, pieces, strict=True)]
        return plain_steps(200, encode({"tokens": tokens}), faults, 0.0)

    def _template(self, body: dict[str, Any], faults: Faults, _progress: Progress) -> Iterator[Step]:
        messages = body.get("messages")
        if not isinstance(messages, list):
            raise BadRequest("'messages' is required")
        return plain_steps(200, encode({"prompt": apply_template(messages)}), faults, 0.0)


def _logprobs(body: dict[str, Any], *, chat: bool) -> int | None:
    wanted = body.get("logprobs")
    if wanted is None or wanted is False:
        return None
    return int(body.get("top_logprobs") or 0) if chat else int(wanted)

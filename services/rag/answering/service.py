"""Answers from documents, whole and streamed: the composition of retrieval, decision, prompt, model and citations."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, cast

import structlog

from services.kit import genai, tracing
from services.kit.errors import AppError
from services.kit.sse import DONE, KEEP_ALIVE
from services.kit.tracing import Span, Value
from services.rag.answering.attributing import Attributor
from services.rag.answering.budgeting import estimate_tokens
from services.rag.answering.caching import AnswerCache
from services.rag.answering.completions import Envelope, Usage
from services.rag.answering.deciding import NOT_FOUND
from services.rag.answering.planning import AnsweringModel, Planner, Prompted, Settled
from services.rag.answering.requests import PREFIX, Question
from services.rag.answering.small_models import INTRODUCTION, Repetition
from services.rag.answering.sources import sources
from services.rag.library import Library
from services.rag.metrics import RagMetrics
from services.rag.ports import Caller, Embedder, Reranker
from services.rag.retrieving.pipeline import Retriever
from services.rag.retrieving.presets import Presets
from services.rag.retrieving.remembering import RememberingEmbedder
from services.rag.retrieving.state import Terms, Tools
from services.rag.settings import RagSettings
from services.rag.vectors import VectorStore

_log = structlog.get_logger("rag")
_REPLAYED_CHARACTERS = 24
_QUOTATIONS = 2
_TOO_LONG = "context_length_exceeded"


@dataclass
class _Outcome:
    """What has become of an answer so far."""

    text: str = ""
    reasoning: str = ""
    finish_reason: str = ""
    usage: Usage = field(default_factory=Usage)

    def end_early(self, plan: Prompted) -> None:
        """Note that the model is not heard to its end: its own count of tokens never comes."""
        self.finish_reason = "stop"
        prompt = sum(estimate_tokens(message["content"]) for message in plan.messages)
        self.usage = Usage(prompt, estimate_tokens(self.text))


class Answering:
    """What the routes call. `retriever` also serves the search routes."""

    def __init__(
        self,
        *,
        settings: RagSettings,
        library: Library,
        planner: Planner,
        retriever: Retriever,
        model: AnsweringModel,
        cache: AnswerCache,
        metrics: RagMetrics,
    ) -> None:
        self.retriever = retriever
        self.cache = cache
        self._settings = settings
        self._library = library
        self._planner = planner
        self._model = model
        self._metrics = metrics

    async def models(self) -> dict[str, Any]:
        """Return `/v1/models`: one model for each collection that has something to find."""
        data = []
        for collection in await self._library.searchable():
            facts = await self._model.facts(collection.model or self._settings.model)
            own = {
                "capabilities": ["chat", "rag"],
                "context_tokens": facts.context_tokens,
                "parameters": facts.parameters,
                "aliases": [],
                "default": False,
            }
            data.append(
                {
                    "id": f"{PREFIX}{collection.name}",
                    "object": "model",
                    "created": collection.created,
                    "owned_by": "sparkstack",
                    "sparkstack": own,
                }
            )
        return {"object": "list", "data": data}

    async def answer(self, question: Question, caller: Caller) -> dict[str, Any]:
        """Return a whole chat completion.

        Raises:
            AppError
        """
        envelope = Envelope(f"{PREFIX}{question.collection}")
        with _Counting(self._metrics) as counting:
            plan = await self._planner.plan(question, caller)
            if isinstance(plan, Settled):
                counting.outcome = plan.outcome
                return envelope.whole(plan.text, plan.annotations, finish_reason="stop", usage=Usage(), own=plan.own)
            attributor = Attributor(plan.passages, plan.retrieval)
            outcome = _Outcome()
            with tracing.child_span("rag.answer", _about(plan)) as span:
                async for _ in self._generate(plan, caller, attributor, outcome):
                    pass
                annotations, own = self._end(plan, attributor, outcome)
                _tell(span, plan, outcome, annotations)
            counting.outcome = "answered"
            return envelope.whole(
                outcome.text,
                annotations,
                finish_reason=outcome.finish_reason,
                usage=outcome.usage,
                own=own,
                reasoning=outcome.reasoning,
            )

    async def stream(self, question: Question, caller: Caller) -> AsyncIterator[bytes]:
        """Yield a chat completion's events, `[DONE]` last. Closing the iterator ends the model's answer too.

        Raises:
            AppError: before the first event, or in place of the next one.
        """
        envelope = Envelope(f"{PREFIX}{question.collection}")
        with _Counting(self._metrics) as counting:
            plan = await self._planner.plan(question, caller)
            usage = Usage()
            if isinstance(plan, Settled):
                counting.outcome = plan.outcome
                yield envelope.piece({"role": "assistant", "content": ""})
                for piece in _pieces(plan.text):
                    yield envelope.piece({"content": piece})
                yield envelope.last(plan.annotations, "stop", plan.own, plan.sources)
            else:
                attributor, outcome = Attributor(plan.passages, plan.retrieval), _Outcome()
                begun = False
                with tracing.ending(tracing.child_span("rag.answer", _about(plan))) as span:
                    generated = tracing.within(span, self._generate(plan, caller, attributor, outcome))
                    async with aclosing(generated) as deltas:
                        async for delta in deltas:
                            if delta is None:
                                yield KEEP_ALIVE
                                continue
                            yield envelope.piece(delta if begun else {"role": "assistant", **delta})
                            begun = True
                    annotations, own = self._end(plan, attributor, outcome)
                    _tell(span, plan, outcome, annotations)
                usage = outcome.usage
                counting.outcome = "answered"
                shown = sources(annotations, plan.passages)
                yield envelope.last(annotations, outcome.finish_reason, own, shown)
            if question.include_usage:
                yield envelope.usage(usage)
            yield DONE

    async def _generate(
        self, plan: Prompted, caller: Caller, attributor: Attributor, outcome: _Outcome
    ) -> AsyncGenerator[dict[str, str] | None, None]:
        """Yield deltas as they come, markers put in; None while the model is being waited for.

        A small model is stopped when it repeats itself, and quotations follow what has no support.
        """
        circles = None if plan.capable else Repetition()
        async with aclosing(self._events(plan, caller)) as events:
            async for event in events:
                delta = self._read(event, attributor, outcome, circles)
                if delta or not event:
                    yield delta or None
                if circles is not None and circles.found:
                    outcome.end_early(plan)
                    break
        rest = (attributor.feed(circles.finish()) if circles is not None else "") + attributor.finish()
        if not plan.capable and not attributor.annotations and (outcome.text + rest).strip() != NOT_FOUND:
            rest += attributor.quote(INTRODUCTION, _QUOTATIONS)
        outcome.text += rest
        if rest:
            yield {"content": rest}

    async def _events(self, plan: Prompted, caller: Caller) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the model's events; a prompt that is too long after all is tried once more with half of the room."""
        begun = False
        asked = plan
        while True:
            try:
                stream = self._model.stream(asked.messages, caller, max_tokens=asked.max_tokens, **asked.options)
                async with aclosing(cast("AsyncGenerator[dict[str, Any], None]", stream)) as events:
                    async for event in events:
                        begun = True
                        yield event
                return
            except AppError as error:
                if error.code != _TOO_LONG or begun or asked is not plan:
                    raise
            asked = plan.fitted(self._settings.answer_tokens, share=0.5)
            _log.info("prompt.shortened", passages=len(asked.passages))

    def _read(
        self, event: Mapping[str, Any], attributor: Attributor, outcome: _Outcome, circles: Repetition | None
    ) -> dict[str, str]:
        usage = event.get("usage")
        if isinstance(usage, Mapping):
            outcome.usage = Usage(int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0))
        choices: Sequence[Mapping[str, Any]] = event.get("choices") or ()
        if not choices:
            return {}
        outcome.finish_reason = choices[0].get("finish_reason") or outcome.finish_reason
        said = choices[0].get("delta") or {}
        delta: dict[str, str] = {}
        reasoning = said.get("reasoning_content") or said.get("reasoning") or ""
        if reasoning:
            outcome.reasoning += reasoning
            delta["reasoning_content"] = reasoning
        content = said.get("content") or ""
        content = attributor.feed(content if circles is None else circles.feed(content))
        if content:
            outcome.text += content
            delta["content"] = content
        return delta

    def _end(
        self, plan: Prompted, attributor: Attributor, outcome: _Outcome
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Return the citations and what the answer says of itself; keep it where it came to its own end."""
        outcome.finish_reason = outcome.finish_reason or "stop"
        own = dict(plan.own)
        if outcome.text.strip() == NOT_FOUND:
            own["answerable"] = False
        elif outcome.finish_reason == "stop" and outcome.text.strip() and not outcome.reasoning:
            self._planner.keep(plan, outcome.text, attributor.annotations)
        return attributor.annotations, own


class _Counting:
    """Counts one answer by its outcome, whatever ends it."""

    def __init__(self, metrics: RagMetrics) -> None:
        self._metrics = metrics
        self.outcome = "cancelled"

    def __enter__(self) -> "_Counting":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception):
            self.outcome = "failed"
        self._metrics.answers.labels(self.outcome).inc()
        tracing.current().set({"rag.outcome": self.outcome})


def _about(plan: Prompted) -> dict[str, Value]:
    return {"rag.collection": plan.question.collection, "rag.passages": len(plan.passages)}


def _tell(span: Span, plan: Prompted, outcome: _Outcome, annotations: Sequence[Mapping[str, Any]]) -> None:
    """Say of an answer what it is made of; its tokens are counted at the gateway, and nowhere else."""
    if not span.recording:
        return
    span.set({"rag.citations": len(annotations), "rag.finish_reason": outcome.finish_reason})
    if span.captures_content:
        asked = next((each["content"] for each in reversed(plan.messages) if each["role"] == "user"), "")
        span.set(genai.preview(asked, outcome.text))


def _pieces(text: str) -> list[str]:
    """Return an answer that is there already in pieces of a few words, as streams have them."""
    pieces: list[str] = []
    piece = ""
    for word in text.split(" "):
        piece += word if not (piece or pieces) else f" {word}"
        if len(piece) >= _REPLAYED_CHARACTERS:
            pieces.append(piece)
            piece = ""
    return [*pieces, piece] if piece else pieces


def make_answering(
    settings: RagSettings,
    library: Library,
    store: VectorStore,
    embedder: Embedder,
    reranker: Reranker,
    generator: AnsweringModel,
    *,
    terms: Terms,
    metrics: RagMetrics,
) -> Answering:
    """Return what answers from these collections.

    Args:
        terms: questions to sparse vectors (`vectors.bm25.Bm25`).
    """
    remembering = RememberingEmbedder(embedder)
    tools = Tools(store, remembering, terms, reranker, generator)
    presets = Presets(settings.folder / "presets")
    retriever = Retriever(tools, presets, preset=settings.preset, metrics=metrics)
    cache = AnswerCache(settings.cache_entries, settings.cache_ttl_s, clock=time.monotonic)
    planner = Planner(
        settings=settings,
        library=library,
        retriever=retriever,
        embedder=remembering,
        model=generator,
        cache=cache,
        metrics=metrics,
    )
    return Answering(
        settings=settings,
        library=library,
        planner=planner,
        retriever=retriever,
        model=generator,
        cache=cache,
        metrics=metrics,
    )

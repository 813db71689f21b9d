"""Retrieval: a question goes through the steps of a preset, each timed, counted and, where tracing is on, a span."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from services.kit import genai, tracing
from services.kit.errors import InvalidRequest
from services.kit.tracing import Span, Value
from services.rag.documents import Passage
from services.rag.library import Collection
from services.rag.metrics import RagMetrics
from services.rag.ports import Caller
from services.rag.retrieving.presets import Preset, Presets
from services.rag.retrieving.rewriting import Turn, rewrite
from services.rag.retrieving.state import Query, State, Tools
from services.rag.retrieving.trace import Retrieval, StepTrace
from services.rag.vectors.filters import Filter, eq, every, of_attributes

_LONGEST_QUESTION = 8000
_REWRITE = "rewrite"


class Retriever:
    """Finds the passages of a question.

    Args:
        preset: name of the one in use where neither request nor collection says.
    """

    def __init__(self, tools: Tools, presets: Presets, *, preset: str, metrics: RagMetrics) -> None:
        self.presets = presets
        self.tools = tools
        self._preset = preset
        self._metrics = metrics

    async def preset_of(self, collection: Collection, preset: str | None = None) -> Preset:
        """Return the preset that a request to a collection takes.

        Raises:
            PresetNotFound, InvalidRequest
        """
        return await asyncio.to_thread(self.presets.get, preset or collection.preset or self._preset)

    async def retrieve(
        self,
        question: str,
        collection: Collection,
        caller: Caller,
        *,
        preset: str | None = None,
        filter: Filter | None = None,  # noqa: A002
        limit: int | None = None,
        history: Sequence[Turn] = (),
        model: str = "",
        capable: bool = False,
    ) -> Retrieval:
        """Return the passages of a question, best first, with what each step did.

        Args:
            filter: the client's, on attributes; a private collection is bound to its caller besides.
            limit: passages wanted; None for what the preset gives.
            history: earlier turns, which a follow-up question is made whole with.
            model: that steps ask which generate; empty for the service's.
            capable: whether that model can rewrite questions.

        Raises:
            InvalidRequest: an empty or overlong question, an unknown preset.
            EmbeddingsUnavailable, VectorStoreUnavailable
        """
        _check(question)
        chosen = await self.preset_of(collection, preset)
        state = State(
            question=question.strip(),
            collection=collection,
            caller=caller,
            filter=bound_filter(collection, caller, filter),
            limit=limit,
            model=model,
        )
        with tracing.child_span("rag.retrieve", _about(collection, chosen)) as span:
            steps: list[StepTrace] = []
            if history:
                steps.append(await self._timed(_REWRITE, partial(self._rewrite, state, history, capable)))
            state.queries = [Query(state.question)]
            for step in chosen.steps:
                steps += [await self._timed(step.step, partial(step.run, state, self.tools))]
            passages = state.passages[:limit] if limit else state.passages
            if span.recording:
                _tell(span, state, passages)
        return Retrieval(passages, steps, state.best_similarity, state.question, chosen.name, state.pages)

    async def _rewrite(self, state: State, history: Sequence[Turn], capable: bool) -> str:
        rewritten = await rewrite(state, history, self.tools, capable=capable)
        state.question = rewritten.question
        return rewritten.detail

    async def _timed(self, name: str, work: Callable[[], Awaitable[str]]) -> StepTrace:
        started = time.perf_counter()
        with tracing.child_span(f"rag.retrieve.{name}") as span:
            detail = await work()
            if name != _REWRITE:  # whose detail says what was asked
                span.set({"rag.step.detail": detail})
        seconds = time.perf_counter() - started
        self._metrics.retrieval_step.labels(name).observe(seconds)
        return StepTrace(name, seconds * 1000, detail)


def _about(collection: Collection, preset: Preset) -> dict[str, Value]:
    return {
        genai.OPERATION: "retrieval",
        genai.ROLE: "RETRIEVER",
        genai.DATA_SOURCE: collection.name,
        "rag.preset": preset.name,
    }


def _tell(span: Span, state: State, passages: Sequence[Passage]) -> None:
    span.set({"rag.passages": len(passages)})
    if state.best_similarity is not None:
        span.set({"rag.best_similarity": round(state.best_similarity, 4)})
    if span.captures_content:
        span.set({genai.QUERY_TEXT: state.question})


def bound_filter(collection: Collection, caller: Caller, wanted: Filter | None) -> Filter | None:
    """Return the filter of every search that this caller makes in this collection."""
    own = eq("tenant", caller.name) if collection.visibility == "private" else None
    return every(None if wanted is None else of_attributes(wanted), own)


def _check(question: str) -> None:
    if not question.strip():
        raise InvalidRequest("the question is empty; ask something", param="messages")
    if len(question) > _LONGEST_QUESTION:
        raise InvalidRequest(
            f"the question has {len(question):,} characters, the limit is {_LONGEST_QUESTION:,}; ask for less at once",
            param="messages",
        )

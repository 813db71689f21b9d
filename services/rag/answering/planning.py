"""From a request to what is to be done: an answer that is there already, or a prompt for a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from services.rag.answering.attributing import annotation
from services.rag.answering.budgeting import fit
from services.rag.answering.caching import AnswerCache, CacheKey, Kept, cache_key, semantic_threshold
from services.rag.answering.deciding import NOT_FOUND, Decision, decide
from services.rag.answering.prompting import messages
from services.rag.answering.requests import Question
from services.rag.answering.small_models import LONGEST_ANSWER_TOKENS
from services.rag.answering.sources import sources
from services.rag.answering.supporting import Support
from services.rag.documents import Passage
from services.rag.generator import ModelFacts
from services.rag.library import Collection, Library
from services.rag.metrics import RagMetrics
from services.rag.ports import Caller, Embedder, Generator
from services.rag.retrieving.pipeline import Retriever
from services.rag.retrieving.rewriting import CAPABLE_PARAMETERS
from services.rag.retrieving.trace import Retrieval
from services.rag.settings import RagSettings
from services.rag.vectors import Vector

_QUOTED_CHARACTERS = 400


class AnsweringModel(Generator, Protocol):
    """A generator that knows its models."""

    async def facts(self, model: str, caller: Caller | None = None) -> ModelFacts:
        """Return what is known of a model; the default one's for an empty name."""


@dataclass(frozen=True)
class Settled:
    """An answer that no model has to be asked for."""

    text: str
    annotations: Sequence[Mapping[str, Any]]
    own: Mapping[str, Any]
    outcome: str
    sources: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Prompted:
    """What the model is asked.

    Args:
        own: what the answer says of itself (`sparkstack`).
        key, vector: under which the answer is kept; None: it is not.
    """

    question: Question
    retrieval: Retrieval
    facts: ModelFacts
    model: str
    own: Mapping[str, Any]
    passages: list[Passage] = field(default_factory=list)
    messages: list[dict[str, str]] = field(default_factory=list)
    max_tokens: int = 0
    key: CacheKey | None = None
    vector: Vector | None = None

    @property
    def capable(self) -> bool:
        """Whether long rules and long contexts help this model."""
        return is_capable(self.facts)

    @property
    def options(self) -> dict[str, Any]:
        """The fields that go to the model."""
        # A small model's own default temperature takes it away from the passages.
        steady = {} if self.capable else {"temperature": 0.0}
        named = {"model": self.model} if self.model else {}
        return {**steady, **self.question.options, **named}

    def fitted(self, answer_tokens: int, share: float = 1.0) -> "Prompted":
        """Return this with a prompt that fits the model's context.

        Raises:
            ContextLengthExceeded
        """
        asked = self.question
        found = fit(
            self.retrieval.passages,
            asked.text,
            instructions=asked.instructions,
            earlier=asked.earlier,
            context_tokens=self.facts.context_tokens,
            answer_tokens=asked.max_tokens
            or (answer_tokens if self.capable else min(answer_tokens, LONGEST_ANSWER_TOKENS)),
            capable=self.capable,
            share=share,
        )
        prompt = messages(
            found.passages,
            asked.text if not asked.history or self.capable else self.retrieval.question,
            instructions=asked.instructions,
            earlier=found.earlier,
            capable=self.capable,
        )
        own = {**self.own, "left_out": found.detail} if found.detail else self.own
        return replace(self, passages=found.passages, messages=prompt, max_tokens=found.max_tokens, own=own)


def is_capable(facts: ModelFacts) -> bool:
    """Say whether a model is of a size that rewrites questions and follows rules; unknown sizes are not."""
    return facts.parameters is not None and facts.parameters >= CAPABLE_PARAMETERS


class Planner:
    """Decides what is done about a question."""

    def __init__(
        self,
        *,
        settings: RagSettings,
        library: Library,
        retriever: Retriever,
        embedder: Embedder,
        model: AnsweringModel,
        cache: AnswerCache,
        metrics: RagMetrics,
    ) -> None:
        self._settings = settings
        self._library = library
        self._retriever = retriever
        self._embedder = embedder
        self._model = model
        self._cache = cache
        self._metrics = metrics

    async def plan(self, question: Question, caller: Caller) -> Settled | Prompted:
        """Return an answer that is there already, or the prompt for one.

        Raises:
            AppError: no such collection or preset, a service that is needed does not answer, nothing fits.
        """
        collection = await self._library.collection(question.collection)
        preset = await self._retriever.preset_of(collection, question.rag.preset)
        model = collection.model or self._settings.model
        facts = await self._model.facts(model, caller)
        key = self._key(question, caller, collection, preset.digest, model)
        vector: Vector | None = None
        if key is not None:
            known = self._known(key)
            if known is None and self._settings.semantic_cache and not question.history:
                vector = (await self._embedder.embed([question.text], caller))[0]
                known = self._similar(key, question, vector, semantic_threshold(collection.embedding_model))
            if known is not None:
                return known
        retrieval = await self._retriever.retrieve(
            question.text,
            collection,
            caller,
            preset=preset.name,
            filter=question.filter,
            limit=question.rag.limit,
            history=question.history[-self._settings.history_turns :] if self._settings.history_turns else (),
            model=model,
            capable=is_capable(facts),
        )
        if question.rag.retrieve_only:
            return _passages(question, retrieval)
        decision = decide(retrieval, collection.embedding_model)
        own = _own(question, retrieval, decision, facts)
        if not decision.answerable:
            self._keep(key, question, Kept(NOT_FOUND, (), _lasting(own)), vector)
            return Settled(NOT_FOUND, (), own, "not_in_documents")
        prompted = Prompted(question, retrieval, facts, model, own, key=key, vector=vector)
        return prompted.fitted(self._settings.answer_tokens)

    def keep(self, prompted: Prompted, text: str, annotations: Sequence[Mapping[str, Any]]) -> None:
        """Keep a whole answer of a model."""
        shown = sources(annotations, prompted.passages)
        kept = Kept(text, tuple(annotations), _lasting(prompted.own), shown)
        self._keep(prompted.key, prompted.question, kept, prompted.vector)

    def _keep(self, key: CacheKey | None, question: Question, kept: Kept, vector: Vector | None) -> None:
        if key is not None:
            self._cache.keep(key, question.text, kept, vector)

    def _key(
        self, question: Question, caller: Caller, collection: Collection, preset: str, model: str
    ) -> CacheKey | None:
        """Return the key of the answer; None where none is kept: no cache, a trace wanted, chance wanted."""
        wants_chance = question.options.get("temperature", 0) > 0 and "seed" not in question.options
        if not self._settings.cache_entries or question.rag.trace or question.rag.retrieve_only or wants_chance:
            return None
        return cache_key(
            question.text,
            collection=collection.id,
            revision=collection.revision,
            tenant=caller.name if collection.visibility == "private" else "",
            preset=preset,
            model=model,
            filter=repr(question.filter),
            limit=question.rag.limit,
            history=question.earlier,
            instructions=question.instructions,
            max_tokens=question.max_tokens,
            options=question.options,
        )

    def _known(self, key: CacheKey) -> Settled | None:
        kept = self._cache.exact(key)
        self._metrics.cache.labels("exact", "miss" if kept is None else "hit").inc()
        if kept is None:
            return None
        return Settled(kept.text, kept.annotations, {**kept.own, "cached": "exact"}, "cached", kept.sources)

    def _similar(self, key: CacheKey, question: Question, vector: Vector, threshold: float) -> Settled | None:
        found = self._cache.similar(key, question.text, vector, threshold)
        self._metrics.cache.labels("semantic", "miss" if found is None else "hit").inc()
        if found is None:
            return None
        kept, cosine = found
        own = {**kept.own, "cached": "semantic", "cached_similarity": round(cosine, 4)}
        return Settled(kept.text, kept.annotations, own, "cached", kept.sources)


def _own(
    question: Question, retrieval: Retrieval, decision: Decision | None, facts: ModelFacts | None
) -> dict[str, Any]:
    own: dict[str, Any] = {
        "answerable": decision is None or decision.answerable,
        "collection": question.collection,
        "preset": retrieval.preset,
        "question": retrieval.question,
        "cached": None,
    }
    if facts is not None:
        own["model"] = facts.id
    if decision is not None:
        own["evidence"] = {"value": round(decision.evidence, 4), "least": decision.least}
    if question.rag.trace or question.rag.retrieve_only:
        own["retrieval"] = {
            "ms": round(retrieval.ms, 2),
            "best_similarity": retrieval.best_similarity,
            "steps": [step.document() for step in retrieval.steps],
            "passages": [_shown(number, each) for number, each in enumerate(retrieval.passages, start=1)],
        }
    return own


def _lasting(own: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in own.items() if name not in ("retrieval", "cached")}


def _shown(number: int, passage: Passage) -> dict[str, Any]:
    return {
        "number": number,
        "file_id": passage.document_id,
        "filename": passage.name,
        "title": passage.title,
        "page": passage.page,
        "index": passage.index,
        "score": round(passage.score, 4),
        "similarity": None if passage.similarity is None else round(passage.similarity, 4),
        "text": passage.text,
        "attributes": dict(passage.attributes),
    }


def _passages(question: Question, retrieval: Retrieval) -> Settled:
    """Return the passages as an answer: one paragraph each, cited whole."""
    text, annotations = "", []
    for number, each in enumerate(retrieval.passages, start=1):
        text += ("\n\n" if text else "") + each.text.strip() + " "
        support = Support(number, 0, min(len(each.text), _QUOTED_CHARACTERS), round(each.score, 4))
        annotations.append(annotation(each, retrieval, support, len(text)))
        text += f"[{number}]"
    shown = sources(annotations, retrieval.passages)
    return Settled(text, annotations, _own(question, retrieval, None, None), "retrieved", shown)

"""One evaluation: every question to every preset, scored; then, where a judge is named, every answer judged."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

from services.rag.evaluating.judge import Verdict, judge
from services.rag.evaluating.measures import Scores, documents_of, score
from services.rag.evaluating.questions import Qrels, Question, QuestionsError
from services.rag.evaluating.service import Answered, Found, Service, ServiceError

# Passages for each document wanted: several of the best are often of one document.
PASSAGES_PER_DOCUMENT = 3
# The service gives no more at a time.
MOST_PASSAGES = 100
# What the shipped presets hand to the model that answers.
_JUDGED_BY = 5
Progress = Callable[[str, int, int], None]
"""What is done (`fast: searched`), how many of how many."""


@dataclass(frozen=True)
class Row:
    """What came of one question under one preset.

    Args:
        scores: None for a question without a relevant document.
        answer, verdict: None where answers were not asked for.
        passages: that the answer was judged by.
    """

    question: Question
    documents: tuple[str, ...]
    ms: float
    steps: Mapping[str, float]
    similarity: float | None
    scores: Scores | None
    answer: Answered | None = None
    verdict: Verdict | None = None
    passages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation was of, and its rows by preset."""

    collection: str
    split: str
    k: int
    judge_model: str
    rows: Mapping[str, Sequence[Row]]
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """What to evaluate.

    Args:
        judge_model: that judges answers; empty: only retrieval is measured.
        at_once: questions that are searched for at a time; 1 where milliseconds are to mean something.
    """

    collection: str
    questions: Sequence[Question]
    qrels: Qrels
    presets: Sequence[str]
    k: int = 10
    split: str = "all"
    judge_model: str = ""
    at_once: int = 1

    @cached_property
    def known(self) -> frozenset[str]:
        """The names of all documents that have a judgement."""
        return frozenset(name for grades in self.qrels.values() for name in grades)


def as_judged(name: str, known: frozenset[str]) -> str:
    """Return a document's name as the judgements have it: what is ingested as a folder has the folder in its name."""
    parts = name.split("/")
    ends = ("/".join(parts[at:]) for at in range(len(parts)))
    return next((each for each in ends if each in known), name)


async def evaluate(service: Service, plan: Plan, progress: Progress) -> Evaluation:
    """Run a plan.

    Raises:
        QuestionsError: where no question has a judgement.
        ServiceError
    """
    if not any(_grades(plan, each) for each in plan.questions):
        raise QuestionsError("none of these questions has a document of grade 1 or 2 in the judgements: wrong files?")
    rows: dict[str, list[Row]] = {}
    for preset in plan.presets:
        rows[preset] = await _preset(service, plan, preset, progress)
    if not any(row.scores and row.scores.judged > 0 for each in rows.values() for row in each):
        raise ServiceError(
            f"no document that was found in {plan.collection} has a judgement: it holds other documents than the "
            f"judgements are of, or their names differ (found: {_some_name(rows)})"
        )
    return Evaluation(plan.collection, plan.split, plan.k, plan.judge_model, rows)


async def _preset(service: Service, plan: Plan, preset: str, progress: Progress) -> list[Row]:
    gate = asyncio.Semaphore(plan.at_once)
    done = 0

    async def one(question: Question) -> Row:
        nonlocal done
        async with gate:
            row = await _row(service, plan, preset, question)
        done += 1
        progress(f"{preset}: {'judged' if plan.judge_model else 'searched'}", done, len(plan.questions))
        return row

    tasks = [asyncio.ensure_future(one(question)) for question in plan.questions]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


async def _row(service: Service, plan: Plan, preset: str, question: Question) -> Row:
    limit = min(MOST_PASSAGES, plan.k * PASSAGES_PER_DOCUMENT)
    found = await service.search(plan.collection, question.text, preset=preset, limit=limit)
    documents = tuple(documents_of(as_judged(name, plan.known) for name in found.names))
    grades = _grades(plan, question)
    row = Row(
        question=question,
        documents=documents[: plan.k],
        ms=found.ms,
        steps=found.steps,
        similarity=found.similarity,
        scores=score(documents, grades, plan.k) if grades else None,
    )
    return await _judged(service, plan, preset, row, found) if plan.judge_model else row


async def _judged(service: Service, plan: Plan, preset: str, row: Row, found: Found) -> Row:
    answer = await service.answer(plan.collection, row.question.text, preset=preset)
    passages, verdict = found.texts[:_JUDGED_BY], None
    if answer.answerable:
        verdict = await judge(partial(service.ask, plan.judge_model), row.question.text, answer.text, passages)
    return replace(row, answer=answer, verdict=verdict, passages=passages)


def _grades(plan: Plan, question: Question) -> dict[str, int]:
    """Return a question's judgements; nothing where none of them is relevant."""
    grades = plan.qrels.get(question.id, {})
    return grades if any(grade > 0 for grade in grades.values()) else {}


def _some_name(rows: Mapping[str, Sequence[Row]]) -> str:
    return next((row.documents[0] for each in rows.values() for row in each if row.documents), "nothing at all")

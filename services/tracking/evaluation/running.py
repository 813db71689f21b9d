"""A set asked of a model: so many questions at a time, each answer kept as it comes."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from services.tracking.evaluation.door import Answer, AnswerError, Door, DoorError
from services.tracking.evaluation.runs import Item, Run
from services.tracking.evaluation.sets import Question, QuestionSet

# So many failures one after another are no property of the questions.
_FAILURES_IN_A_ROW = 8

Keep = Callable[[Item], None]
Progress = Callable[[int, int, float | None], None]
"""Answered, of how many, and the mean score so far where it is known."""


@dataclass
class _State:
    done: int
    score: float = 0.0
    in_a_row: int = 0


async def ask_all(
    run: Run, questions: QuestionSet, known: Sequence[Item], door: Door, keep: Keep, progress: Progress
) -> None:
    """Ask what a run has no answers to yet, and have each kept as it comes.

    Args:
        known: what was answered before; an item with an error is asked again.

    Raises:
        DoorError: the gateway can't be asked any more; what was answered is kept.
    """
    answered = {item.id: item for item in known if not item.error}
    left = [question for question in questions.questions if question.id not in answered]
    state = _State(done=len(answered), score=sum(item.score for item in answered.values()))
    total = len(questions.questions)
    alone = asyncio.Lock()

    async def one(question: Question) -> None:
        item = await _item(run, question, door)
        async with alone:
            await asyncio.to_thread(keep, item)
        state.in_a_row = state.in_a_row + 1 if item.error else 0
        state.done += 1
        state.score += item.score
        progress(state.done, total, state.score / state.done)
        if state.in_a_row >= _FAILURES_IN_A_ROW:
            raise DoorError(f"{state.in_a_row} questions in a row have no answer; the last: {item.error}")

    progress(state.done, total, state.score / state.done if state.done else 0.0)
    await _side_by_side(left, one, run.concurrency)


async def _item(run: Run, question: Question, door: Door) -> Item:
    try:
        answer = await door.ask(
            run.model,
            question,
            temperature=run.temperature,
            seed=run.seed,
            max_tokens=run.max_tokens or question.max_tokens,
        )
    except AnswerError as error:
        return _as_item(question, None, error=str(error))
    return _as_item(question, answer)


def _as_item(question: Question, answer: Answer | None, error: str = "") -> Item:
    if answer is None:
        return Item(
            id=question.id,
            prompt=question.prompt,
            prompt_digest=question.digest,
            answer="",
            reference=question.reference,
            score=0.0,
            kind=question.kind,
            error=error,
        )
    verdict = question.scorer(answer.text)
    return Item(
        id=question.id,
        prompt=question.prompt,
        prompt_digest=question.digest,
        answer=answer.text,
        reference=question.reference,
        score=verdict.score,
        format_failed=verdict.format_failed,
        kind=question.kind,
        served=answer.served,
        prompt_tokens=answer.prompt_tokens,
        completion_tokens=answer.completion_tokens,
        seconds=round(answer.seconds, 4),
        finish_reason=answer.finish_reason,
    )


async def _side_by_side(
    questions: Sequence[Question], one: Callable[[Question], Awaitable[None]], at_once: int
) -> None:
    """Ask in the set's order, so many at a time; the first that can't go on ends the others."""
    pending = iter(questions)

    async def worker() -> None:
        for question in pending:
            await one(question)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(at_once, len(questions))):
                group.create_task(worker())
    except ExceptionGroup as group:
        stopped, others = group.split(DoorError)
        raise (others or stopped or group).exceptions[0] from None

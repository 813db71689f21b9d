"""A judgement from its beginning to its end: who is asked what, what is kept, what comes of it."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from services.tracking.evaluation import door as doors
from services.tracking.evaluation import grading, pairwise
from services.tracking.evaluation.asking import Ask, Reply
from services.tracking.evaluation.door import AnswerError, Door, DoorError
from services.tracking.evaluation.grading import Graded, Rubric
from services.tracking.evaluation.judge_report import markdown
from services.tracking.evaluation.judgements import (
    Judgement,
    JudgementError,
    Judgements,
    grade_counts,
    grade_figures,
    identify,
    pairwise_counts,
    pairwise_figures,
)
from services.tracking.evaluation.pairwise import Judged, Pairing
from services.tracking.evaluation.runs import Item, Run, digest, timestamp
from services.tracking.evaluation.scorers import Verdict as Unscored
from services.tracking.evaluation.scorers import said
from services.tracking.evaluation.session import Place, look_up
from services.tracking.evaluation.sets import Question

Progress = Callable[[int, int], None]
"""Judged, of how many."""
# So many refusals one after another are no property of the answers.
_FAILURES_IN_A_ROW = 8
_NO_REQUEST = "the request failed: "

Work = TypeVar("Work")


@dataclass(frozen=True)
class Judge:
    """Who is asked, and how.

    Args:
        reasons: it says why, before it decides.
        references: it is shown the right answer, where an item has a text or a number as one.
        max_tokens: of a reply, for a judge that thinks first; None: enough for one that doesn't.
    """

    model: str
    reasons: bool = True
    references: bool = False
    max_tokens: int | None = None
    concurrency: int = 1


def begin_pairs(judge: Judge, run_a: Run, run_b: Run, place: Place, judgements: Judgements) -> Judgement:
    """Return the judgement of two runs: as it was left, or a new one.

    Raises:
        DoorError: nothing answers, the key is refused, or there is no such judge.
        JudgementError
    """
    new = _described(judge, run_a, place, "pairwise", pairwise.METHOD)
    return _begun(replace(new, run_b=run_b.id, model_b=run_b.model), judgements)


def begin_grades(judge: Judge, run: Run, rubric: Rubric, place: Place, judgements: Judgements) -> Judgement:
    """Return the judgement of a run by a rubric: as it was left, or a new one.

    Raises:
        DoorError, JudgementError
    """
    new = _described(judge, run, place, "grades", grading.METHOD)
    return _begun(replace(new, rubric=rubric.name, rubric_digest=digest(rubric.text())), judgements)


def pairings(first: Sequence[Item], second: Sequence[Item], *, references: bool) -> list[Pairing]:
    """Return the pairs of answers to the items that both runs were asked, alike, in the first run's order.

    Raises:
        JudgementError: there is none.
    """
    later = {item.id: item for item in second}
    pairs = [(item, later[item.id]) for item in first if item.id in later]
    found = [
        Pairing(one.id, one.prompt, _answer(one), _answer(other), _reference(one) if references else "")
        for one, other in pairs
        if one.prompt_digest == other.prompt_digest
    ]
    if not found:
        raise JudgementError("the two runs were asked nothing alike: they must be of one set")
    return found


def judge_pairs(
    judgement: Judgement, pairs: Sequence[Pairing], place: Place, judgements: Judgements, judge: Judge, show: Progress
) -> Judgement:
    """Judge what is still to be judged and return the judgement as it has ended, finished or interrupted.

    Raises:
        JudgementError: another process is at work on it, or its files are damaged.
        KeyboardInterrupt: after what is known is written down.
    """

    async def one(ask: Ask, pairing: Pairing) -> Judged:
        return await pairwise.judge_pair(ask, pairing, reasons=judgement.reasons)

    def summarised(judgement: Judgement) -> Judgement:
        judged = judgements.lines(judgement, Judged)
        figures, length = pairwise_figures(judged)
        return replace(judgement, figures=figures, length=length, counts=pairwise_counts(judged))

    with judgements.held(judgement):
        kept = {each.id for each in judgements.lines(judgement, Judged) if each.outcome != "invalid"}
        left = [pairing for pairing in pairs if pairing.id not in kept]
        return _perform(judgement, left, len(pairs), one, summarised, place, judgements, judge, show)


def judge_grades(
    judgement: Judgement,
    items: Sequence[Item],
    rubric: Rubric,
    place: Place,
    judgements: Judgements,
    judge: Judge,
    show: Progress,
) -> Judgement:
    """Grade what is still to be graded and return the judgement as it has ended, finished or interrupted.

    Raises:
        JudgementError, KeyboardInterrupt: as `judge_pairs`.
    """

    async def one(ask: Ask, item: Item) -> Graded:
        reference = _reference(item) if judgement.references else ""
        reasons = judgement.reasons
        return await grading.grade_answer(ask, rubric, item.id, item.prompt, _answer(item), reference, reasons=reasons)

    def summarised(judgement: Judgement) -> Judgement:
        graded = judgements.lines(judgement, Graded)
        return replace(judgement, figures=grade_figures(graded, rubric), counts=grade_counts(graded, rubric))

    with judgements.held(judgement):
        kept = {each.id for each in judgements.lines(judgement, Graded) if each.grade is not None}
        left = [item for item in items if item.id not in kept]
        return _perform(judgement, left, len(items), one, summarised, place, judgements, judge, show)


def _perform(
    judgement: Judgement,
    left: Sequence[Work],
    total: int,
    one: Callable[[Ask, Work], Awaitable[Judged | Graded]],
    summarised: Callable[[Judgement], Judgement],
    place: Place,
    judgements: Judgements,
    judge: Judge,
    show: Progress,
) -> Judgement:
    begun = time.monotonic()
    judgements.save(replace(judgement, state="running", note=""))
    note = "interrupted"
    try:
        asyncio.run(_ask_all(judgement, left, total, one, place, judgements, judge, show))
        note = ""
    except DoorError as error:
        note = str(error)
    finally:
        ended = replace(
            summarised(judgement),
            state="interrupted" if note else "finished",
            note=f"{note}. What was judged is kept: the same command again goes on" if note else "",
            ended=timestamp(datetime.now(UTC)),
            seconds=round(judgement.seconds + time.monotonic() - begun, 3),
        )
        judgements.save(ended)
        (judgements.path(ended) / "report.md").write_text(markdown(ended), encoding="utf-8")
    return ended


async def _ask_all(
    judgement: Judgement,
    left: Sequence[Work],
    total: int,
    one: Callable[[Ask, Work], Awaitable[Judged | Graded]],
    place: Place,
    judgements: Judgements,
    judge: Judge,
    show: Progress,
) -> None:
    pending = iter(left)
    done = total - len(left)
    show(done, total)
    writing = asyncio.Lock()

    async def worker(ask: Ask) -> None:
        nonlocal done
        for work in pending:
            judged = await one(ask, work)
            async with writing:
                await asyncio.to_thread(judgements.append, judgement, judged)
            done += 1
            show(done, total)

    async with doors.client(place.url, place.key, judge.concurrency) as client:
        ask = ask_by(Door(client), judge)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(judge.concurrency, len(left))):
                    group.create_task(worker(ask))
        except* DoorError as errors:
            raise errors.exceptions[0] from None


def ask_by(door: Door, judge: Judge) -> Ask:
    """Return what asks a judge: at temperature 0, its reply held to the schema where its engine can."""
    in_a_row = 0

    async def ask(prompt: str, schema: Mapping[str, Any], max_tokens: int) -> Reply:
        nonlocal in_a_row
        question = Question(
            id="",
            messages=({"role": "user", "content": prompt},),
            scorer=lambda _: Unscored(0.0),
            scorer_kind="",
            reference=None,
            kind="",
            max_tokens=max_tokens,
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "verdict", "schema": dict(schema), "strict": True},
            },
        )
        most = judge.max_tokens or max_tokens
        try:
            answer = await door.ask(judge.model, question, temperature=0.0, seed=0, max_tokens=most)
        except AnswerError as error:
            in_a_row += 1
            if in_a_row >= _FAILURES_IN_A_ROW:
                raise DoorError(f"the judge refused {in_a_row} requests in a row; the last: {error}") from None
            return Reply("", trouble=f"{_NO_REQUEST}{error}")
        in_a_row = 0
        return Reply(answer.text, cut=answer.finish_reason == "length")

    return ask


def _described(judge: Judge, run: Run, place: Place, kind: Any, method: str) -> Judgement:
    return Judgement(
        id="",
        kind=kind,
        judge=judge.model,
        served=look_up(judge.model, place).id,
        method=method,
        run_a=run.id,
        model_a=run.model,
        set=run.set,
        set_digest=run.set_digest,
        reasons=judge.reasons,
        references=judge.references,
        max_tokens=judge.max_tokens,
        started=timestamp(datetime.now(UTC)),
        url=place.url,
    )


def _begun(new: Judgement, judgements: Judgements) -> Judgement:
    named = replace(new, id=identify(new))
    return judgements.find(named.id) or named


def _answer(item: Item) -> str | None:
    return None if item.error else said(item.answer)


def _reference(item: Item) -> str:
    """Return a right answer as a judge can read it: schemas and patterns are none."""
    reference = item.reference[0] if isinstance(item.reference, list) and item.reference else item.reference
    return str(reference) if isinstance(reference, str | int | float) and not isinstance(reference, bool) else ""

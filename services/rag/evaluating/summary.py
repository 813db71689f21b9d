"""An evaluation in figures: means with intervals, differences, by kind, milliseconds. Pure arithmetic."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

import numpy as np

from services.kit.resampling import Interval, interval, paired
from services.rag.evaluating import measures
from services.rag.evaluating.measures import Scores
from services.rag.evaluating.runner import Evaluation, Row


def summarise(evaluation: Evaluation) -> dict[str, Any]:
    """Return what the report shows, as JSON has it: by preset, and the differences to the best one."""
    scored = {preset: [row for row in rows if row.scores] for preset, rows in evaluation.rows.items()}
    best = max(scored, key=lambda preset: _mean(scored[preset], "ndcg"))
    return {
        "collection": evaluation.collection,
        "split": evaluation.split,
        "k": evaluation.k,
        "judge": evaluation.judge_model,
        "questions": {
            "judged": len(scored[best]),
            "unanswerable": sum(not row.question.answerable for row in evaluation.rows[best]),
        },
        "best": best,
        "presets": {preset: _preset(rows, scored[preset]) for preset, rows in evaluation.rows.items()},
        "differences": {
            preset: {name: asdict(_difference(rows, scored[best], name)) for name in measures.NAMES}
            for preset, rows in scored.items()
            if preset != best
        },
    }


def values(rows: Sequence[Row], name: str) -> list[float]:
    """Return one measure of each scored row."""
    return [float(getattr(row.scores, name)) for row in rows if row.scores]


def separation(answerable: Sequence[float], unanswerable: Sequence[float]) -> float | None:
    """Return the area under the ROC curve: how often an answerable question has the higher similarity.

    0.5 is chance, 1.0 is a threshold that never errs. None where one side has no questions.
    """
    if not answerable or not unanswerable:
        return None
    ours, theirs = np.asarray(answerable)[:, None], np.asarray(unanswerable)[None, :]
    return float(((ours > theirs) + 0.5 * (ours == theirs)).mean())


def _preset(rows: Sequence[Row], scored: Sequence[Row]) -> dict[str, Any]:
    kinds = dict.fromkeys(row.question.kind for row in scored)
    return {
        "measures": {name: asdict(interval(values(scored, name))) for name in measures.NAMES},
        "judged_share": _mean(scored, "judged"),
        "by_kind": {kind: _kind([row for row in scored if row.question.kind == kind]) for kind in kinds},
        "ms": _spread([row.ms for row in rows]),
        "steps_ms": {name: median(row.steps.get(name, 0.0) for row in rows) for name in _steps(rows)},
        "separation": separation(
            _similarities(rows, lambda row: row.question.answerable),
            _similarities(rows, lambda row: not row.question.answerable),
        ),
        "answers": _answers(rows),
    }


def _kind(rows: Sequence[Row]) -> dict[str, float]:
    return {"questions": len(rows), **{name: _mean(rows, name) for name in measures.NAMES}}


def _answers(rows: Sequence[Row]) -> dict[str, Any] | None:
    answered = [row for row in rows if row.answer]
    if not answered:
        return None
    faithful = [row.verdict.faithfulness for row in answered if row.verdict and row.verdict.faithfulness is not None]
    relevant = [row.verdict.relevance for row in answered if row.verdict and row.verdict.relevance is not None]
    return {
        "faithfulness": asdict(interval(faithful)) if faithful else None,
        "relevance": asdict(interval(relevant)) if relevant else None,
        "judged": len(faithful),
        "unread_verdicts": sum(bool(row.verdict and row.verdict.trouble) for row in answered),
        "refused_answerable": sum(
            not row.answer.answerable for row in answered if row.answer and row.question.answerable
        ),
        "answerable": sum(row.question.answerable for row in answered),
        "answered_unanswerable": sum(
            row.answer.answerable for row in answered if row.answer and not row.question.answerable
        ),
        "unanswerable": sum(not row.question.answerable for row in answered),
    }


def _difference(ours: Sequence[Row], theirs: Sequence[Row], name: str) -> Interval:
    return paired(values(ours, name), values(theirs, name))


def _mean(rows: Sequence[Row], name: str) -> float:
    found = values(rows, name)
    return sum(found) / len(found) if found else 0.0


def _similarities(rows: Sequence[Row], which: Callable[[Row], bool]) -> list[float]:
    return [row.similarity for row in rows if row.similarity is not None and which(row)]


def _spread(found: Sequence[float]) -> dict[str, float]:
    return {"median": median(found), "p95": float(np.quantile(found, 0.95))}


def _steps(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.steps))


def rows_as_json(rows: Mapping[str, Sequence[Row]]) -> dict[str, list[dict[str, Any]]]:
    """Return every row, for whoever wants to look at single questions."""
    return {preset: [_row(row) for row in each] for preset, each in rows.items()}


def _row(row: Row) -> dict[str, Any]:
    scores: Scores | None = row.scores
    return {
        "id": row.question.id,
        "question": row.question.text,
        "kind": row.question.kind,
        "documents": list(row.documents),
        "ms": round(row.ms, 2),
        "similarity": row.similarity,
        "scores": asdict(scores) if scores else None,
        "answer": row.answer.text if row.answer else None,
        "verdict": asdict(row.verdict) if row.verdict else None,
        "passages": list(row.passages),
    }

"""Requests as rows of a report: numbers, flags and names; of the vectors what can be said in a number."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from services.tracking.requests import SampledRequest

_FEATURES = (
    "prompt_characters",
    "answer_characters",
    "prompt_language",
    "answer_language",
    "repetition",
    "refusal",
    "empty",
    "format_failure",
    "tool_failure",
    "judge_score",
)
Row = dict[str, Any]


def rows_of(window: Sequence[SampledRequest], reference: Sequence[SampledRequest]) -> tuple[list[Row], list[Row]]:
    """Return the rows of both. Columns that one of them has nothing in are left out.

    `prompt_usual` and `answer_usual` are cosines with the mean of the reference: how usual a text is.
    """
    means = {name: _mean([getattr(each, name) for each in reference]) for name in ("prompt_vector", "answer_vector")}
    both = [[_row(each, means) for each in requests] for requests in (window, reference)]
    kept = [
        name
        for name in (both[1][0] if both[1] else {})
        if all(any(row[name] is not None for row in rows) for rows in both)
    ]
    mine, theirs = ([{name: row[name] for name in kept} for row in rows] for rows in both)
    return mine, theirs


def _row(request: SampledRequest, means: dict[str, np.ndarray | None]) -> Row:
    record = request.record
    answered = record.status < 400
    return {
        **{name: request.features.get(name) for name in _FEATURES},
        "prompt_usual": _cosine(request.prompt_vector, means["prompt_vector"]),
        "answer_usual": _cosine(request.answer_vector, means["answer_vector"]),
        "model": record.model,
        "failed": record.status >= 500,
        "finish_reason": record.finish_reason or None if answered else None,
        "seconds": max(0.0, record.seconds - record.held_s) if answered else None,
        "first_token_s": record.first_token_s if answered else None,
        "feedback": request.score,
    }


def _mean(vectors: list[bytes]) -> np.ndarray | None:
    given = [vector for vector in vectors if vector]
    if not given:
        return None
    same = [vector for vector in given if len(vector) == len(given[0])]
    mean = np.frombuffer(b"".join(same), dtype="<f4").reshape(len(same), -1).mean(axis=0)
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-9))


def _cosine(vector: bytes, mean: np.ndarray | None) -> float | None:
    if mean is None or len(vector) != 4 * len(mean):
        return None
    return round(float(np.frombuffer(vector, dtype="<f4") @ mean), 4)

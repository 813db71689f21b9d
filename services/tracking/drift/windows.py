"""A set of sampled requests as columns: what the detectors compare."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from services.tracking.drift.features import VERSION, Ending
from services.tracking.requests import SampledRequest

BLOCKED = "guardrail_blocked"
"""The error's code where a guard has refused."""
_UNTIMED = frozenset({"cancelled"})


@dataclass
class Columns:
    """Columns by name; each leaves out the requests that have nothing to say in it.

    Args:
        numbers: `(n,)` float64.
        flags: `(n,)` bool.
        names: of closed sets.
        vectors: `(n, dimensions)` float32, L2-normalised.
    """

    size: int
    numbers: dict[str, npt.NDArray[np.float64]] = field(default_factory=dict)
    flags: dict[str, npt.NDArray[np.bool_]] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)
    vectors: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)


def belongs(request: SampledRequest) -> bool:
    """Say whether a request is looked at: from outside, and with features that are measured as today's are."""
    return request.record.hops == 0 and request.features.get("version") == VERSION


def columns_of(requests: Sequence[SampledRequest], endings: Sequence[Ending] | None = None) -> Columns:
    """Return the requests' columns. Requests that do not belong are for the caller to leave out.

    Args:
        endings: of all requests of the same time, sampled or not: one that was refused at the door is never sampled.
    """
    if endings is None:
        endings = [(each.record.status, each.record.outcome, each.record.error) for each in requests]
    answered = [each for each in requests if each.record.status < 400]
    timed = [each for each in answered if each.record.outcome not in _UNTIMED]
    columns = Columns(len(requests))
    for name in ("prompt_characters", "answer_characters", "repetition", "judge_score"):
        columns.numbers[name] = _numbers(requests, _feature(name))
    columns.numbers["feedback"] = _numbers(requests, lambda each: each.score)
    columns.numbers["seconds"] = _numbers(timed, lambda each: max(0.0, each.record.seconds - each.record.held_s))
    columns.numbers["first_token_s"] = _numbers(timed, lambda each: each.record.first_token_s)
    for name in ("refusal", "empty", "format_failure", "tool_failure"):
        columns.flags[name] = _flags(requests, _feature(name))
    columns.flags["blocked"] = np.array([error == BLOCKED for _, _, error in endings], dtype=bool)
    columns.flags["failed"] = np.array([_has_failed(*ending) for ending in endings], dtype=bool)
    columns.names["prompt_language"] = _names(requests, lambda each: each.features.get("prompt_language"))
    columns.names["answer_language"] = _names(requests, lambda each: each.features.get("answer_language"))
    columns.names["finish_reason"] = _names(answered, lambda each: each.record.finish_reason)
    _add_vectors(columns, requests)
    return columns


def _has_failed(status: int, outcome: str, _error: str) -> bool:
    """Say whether the stack has failed. What a caller did wrong, and what a limit refused, is none of it."""
    return status >= 500 or (status < 400 and outcome == "failed")


def _feature(name: str) -> Callable[[SampledRequest], Any]:
    return lambda each: each.features.get(name)


def _add_vectors(columns: Columns, requests: Sequence[SampledRequest]) -> None:
    prompts = [each.prompt_vector for each in requests]
    answers = [each.answer_vector for each in requests]
    # Another embedding model has vectors of another length: of several the most frequent length is taken.
    lengths = [len(each) for each in (*prompts, *answers) if each]
    if not lengths:
        return
    length = max(set(lengths), key=lengths.count)
    columns.vectors["prompt"] = _matrix([each for each in prompts if len(each) == length], length)
    columns.vectors["answer"] = _matrix([each for each in answers if len(each) == length], length)
    pairs = [pair for pair in zip(prompts, answers, strict=True) if all(len(each) == length for each in pair)]
    first, second = (_matrix([pair[place] for pair in pairs], length) for place in (0, 1))
    columns.numbers["closeness"] = (first * second).sum(axis=1).astype(np.float64)


def _matrix(rows: list[bytes], length: int) -> npt.NDArray[np.float32]:
    return np.frombuffer(b"".join(rows), dtype="<f4").reshape(len(rows), length // 4)


def _numbers(requests: Sequence[SampledRequest], of: Callable[[SampledRequest], Any]) -> npt.NDArray[np.float64]:
    values = [of(each) for each in requests]
    return np.array([value for value in values if isinstance(value, (int, float))], dtype=np.float64)


def _flags(requests: Sequence[SampledRequest], of: Callable[[SampledRequest], Any]) -> npt.NDArray[np.bool_]:
    return np.array([value for value in map(of, requests) if isinstance(value, bool)], dtype=bool)


def _names(requests: Sequence[SampledRequest], of: Callable[[SampledRequest], Any]) -> list[str]:
    return [value for value in map(of, requests) if isinstance(value, str) and value]

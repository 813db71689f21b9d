"""A run's figures: means with intervals, counts, times. Pure arithmetic."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from services.kit.resampling import interval
from services.tracking.evaluation.runs import Figure, Item, Run


def summarised(run: Run, items: Sequence[Item]) -> Run:
    """Return a run with the figures of its items."""
    return replace(run, figures=figures(items), counts=counts(items), times=times(items))


def figures(items: Sequence[Item]) -> dict[str, Figure]:
    """Return `score`, the items' other scores by name, `seconds` and `completion_tokens` of what was answered."""
    if not items:
        return {}
    found = {"score": figure(item.score for item in items)}
    for name in dict.fromkeys(name for item in items for name in item.scores):
        found[name] = figure(item.scores[name] for item in items if name in item.scores)
    for name in ("seconds", "completion_tokens"):
        values = [value for item in items if (value := getattr(item, name)) is not None and not item.error]
        if values:
            found[name] = figure(values)
    return found


def figure(values: Iterable[float]) -> Figure:
    """Return the mean and its 95 % bootstrap interval.

    Raises:
        ValueError: without values.
    """
    data = [float(value) for value in values]
    found = interval(data)
    return Figure(found.mean, found.low, found.high, len(data))


def by_kind(items: Sequence[Item]) -> dict[str, Figure]:
    """Return the score of each kind of question, in the set's order; {} where all are of one."""
    kinds = list(dict.fromkeys(item.kind for item in items))
    if len(kinds) < 2:
        return {}
    return {kind: figure(item.score for item in items if item.kind == kind) for kind in kinds}


def counts(items: Sequence[Item]) -> dict[str, int]:
    """Return how many items there are, and how many of them went wrong in which way."""
    return {
        "items": len(items),
        "errors": sum(bool(item.error) for item in items),
        "format_failures": sum(item.format_failed for item in items),
        "cut": sum(item.finish_reason == "length" for item in items),
        "prompt_tokens": sum(item.prompt_tokens or 0 for item in items),
        "completion_tokens": sum(item.completion_tokens or 0 for item in items),
    }


def times(items: Sequence[Item]) -> Mapping[str, float]:
    """Return seconds an answer (`p50`, `p95`) and tokens a second of one request; {} where nothing was timed."""
    timed = [item for item in items if item.seconds is not None and not item.error]
    if not timed:
        return {}
    seconds = np.asarray([item.seconds for item in timed], dtype=np.float64)
    tokens = sum(item.completion_tokens or 0 for item in timed)
    found = {"p50": float(np.quantile(seconds, 0.5)), "p95": float(np.quantile(seconds, 0.95))}
    return found | ({"tokens_per_s": tokens / float(seconds.sum())} if tokens else {})

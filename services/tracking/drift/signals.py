"""What is watched, and how a window is compared with the reference."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from services.tracking.drift import detectors
from services.tracking.drift.alarms import BUDGET, alarms
from services.tracking.drift.detectors import Comparison
from services.tracking.drift.windows import Columns

LEAST = 20
"""Values that a column must have on both sides to be compared."""
_MOST_VECTORS = 800
Compare = Callable[[Columns, Columns, np.random.Generator], Comparison | None]


@dataclass(frozen=True)
class Signal:
    """Something that is watched.

    Args:
        floor: a lower score never alarms, however certain.
        says: what it means, in a few words.
    """

    name: str
    floor: float
    says: str
    compare: Compare


@dataclass(frozen=True)
class Finding:
    """What was found of one signal in one window."""

    name: str
    score: float
    p: float
    alarm: bool
    detail: dict[str, float]

    def document(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {
            "signal": self.name,
            "score": round(self.score, 4),
            "p": float(f"{self.p:.3g}"),
            "alarm": self.alarm,
            "detail": {name: round(value, 4) for name, value in self.detail.items()},
        }


def _number(column: str) -> Compare:
    def compare(reference: Columns, window: Columns, _dice: np.random.Generator) -> Comparison | None:
        both = [each.numbers.get(column) for each in (reference, window)]
        if any(values is None or len(values) < LEAST for values in both):
            return None
        return detectors.compare_numbers(reference.numbers[column], window.numbers[column])

    return compare


def _flag(column: str) -> Compare:
    def compare(reference: Columns, window: Columns, _dice: np.random.Generator) -> Comparison | None:
        if min(len(reference.flags[column]), len(window.flags[column])) < LEAST:
            return None
        return detectors.compare_flags(reference.flags[column], window.flags[column])

    return compare


def _name(column: str) -> Compare:
    def compare(reference: Columns, window: Columns, dice: np.random.Generator) -> Comparison | None:
        if min(len(reference.names[column]), len(window.names[column])) < LEAST:
            return None
        return detectors.compare_shares(reference.names[column], window.names[column], dice)

    return compare


def _vector(column: str, test: Callable[[Any, Any, np.random.Generator], Comparison]) -> Compare:
    def compare(reference: Columns, window: Columns, dice: np.random.Generator) -> Comparison | None:
        both = [each.vectors.get(column) for each in (reference, window)]
        if any(values is None or len(values) < LEAST for values in both):
            return None
        first, second = reference.vectors[column], window.vectors[column]
        if first.shape[1] != second.shape[1]:  # another embedding model: nothing can be said
            return None
        return test(_some(first, dice), _some(second, dice), dice)

    return compare


def _some(vectors: Any, dice: np.random.Generator) -> Any:
    if len(vectors) <= _MOST_VECTORS:
        return vectors
    return vectors[np.sort(dice.choice(len(vectors), _MOST_VECTORS, replace=False))]


SIGNALS = (
    Signal("prompt_length", 0.15, "prompts are longer or shorter", _number("prompt_characters")),
    Signal("answer_length", 0.15, "answers are longer or shorter", _number("answer_characters")),
    Signal("prompt_language", 0.05, "people ask in other languages", _name("prompt_language")),
    Signal("answer_language", 0.05, "answers are in other languages", _name("answer_language")),
    Signal(
        "prompt_domain", 0.2, "a classifier tells the prompts apart", _vector("prompt", detectors.compare_by_classifier)
    ),
    Signal(
        "answer_domain", 0.2, "a classifier tells the answers apart", _vector("answer", detectors.compare_by_classifier)
    ),
    Signal("prompt_mmd", 0.05, "the prompts' meaning has moved", _vector("prompt", detectors.compare_by_kernel)),
    Signal("answer_mmd", 0.05, "the answers' meaning has moved", _vector("answer", detectors.compare_by_kernel)),
    Signal("topics", 0.1, "topics are asked in other shares", _vector("prompt", detectors.compare_topics)),
    Signal("closeness", 0.15, "answers are nearer to or farther from what was asked", _number("closeness")),
    Signal("repetition", 0.15, "answers repeat themselves more or less", _number("repetition")),
    Signal("refusals", 0.05, "more or fewer answers decline", _flag("refusal")),
    Signal("empty_answers", 0.05, "more or fewer answers are empty", _flag("empty")),
    Signal("format_failures", 0.05, "JSON was asked for, and more or fewer answers are none", _flag("format_failure")),
    Signal("tool_failures", 0.05, "tools were offered, and more or fewer calls come as text", _flag("tool_failure")),
    Signal("guard_blocks", 0.05, "guards block more or fewer requests", _flag("blocked")),
    Signal("failures", 0.05, "more or fewer requests fail", _flag("failed")),
    Signal("finish_reasons", 0.05, "answers end for other reasons, such as their length", _name("finish_reason")),
    Signal("latency", 0.15, "answers take longer or less long", _number("seconds")),
    Signal("first_token", 0.15, "the first token comes later or sooner", _number("first_token_s")),
    Signal("judge_score", 0.15, "a judge likes the answers more or less", _number("judge_score")),
    Signal("feedback", 0.15, "people like the answers more or less", _number("feedback")),
)
NAMES = tuple(signal.name for signal in SIGNALS)
SAYS = {signal.name: signal.says for signal in SIGNALS}


def compare(reference: Columns, window: Columns, seed: int = 0, budget: float = BUDGET) -> list[Finding]:
    """Compare a window with the reference; signals that one of them has too little of are left out.

    The same columns and seed give the same findings. Takes from a quarter of a second to some seconds of one core.
    """
    tested: list[tuple[Signal, Comparison]] = []
    for place, signal in enumerate(SIGNALS):
        test = signal.compare(reference, window, np.random.default_rng([seed, place]))
        if test is not None:
            tested.append((signal, test))
    changed = alarms({signal.name: test.p for signal, test in tested}, budget)
    return [
        Finding(signal.name, test.score, test.p, signal.name in changed and test.score >= signal.floor, test.detail)
        for signal, test in tested
    ]

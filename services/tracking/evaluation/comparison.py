"""Two runs on the same items: what differs, by how much, and whether that may be chance. Pure arithmetic."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, median

from services.kit.resampling import Interval, interval, paired
from services.tracking.evaluation.runs import Item, Run

_MOST_ITEMS = 1_000_000


class NotComparable(Exception):
    """Two runs have no item in common; the message says how they differ."""


@dataclass(frozen=True)
class McNemar:
    """McNemar's exact test on right or wrong answers.

    Args:
        better, worse: items that the second run alone got right, and wrong.
        p: how often so lopsided a split comes by chance where the models are equally good; both sides.

    Source: McNemar, Psychometrika 12 (1947); exact by the binomial distribution.
    """

    better: int
    worse: int
    p: float


@dataclass(frozen=True)
class Change:
    """An item that the runs score differently, or whose form one of them missed."""

    before: Item
    after: Item

    @property
    def by(self) -> float:
        """How much better the second run's answer is."""
        return self.after.score - self.before.score


@dataclass(frozen=True)
class Comparison:
    """What a second run has that a first one has not.

    Args:
        pairs: items that both were asked, alike, in the first run's order.
        missing: items of one run alone.
        asked_differently: items with one id and two prompts; not compared.
        difference: of the scores, second − first.
        mcnemar: None where a score is neither 0 nor 1.
        changes: by how much the score changed, the worst first.
        seconds_ratio, tokens_ratio: second / first, the geometric mean over items that both answered; None where
            one run does not know them.
        new_format_failures: items whose form the second run alone missed.
    """

    first: Run
    second: Run
    pairs: tuple[tuple[Item, Item], ...]
    missing: int
    asked_differently: int
    difference: Interval
    mcnemar: McNemar | None
    changes: tuple[Change, ...]
    seconds_ratio: Interval | None
    tokens_ratio: Interval | None
    new_format_failures: tuple[str, ...]

    @property
    def differences(self) -> list[float]:
        """The scores' differences, item by item."""
        return [after.score - before.score for before, after in self.pairs]

    @property
    def unlike(self) -> list[str]:
        """What else than the model differs between the runs, in words."""
        names = {"set_digest": "the set's content", "seed": "seed", "temperature": "temperature"}
        names |= {"max_tokens": "max_tokens", "concurrency": "concurrency", "kind": "kind"}
        found = [words for name, words in names.items() if getattr(self.first, name) != getattr(self.second, name)]
        if self.asked_differently:
            found.append(f"the wording of {self.asked_differently} items, which are left out")
        return found


def compare(first: Run, before: Sequence[Item], second: Run, after: Sequence[Item]) -> Comparison:
    """Return what the second run has that the first has not.

    Raises:
        NotComparable
    """
    later = {item.id: item for item in after}
    common = [(item, later[item.id]) for item in before if item.id in later]
    pairs = [(one, other) for one, other in common if one.prompt_digest == other.prompt_digest]
    if not pairs:
        raise NotComparable(_why_not(first, second, len(common)))
    changed = [
        Change(one, other)
        for one, other in pairs
        if one.score != other.score or one.format_failed != other.format_failed
    ]
    return Comparison(
        first=first,
        second=second,
        pairs=tuple(pairs),
        missing=len(before) + len(after) - 2 * len(common),
        asked_differently=len(common) - len(pairs),
        difference=paired([other.score for _, other in pairs], [one.score for one, _ in pairs]),
        mcnemar=mcnemar(pairs),
        changes=tuple(sorted(changed, key=lambda change: change.by)),
        seconds_ratio=_ratio([(one.seconds, other.seconds) for one, other in pairs if not one.error + other.error]),
        tokens_ratio=_ratio([(one.completion_tokens, other.completion_tokens) for one, other in pairs]),
        new_format_failures=tuple(one.id for one, other in pairs if other.format_failed and not one.format_failed),
    )


def mcnemar(pairs: Sequence[tuple[Item, Item]]) -> McNemar | None:
    """Return the test on pairs of answers that are right (1) or wrong (0); None where a score lies between."""
    if any(item.score not in (0, 1) for pair in pairs for item in pair):
        return None
    better = sum(other.score > one.score for one, other in pairs)
    worse = sum(other.score < one.score for one, other in pairs)
    split = better + worse
    tail = sum(math.comb(split, k) for k in range(min(better, worse) + 1))
    return McNemar(better, worse, min(1.0, 2 * tail / 2**split))


def lower_bound(differences: Sequence[float], confidence: float) -> float:
    """Return how much worse than the first the second may be, at a one-sided confidence.

    Two made-up items, one better and one worse by 1, each counted half, keep the bound honest where few items differ:
    40 items without any difference don't show that there is none. For right or wrong it is the interval of Agresti and
    Min; for scores between 0 and 1 it is wider than it would need to be.

    Source: Agresti and Min, Simple improved confidence intervals for comparing matched proportions (2005).

    Raises:
        ValueError: without differences.
    """
    if not differences:
        raise ValueError("no differences")
    return _lower(math.fsum(differences), math.fsum(each * each for each in differences), len(differences), confidence)


def upper_bound(differences: Sequence[float], confidence: float) -> float:
    """Return how much better than the first the second may be, as `lower_bound`."""
    return -lower_bound([-each for each in differences], confidence)


def bound_of_changes(worse: int, better: int, items: int, confidence: float) -> float:
    """Return the lower bound of answers that are right or wrong, of which so many changed."""
    return _lower(better - worse, better + worse, items, confidence)


def items_needed(differences: Sequence[float], margin: float, confidence: float) -> int | None:
    """Return about how many items would show that the second is not worse by the margin, if it goes on like this.

    None where a million would not: it looks worse by the margin, or nearly.
    """
    n = len(differences)
    mean, square = math.fsum(differences) / n, math.fsum(each * each for each in differences) / n

    def shown(items: int) -> bool:
        return _lower(mean * items, square * items, items, confidence) > -margin

    if not shown(_MOST_ITEMS):
        return None
    too_few, enough = 0, _MOST_ITEMS
    while enough - too_few > 1:
        middle = (too_few + enough) // 2
        too_few, enough = (too_few, middle) if shown(middle) else (middle, enough)
    return enough


def _lower(total: float, squares: float, items: int, confidence: float) -> float:
    n = items + 2
    variance = (squares + 1 - total * total / n) / n
    return total / n - NormalDist().inv_cdf(confidence) * math.sqrt(variance / n)


def median_ratio(comparison: Comparison) -> float | None:
    """Return the median over items of second / first seconds; None where no item has both."""
    ratios = [
        other.seconds / one.seconds
        for one, other in comparison.pairs
        if one.seconds and other.seconds and not (one.error or other.error)
    ]
    return median(ratios) if ratios else None


def _ratio(values: Sequence[tuple[float | None, float | None]]) -> Interval | None:
    logs = [math.log(other / one) for one, other in values if one and other]
    if not logs:
        return None
    found = interval(logs)
    return Interval(math.exp(found.mean), math.exp(found.low), math.exp(found.high))


def _why_not(first: Run, second: Run, common: int) -> str:
    if common:
        why = f"their {common} common items were worded differently"
    elif first.set != second.set:
        why = f"one asked {first.set}, the other {second.set}"
    else:
        why = "they have no item in common: one has perhaps not got that far"
    return f"{first.id} and {second.id} can't be compared: {why}"

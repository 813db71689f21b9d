"""Whether a candidate may have a name: each rule, what was found, and what was wanted. Pure arithmetic.

A rule has three ends. It is kept; it is broken; or it is not shown: the items are too few to say. Only what is kept
lets a candidate pass: a gate that takes "we can't tell" for "fine" lets everything through that is measured badly.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from services.tracking.evaluation.comparison import (
    Comparison,
    items_needed,
    lower_bound,
    median_ratio,
    upper_bound,
)
from services.tracking.evaluation.rules import JudgeRules, LatencyRules, QualityRules, Rules
from services.tracking.evaluation.runs import Item

Outcome = Literal["kept", "broken", "not shown", "not asked"]


@dataclass(frozen=True)
class JudgeFound:
    """What a judge found of the candidate against the baseline.

    Args:
        judge: the model that judged.
        win_rate: length-controlled, 0 … 1; None where no verdict could be read.
        low: its lower bound at the rule's one-sided confidence.
        asked: pairs that the judge was asked about; `contradicted` itself in, and `unreadable` of them.
    """

    judge: str
    win_rate: float | None
    low: float | None
    asked: int
    contradicted: int
    unreadable: int


@dataclass(frozen=True)
class DriftFound:
    """What the newest window of traffic says.

    Args:
        signals: that have changed.
        trouble: why nobody can say; empty otherwise.
    """

    signals: tuple[str, ...] = ()
    window: int | None = None
    trouble: str = ""


@dataclass(frozen=True)
class Evidence:
    """What is known of a candidate.

    Args:
        items: its answers, by run.
        comparisons: with the baseline, one a set; () where there is no baseline.
        judge: None where none was asked.
        drift: None where no tracking service runs.
    """

    items: dict[str, tuple[Item, ...]]
    comparisons: tuple[Comparison, ...] = ()
    judge: JudgeFound | None = None
    drift: DriftFound | None = None

    @property
    def differences(self) -> list[float]:
        """Candidate − baseline, of all items that both were asked."""
        return [each for comparison in self.comparisons for each in comparison.differences]


@dataclass(frozen=True)
class Checked:
    """What became of one rule.

    Args:
        figure: what was found; `limit`: what was wanted.
        note: what to do, or what it rests on.
    """

    rule: str
    outcome: Outcome
    figure: str
    limit: str
    note: str = ""

    @property
    def stands_in_the_way(self) -> bool:
        """Whether the candidate is refused for it."""
        return self.outcome in ("broken", "not shown")


def passes(checked: Sequence[Checked]) -> bool:
    """Say whether no rule stands in the way, and one at least was kept."""
    return not any(each.stands_in_the_way for each in checked) and any(each.outcome == "kept" for each in checked)


def check(rules: Rules, evidence: Evidence) -> list[Checked]:
    """Return each rule with its figure and its limit, in the order of the file."""
    found: list[Checked] = []
    if rules.items:
        found.append(_enough(rules.items.at_least, evidence))
    if rules.quality:
        found += _quality(rules.quality, evidence)
    if rules.failures:
        found.append(_failures(rules.failures.share_at_most, evidence))
    if rules.formats:
        found.append(_formats(rules.formats.new_at_most, evidence))
    if rules.latency:
        found += _latency(rules.latency, evidence)
    if rules.judge:
        found += _judge(rules.judge, evidence.judge)
    if rules.drift and rules.drift.refuse_while_alarmed:
        found.append(_drift(evidence.drift))
    return found


def _enough(wanted: int, evidence: Evidence) -> Checked:
    if evidence.comparisons:
        have = sum(not (a.error or b.error) for each in evidence.comparisons for a, b in each.pairs)
        note = "that both models answered"
    else:
        have = sum(not item.error for items in evidence.items.values() for item in items)
        note = "that the candidate answered"
    return Checked("items", "kept" if have >= wanted else "not shown", str(have), f"≥ {wanted}", note)


def _quality(rules: QualityRules, evidence: Evidence) -> list[Checked]:
    limit = f"> {-rules.margin:+.3f}"
    differences = evidence.differences
    if not differences:
        return [_no_baseline("quality", limit)]
    low = lower_bound(differences, rules.confidence)
    high = upper_bound(differences, rules.confidence)
    mean = sum(differences) / len(differences)
    figure = f"{mean:+.3f}, at least {low:+.3f}"
    checked = [Checked("quality", "kept", figure, limit, f"score − baseline's, {rules.confidence:.0%} one-sided")]
    if low <= -rules.margin:
        if high < 0:
            checked = [Checked("quality", "broken", figure, limit, f"it is worse: at most {high:+.3f}")]
        else:
            needed = items_needed(differences, rules.margin, rules.confidence)
            more = f"about {needed} such items would" if needed else "more items would not help"
            checked = [
                Checked("quality", "not shown", figure, limit, f"{len(differences)} items can't show it; {more}")
            ]
    if rules.each_set and len(evidence.comparisons) > 1:
        checked.append(_each_set(rules, evidence))
    return checked


def _each_set(rules: QualityRules, evidence: Evidence) -> Checked:
    bounds = [(upper_bound(each.differences, rules.confidence), each.first.set) for each in evidence.comparisons]
    high, name = min(bounds)
    worse = [name for bound, name in bounds if bound < 0]
    return Checked(
        "quality in each set",
        "broken" if worse else "kept",
        f"{name}: at most {high:+.3f}",
        "≥ 0",
        f"worse in {', '.join(worse)}" if worse else "no set is surely worse",
    )


def _failures(most: float, evidence: Evidence) -> Checked:
    items = [item for each in evidence.items.values() for item in each]
    failed = [item for item in items if item.error]
    share = len(failed) / len(items) if items else 1.0
    note = f"{len(failed)} of {len(items)} requests" + (f", such as {failed[0].id}" if failed else "")
    return Checked("failures", "kept" if share <= most else "broken", f"{share:.1%}", f"≤ {most:.1%}", note)


def _formats(most: int, evidence: Evidence) -> Checked:
    limit = f"≤ {most}"
    if not evidence.comparisons:
        return _no_baseline("new format failures", limit)
    names = [name for each in evidence.comparisons for name in each.new_format_failures]
    shown = ", ".join(names[:3]) + (" …" if len(names) > 3 else "")
    return Checked("new format failures", "kept" if len(names) <= most else "broken", str(len(names)), limit, shown)


def _latency(rules: LatencyRules, evidence: Evidence) -> list[Checked]:
    found = []
    if rules.ratio_at_most is not None:
        found.append(_ratio(rules.ratio_at_most, evidence))
    if rules.p95_s_at_most is not None:
        limit = f"≤ {rules.p95_s_at_most:g} s"
        seconds = [item.seconds for items in evidence.items.values() for item in items if item.seconds is not None]
        if not seconds:
            found.append(Checked("latency, p95", "not shown", "-", limit, "no answer was timed"))
        else:
            p95 = float(np.quantile(seconds, 0.95))
            kept = p95 <= rules.p95_s_at_most
            found.append(Checked("latency, p95", "kept" if kept else "broken", f"{p95:.2f} s", limit))
    return found


def _ratio(most: float, evidence: Evidence) -> Checked:
    limit = f"≤ {most:g} ×"
    if not evidence.comparisons:
        return _no_baseline("latency", limit)
    ratios = [(median_ratio(each), len(each.pairs)) for each in evidence.comparisons]
    timed = [(ratio, n) for ratio, n in ratios if ratio is not None]
    if not timed:
        return Checked("latency", "not shown", "-", limit, "no item was timed in both runs")
    # The slowest set counts: one that doubles is not made good by another that is quick.
    worst = max(ratio for ratio, _ in timed)
    return Checked("latency", "kept" if worst <= most else "broken", f"{worst:.2f} ×", limit, "median, slowest set")


def _judge(rules: JudgeRules, found: JudgeFound | None) -> list[Checked]:
    limit = f"> {0.5 - rules.margin:.3f}"
    if found is None:
        return [Checked("judge", "not asked", "-", limit, "no judge was named")]
    if not found.asked:
        return [Checked("judge", "kept", "0.500", limit, "every answer is the same as the baseline's")]
    readable = found.asked - found.unreadable
    unreadable = found.unreadable / found.asked
    consistent = (readable - found.contradicted) / readable if readable else 0.0
    if unreadable > rules.unreadable_at_most:
        note = f"{found.judge}: {found.unreadable} of {found.asked} verdicts can't be read; take another judge, or none"
        return [
            Checked("judge is readable", "not shown", f"{unreadable:.0%}", f"≤ {rules.unreadable_at_most:.0%}", note)
        ]
    if consistent < rules.consistent_at_least:
        note = f"{found.judge} contradicts itself when places are swapped; take another judge, or none"
        least = f"≥ {rules.consistent_at_least:.0%}"
        return [Checked("judge is consistent", "not shown", f"{consistent:.0%}", least, note)]
    assert found.win_rate is not None
    assert found.low is not None
    outcome: Outcome = "kept" if found.low > 0.5 - rules.margin else "not shown"
    figure = f"{found.win_rate:.3f}, at least {found.low:.3f}"
    note = f"length-controlled win rate by {found.judge}; consistent in {consistent:.0%}"
    return [Checked("judge", outcome, figure, limit, note)]


def _drift(found: DriftFound | None) -> Checked:
    if found is None:
        return Checked("drift", "not asked", "-", "no alarm", "no tracking service runs")
    if found.trouble:
        return Checked("drift", "not asked", "-", "no alarm", found.trouble)
    if found.signals:
        names = ", ".join(found.signals)
        return Checked(
            "drift", "broken", f"{len(found.signals)} signals", "no alarm", f"window {found.window}: {names}"
        )
    window = f"window {found.window}" if found.window is not None else "no full window yet"
    return Checked("drift", "kept", "none", "no alarm", window)


def _no_baseline(rule: str, limit: str) -> Checked:
    return Checked(rule, "not asked", "-", limit, "there is nothing to compare with yet")

"""Write the table of docs/evaluation.md on what the gate lets through: `python -m docs.generate_evaluation`."""

import math
from collections.abc import Iterator
from pathlib import Path

from services.tracking.evaluation.comparison import bound_of_changes
from services.tracking.evaluation.rules import QualityRules, load_rules

TARGET = Path(__file__).with_name("evaluation.md")
BEGIN, END = "<!-- docs.generate_evaluation: begin -->", "<!-- docs.generate_evaluation: end -->"
ITEMS = (40, 100, 200, 400, 1000)
CANDIDATES = (
    # in truth, and the shares of items that change for the worse and for the better
    ("gives the same answers", 0.0, 0.0),
    ("is as good, 5 % of the answers change", 0.025, 0.025),
    ("is as good, 20 % change", 0.10, 0.10),
    ("is better by 0.05, 15 % change", 0.05, 0.10),
    ("is worse by 0.02, 10 % change", 0.06, 0.04),
    ("is worse by 0.05, 15 % change", 0.10, 0.05),
    ("is worse by 0.10, 20 % change", 0.15, 0.05),
)


def block() -> str:
    """Return the table between its marks."""
    rules = load_rules().quality
    assert rules is not None
    head = f"| the candidate … | {' | '.join(f'{items:,} items' for items in ITEMS)} |"
    rows = [head, f"|---|{'---:|' * len(ITEMS)}"]
    for name, worse, better in CANDIDATES:
        cells = " | ".join(_percent(passing(items, worse, better, rules)) for items in ITEMS)
        rows.append(f"| {name} | {cells} |")
    return "\n".join([BEGIN, *rows, END])


def passing(items: int, worse: float, better: float, rules: QualityRules) -> float:
    """Return how often the rule on quality is kept, exactly: answers are right or wrong, items independent.

    Args:
        worse, better: chance of an item to change so.
    """
    return math.fsum(
        chance
        for lost, won, chance in _changes(items, worse, better)
        if bound_of_changes(lost, won, items, rules.confidence) > -rules.margin
    )


def _changes(items: int, worse: float, better: float) -> Iterator[tuple[int, int, float]]:
    """Return each number of items lost and won that is not next to impossible, with its chance."""
    same = 1 - worse - better
    for lost in _likely(items, worse):
        for won in _likely(items, better):
            rest = items - lost - won
            if rest < 0:
                break
            logs = math.lgamma(items + 1) - math.lgamma(lost + 1) - math.lgamma(won + 1) - math.lgamma(rest + 1)
            for count, share in ((lost, worse), (won, better), (rest, same)):
                logs += count * math.log(share) if count else 0.0
            yield lost, won, math.exp(logs)


def _likely(items: int, share: float) -> range:
    """Return the numbers of items that are not next to impossible where each has this chance."""
    middle, spread = items * share, math.sqrt(items * share * (1 - share))
    return range(max(0, math.floor(middle - 7 * spread)), min(items, math.ceil(middle + 7 * spread)) + 1)


def _percent(share: float) -> str:
    if 0 < share < 0.001:
        return "< 0.1 %"
    return f"{share:.1%}".replace("%", " %") if share < 0.1 else f"{share:.0%}".replace("%", " %")


def document() -> str:
    """Return the page with its table made anew."""
    text = TARGET.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{block()}{after}"


if __name__ == "__main__":
    TARGET.write_text(document(), encoding="utf-8")

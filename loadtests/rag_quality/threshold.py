"""When to say "not in the documents": chosen on `dev`, measured on `held_out`."""

from collections.abc import Sequence
from dataclasses import dataclass

from loadtests.rag_quality.quality import Evidence
from services.rag.answering.deciding import Thresholds, fit
from services.rag.evaluating.summary import separation

STEPS = 9


@dataclass(frozen=True)
class Rates:
    """What a threshold does: answerable questions that are answered, and others that are answered all the same."""

    least: float
    answered: float
    wrongly_answered: float


def evidence_of(each: Evidence, weight: float) -> float:
    """Return what is compared with the threshold."""
    return each.similarity + weight * each.overlap


def chosen(dev: Sequence[Evidence]) -> Thresholds:
    """Return the thresholds that judge most questions right."""
    return fit((each.similarity, each.overlap, each.answerable) for each in dev)


def rates(found: Sequence[Evidence], thresholds: Thresholds) -> Rates:
    """Return what the thresholds do to these questions."""
    passed = [(evidence_of(each, thresholds.overlap_weight) >= thresholds.least, each.answerable) for each in found]
    answerable = [ok for ok, there in passed if there]
    others = [ok for ok, there in passed if not there]
    return Rates(thresholds.least, sum(answerable) / len(answerable), sum(others) / len(others))


def curve(found: Sequence[Evidence], weight: float) -> list[Rates]:
    """Return the ROC curve as a table: thresholds from the lowest evidence of an answerable question upwards."""
    values = sorted(evidence_of(each, weight) for each in found)
    low, high = values[0], values[-1]
    marks = [low + (high - low) * step / (STEPS + 1) for step in range(1, STEPS + 1)]
    return [rates(found, Thresholds(weight, round(mark, 2))) for mark in marks]


def area(found: Sequence[Evidence], weight: float) -> float | None:
    """Return the area under the ROC curve."""
    return separation(
        [evidence_of(each, weight) for each in found if each.answerable],
        [evidence_of(each, weight) for each in found if not each.answerable],
    )

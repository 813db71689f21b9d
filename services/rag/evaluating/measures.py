"""How good a ranking is: recall@k, MRR, nDCG@k, of documents, from ranked passages."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

NAMES = ("ndcg", "recall", "mrr")


@dataclass(frozen=True)
class Scores:
    """The measures of one question.

    Args:
        ndcg: 0 … 1; gains of 2^grade − 1, divided by log2(rank + 1).
        recall: share of the documents of grade 1 and up that are among the first k.
        mrr: 1 / rank of the first document of grade 1 and up among the first k; 0 where there is none.
        judged: share of the first k that anyone judged; what isn't counts as not relevant.
    """

    ndcg: float
    recall: float
    mrr: float
    judged: float


def documents_of(passages: Iterable[str]) -> list[str]:
    """Return the documents of ranked passages, each at its best passage's place."""
    return list(dict.fromkeys(passages))


def score(ranked: Sequence[str], grades: Mapping[str, int], k: int) -> Scores:
    """Return the measures of a ranking of documents, best first.

    Raises:
        ValueError: where no document is relevant: such a question measures nothing.
    """
    if not any(grade > 0 for grade in grades.values()):
        raise ValueError("no document is relevant: recall and nDCG are not defined")
    first = ranked[:k]
    return Scores(
        ndcg=ndcg_at(first, grades, k),
        recall=recall_at(first, grades, k),
        mrr=reciprocal_rank(first, grades),
        judged=sum(each in grades for each in first) / len(first) if first else 1.0,
    )


def recall_at(ranked: Sequence[str], grades: Mapping[str, int], k: int) -> float:
    """Return the share of the relevant documents that are among the first k."""
    relevant = {name for name, grade in grades.items() if grade > 0}
    return len(relevant & set(ranked[:k])) / len(relevant)


def reciprocal_rank(ranked: Sequence[str], grades: Mapping[str, int]) -> float:
    """Return 1 / rank of the first relevant document, 0 without one."""
    return next((1 / rank for rank, name in enumerate(ranked, 1) if grades.get(name, 0) > 0), 0.0)


def ndcg_at(ranked: Sequence[str], grades: Mapping[str, int], k: int) -> float:
    """Return the discounted gain of the first k, divided by that of the best ranking there could be.

    Source: Järvelin and Kekäläinen, Cumulated gain-based evaluation of IR techniques (TOIS 2002); the exponential
    gain is that of Burges et al., Learning to rank using gradient descent (ICML 2005).
    """
    best = _gain(sorted(grades.values(), reverse=True)[:k])
    return _gain([grades.get(name, 0) for name in ranked[:k]]) / best


def _gain(grades: Sequence[int]) -> float:
    return math.fsum((2**grade - 1) / math.log2(rank + 1) for rank, grade in enumerate(grades, 1))

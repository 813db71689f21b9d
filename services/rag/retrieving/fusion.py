"""Several rankings made one.

Source: Cormack, Clarke, Büttcher: Reciprocal Rank Fusion outperforms Condorcet and individual Rank Learning Methods
(SIGIR 2009), where the constant is 60.
"""

from collections.abc import Sequence

CONSTANT = 60


def reciprocal_ranks(rankings: Sequence[tuple[float, Sequence[str]]], constant: float = CONSTANT) -> dict[str, float]:
    """Return the fused score of each id, best first.

    Args:
        rankings: weight and ids, best first, of each.
        constant: the lower, the more the first ranks of each decide.
    """
    scores: dict[str, float] = {}
    for weight, ids in rankings:
        for rank, each in enumerate(ids, start=1):
            scores[each] = scores.get(each, 0.0) + weight / (constant + rank)
    return dict(sorted(scores.items(), key=lambda item: -item[1]))

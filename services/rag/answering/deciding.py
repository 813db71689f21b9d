"""Whether the documents have an answer at all, decided before a model is asked.

A small model answers anything; a large one sometimes. So what retrieval found decides: how near the nearest passage
is to the question, and how many of the question's words the best passages have. A name counts as five words: documents
that never say "Redis" do not answer a question about it, however near its other words are. Both together are the
evidence.
The thresholds are fitted by `python -m loadtests.rag_quality --parts threshold` on judged questions, of which some
have no answer in the corpus; `fit` is what it calls.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from services.rag.documents import Passage
from services.rag.retrieving.trace import Retrieval
from services.rag.retrieving.words import content_words, names

NOT_FOUND = "The documents do not contain an answer to this question."
"""What is answered then, word for word."""
_LOOKED_AT = 5
_NAME_WEIGHT = 5


@dataclass(frozen=True)
class Thresholds:
    """Evidence is `similarity + overlap_weight · overlap`; below `least` there is no answer in the documents."""

    overlap_weight: float
    least: float


THRESHOLDS: dict[str, Thresholds] = {
    # Fitted on the 62 questions of the split `dev` of corpora/postgresql, by hybrid search; docs/rag.md has the rates.
    "all-minilm-l6-v2": Thresholds(overlap_weight=0.4, least=0.659),
    # Not fitted: BGE's cosines lie close together and high, unrelated texts have 0.5 and more.
    "bge-large-en-v1.5": Thresholds(overlap_weight=0.95, least=1.2),
}
"""By embedding model: cosines of two models can't be compared."""
_UNKNOWN_MODEL = Thresholds(overlap_weight=0.95, least=1.0)
_WORDS_ALONE = 0.5
"""Without vectors (a preset that searches by words): the share of the question's words that must be there."""


@dataclass(frozen=True)
class Decision:
    """Whether to answer, and why."""

    answerable: bool
    evidence: float
    least: float
    overlap: float


def overlap(question: str, passages: Sequence[Passage]) -> float:
    """Return the share of the question's content words that the best passages have, 0 … 1; a name counts as several."""
    named = {stem for name in names(question) for stem in content_words(name)}
    weights = {stem: _NAME_WEIGHT if stem in named else 1 for stem in content_words(question)}
    there = {stem for each in passages[:_LOOKED_AT] for stem in content_words(f"{each.context} {each.text}")}
    return sum(weights[stem] for stem in weights.keys() & there) / max(1, sum(weights.values()))


def decide(retrieval: Retrieval, embedding_model: str) -> Decision:
    """Return whether what was found is enough to answer from."""
    shared = overlap(retrieval.question, retrieval.passages)
    if not retrieval.passages:
        return Decision(False, 0.0, 0.0, shared)
    if retrieval.best_similarity is None:
        return Decision(shared >= _WORDS_ALONE, shared, _WORDS_ALONE, shared)
    thresholds = THRESHOLDS.get(embedding_model, _UNKNOWN_MODEL)
    evidence = retrieval.best_similarity + thresholds.overlap_weight * shared
    return Decision(evidence >= thresholds.least, evidence, thresholds.least, shared)


def fit(examples: Iterable[tuple[float, float, bool]]) -> Thresholds:
    """Return the thresholds that judge most questions right, both kinds counting the same.

    Of several, the one that leaves the widest gap between the evidence below and above it.

    Args:
        examples: best similarity, overlap, and whether the corpus has the answer.

    Raises:
        ValueError: examples of one kind alone.
    """
    known = list(examples)
    answerable = [each for each in known if each[2]]
    others = [each for each in known if not each[2]]
    if not answerable or not others:
        raise ValueError("examples with an answer in the corpus and without one are needed, at least one of each")
    best = (-1.0, 0.0, Thresholds(0.0, 0.0))
    for weight in (step / 20 for step in range(21)):
        marks = sorted({similarity + weight * shared for similarity, shared, _ in known})
        for low, high in pairwise(marks):
            least = (low + high) / 2
            right = sum(similarity + weight * shared >= least for similarity, shared, _ in answerable) / len(answerable)
            wrong = sum(similarity + weight * shared >= least for similarity, shared, _ in others) / len(others)
            judged = round(right + (1 - wrong), 9)
            if (judged, high - low) > best[:2]:
                best = (judged, high - low, Thresholds(weight, round(least, 3)))
    return best[2]

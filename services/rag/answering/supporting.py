"""Which passage says what a sentence says, by their words, the rarer ones counting more."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log

from services.rag.documents import Passage
from services.rag.retrieving.words import content_words, rarity, sentence_spans

SUPPORTED = 0.55
"""Least score of a sentence that gets a citation."""
HINTED = 0.35
"""Least score where the model itself named the passage."""
_SECOND = 0.85
_SHORT = 3
_AROUND_A_NUMBER = 0.6
_TELLING = 4
_LONGEST_QUOTE = 400
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")


@dataclass(frozen=True)
class Support:
    """A passage that supports a sentence.

    Args:
        number: of the passage in the prompt, from 1.
        start, end: of the quote in the passage's text.
        score: 0 … 1.
    """

    number: int
    start: int
    end: int
    score: float


@dataclass(frozen=True)
class _Window:
    start: int
    end: int
    stems: frozenset[str]
    numbers: frozenset[str]
    single: bool = True


class _Indexed:
    """A passage's words: in all, and in each sentence and pair of sentences."""

    def __init__(self, passage: Passage) -> None:
        text = passage.text
        self.stems = frozenset(content_words(f"{passage.context} {passage.title} {text}"))
        spans = sentence_spans(text)
        singles = [
            _Window(start, end, frozenset(content_words(text[start:end])), _numbers(text[start:end]))
            for start, end in spans
        ]
        pairs = [
            _Window(one.start, two.end, one.stems | two.stems, one.numbers | two.numbers, single=False)
            for one, two in pairwise(singles)
        ]
        self.windows = [*singles, *pairs]


def _numbers(text: str) -> frozenset[str]:
    return frozenset(_NUMBER.findall(text))


class Supporters:
    """The passages of one prompt, ready to be compared with sentences of its answer."""

    def __init__(self, passages: Sequence[Passage], question: str) -> None:
        self._passages = [_Indexed(each) for each in passages]
        self._rarity = rarity(f"{each.context} {each.text}" for each in passages)
        self._unknown = 1 + log(max(1, len(passages)))
        self._asked = frozenset(content_words(question))

    def find(self, sentence: str, hints: Iterable[int] = ()) -> list[Support]:
        """Return what supports a sentence, best first: one passage, or two that say all of it.

        Args:
            hints: numbers that the model wrote at this sentence.
        """
        stems = frozenset(content_words(sentence))
        if not stems:
            return []
        numbers = _numbers(sentence)
        found = [self._score(number, stems, numbers) for number in range(1, len(self._passages) + 1)]
        ranked = sorted(found, key=lambda each: (-each.score, each.number))
        hinted = set(hints)
        kept = [each for each in ranked if each.score >= (HINTED if each.number in hinted else SUPPORTED)]
        return kept[:1] + [each for each in kept[1:2] if each.score >= _SECOND or each.number in hinted]

    def nearest(self, limit: int) -> list[Support]:
        """Return the sentences that share most with the question, best first; none that shares nothing."""
        total = max(self._weight(self._asked), 1e-9)
        found = [
            Support(number, window.start, window.end, round(self._weight(self._asked & window.stems) / total, 3))
            for number, passage in enumerate(self._passages, start=1)
            for window in passage.windows
            if window.single and len(window.stems) >= _TELLING and window.end - window.start <= _LONGEST_QUOTE
        ]
        return sorted((each for each in found if each.score), key=lambda each: (-each.score, each.number))[:limit]

    def _score(self, number: int, stems: frozenset[str], numbers: frozenset[str]) -> Support:
        passage = self._passages[number - 1]
        if len(stems) < _SHORT:  # "Paris." says something only together with the question
            wanted, must = stems | self._asked, stems
        else:
            wanted, must = stems, frozenset[str]()
        total = self._weight(wanted)
        best, share = _Window(0, 0, frozenset(), frozenset()), 0.0
        for window in passage.windows:
            worth = self._weight(wanted & window.stems) / total if must <= window.stems else 0.0
            if not numbers <= window.numbers:
                worth /= 2
            if worth > share * (1.0 if window.end - window.start < best.end - best.start else 1.15):
                best, share = window, worth
        whole = self._weight(wanted & passage.stems) / total if must <= passage.stems else 0.0
        score = 0.6 * share + 0.4 * whole
        if not numbers <= best.numbers or (numbers and share < _AROUND_A_NUMBER):
            score /= 2  # a number that does not stand where the words do is made up
        return Support(number, best.start, min(best.end, best.start + _LONGEST_QUOTE), round(score, 3))

    def _weight(self, stems: Iterable[str]) -> float:
        return sum(self._rarity.get(stem, self._unknown) for stem in stems)

"""Words and sentences of a text, as far as comparing a question, a sentence and a passage needs them. English."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from math import log

import Stemmer

_WORD = re.compile(r"\w+(?:[.'\u2019-]\w+)*")
_NAME = re.compile(r"\b\w*(?:[0-9_./:-]|[a-z][A-Z])\w*\b|(?<=\s)[A-Z]\w+")
_STEMMER = Stemmer.Stemmer("english")
_ABBREVIATION = re.compile(
    r"(?:[\s(](?:(?i:e\.g|i\.e|etc|vs|cf|approx|incl|dr|mr|mrs|ms|prof|fig|vol|ca|inc|ltd)|[A-Z])|\n\s*\d{1,2})\.$"
)
_SENTENCE_END = re.compile(r"[.!?]+[\"'\u201d\u2019)\]]*(?=\s)|\n\s*\n|\n(?=\s*(?:[-*•#|]|\d+[.)]\s))|:\n")

_STOP_WORDS = """
a about above after again all also am an and any are aren't as at be because been before being below between
    both but by can can't cannot could did didn't do does doesn't doing don't down during each few for from further had
    has have having he her here hers him his how i if in into is isn't it its itself just let's me more most my no nor
    not of off on once only or other our out over own please same she should so some such than that that's the their
    theirs them then there these they this those through to too under until up us use used using very was wasn't we were
    what what's when where which while who whom whose why will with won't would you your yours
    tell show explain describe say says give know need want get"""
STOP_WORDS = frozenset(_STOP_WORDS.split())
"""Words that say nothing of what a text is about, and the verbs that people wrap questions in."""


def words(text: str) -> list[str]:
    """Return the text's words in order, lower-case, with `it's` and `smollm2-135m` whole."""
    return [word.replace("\u2019", "'") for word in _WORD.findall(text.lower())]


def content_words(text: str) -> list[str]:
    """Return the stems of the words that carry meaning, in order; parts of compounds come beside the whole."""
    return list(_content_words(text))


@lru_cache(maxsize=4096)
def _content_words(text: str) -> tuple[str, ...]:
    found = [part for word in words(text) if word not in STOP_WORDS for part in _parts(word)]
    return tuple(_STEMMER.stemWords(found))


def _parts(word: str) -> list[str]:
    bare = word.removesuffix("'s")
    parts = [part for part in re.split(r"[.'_-]", bare) if len(part) > 1 and part not in STOP_WORDS]
    return [bare, *parts] if len(parts) > 1 else [bare]


def names(text: str) -> set[str]:
    """Return what is called by a name, lower-case: capitalised words but the first, and words with digits or signs."""
    return {found.lower().strip(".:/-") for found in _NAME.findall(text)} - {""}


def rarity(texts: Iterable[str]) -> Mapping[str, float]:
    """Return the inverse document frequency of each stem over a few texts: 1 for one in all, more for a rare one."""
    sets = [set(content_words(text)) for text in texts]
    everywhere: dict[str, int] = {}
    for each in sets:
        for stem in each:
            everywhere[stem] = everywhere.get(stem, 0) + 1
    return {stem: 1 + log(len(sets) / count) for stem, count in everywhere.items()}


def is_abbreviation(text: str) -> bool:
    """Say whether the full stop that ends `text` belongs to an abbreviation or a list's number."""
    return text.endswith(".") and _ABBREVIATION.search(f"\n{text}"[-14:]) is not None


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Return where each sentence (or line of a list) begins and ends, surrounding whitespace left out."""
    spans = []
    start = 0
    for end in _SENTENCE_END.finditer(text):
        if is_abbreviation(text[start : end.end()].rstrip()):
            continue
        spans.append((start, end.end()))
        start = end.end()
    spans.append((start, len(text)))
    return [span for first, last in spans if (span := _stripped(text, first, last))[0] < span[1]]


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    piece = text[start:end]
    return start + len(piece) - len(piece.lstrip()), end - len(piece) + len(piece.rstrip())

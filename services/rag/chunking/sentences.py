"""Where sentences begin: by their marks and by what follows, with the usual abbreviations known."""

import re

# A mark, what may close after it (quotes, brackets), and space; a mark of an ideographic script needs no space. Then
# empty lines, and the lines of a list. Possessive, and begun only where a run of marks begins: linear for any text.
_END = re.compile(
    r"(?<![.!?\u2026])[.!?\u2026]++[\"'\u201d\u2019\u00bb)\]]*+\s+"
    r"|[\u3002\uff01\uff1f]++[\u201d\u2019\u300d\u300f\uff09]*+\s*"
    r"|\n[^\S\n]*+\n\s*"
    r"|\n(?=[ \t]*+(?:[-*+\u2022]|\d{1,3}[.)])[ \t])"
)
_OPENERS = frozenset("\"'([*_`\u201c\u2018\u00ab\u00bf\u00a1")
_MOST_OPENERS = 6
_LONGEST_WORD = 30
_INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")
_ABBREVIATION_WORDS = (
    "abb abs al anm approx apr art aufl aug bd bsp bspw bzw ca capt cf ch chap co col corp dec dept dr ed eds eq eqs "
    "est et evtl exp feb fig figs ff gen ggf gov hrsg ibid inc inkl jan jr jul jun kap lt ltd mar max min mr mrs ms mt "
    "no nos nov nr oct op p par pp prof pt ref refs rep resp rev s sec sen sep sept sgt sog sr st str tab tel univ vgl "
    "viz vol vols vs zit"
)
_ABBREVIATIONS = frozenset(_ABBREVIATION_WORDS.split())


def sentence_starts(text: str) -> list[int]:
    """Return where each sentence begins, 0 first; ascending."""
    starts = [0]
    for found in _END.finditer(text):
        end = found.end()
        if starts[-1] < end < len(text) and _ends_sentence(text, found, end):
            starts.append(end)
    return starts


def _ends_sentence(text: str, found: re.Match[str], end: int) -> bool:
    mark = found[0]
    if mark[0] not in ".!?\u2026":
        return True
    # After `!`, `?` and `…` the next word's capital decides; after a full stop the word before it does too.
    if not _opens(text, end):
        return False
    if not mark.startswith(".") or mark.startswith(".."):
        return True
    before = text[max(0, found.start() - _LONGEST_WORD) : found.start()].split()
    word = before[-1].lstrip("\"'([\u201c\u2018\u00ab").lower() if before else ""
    return word not in _ABBREVIATIONS and not _INITIALS.fullmatch(word)


def _opens(text: str, at: int) -> bool:
    """Say whether a sentence may begin here: after quotes and brackets stands no small letter."""
    for letter in text[at : at + _MOST_OPENERS]:
        if letter not in _OPENERS:
            return not letter.islower()
    return True

"""Texts of a wanted length that are no repetition of one another, the same in every run."""

import random
import re

_WORDS = re.findall(
    r"\w+",
    "the of and a in to is was for on with as by at from which this that are it or an be has not but they were their "
    "water river stone kettle engine bridge library captain garden harbour winter village paper market window table "
    "letter silver copper mountain island forest railway machine signal station question answer teacher doctor farmer "
    "opens closes carries turns brings holds leaves returns measures writes reads builds sells buys finds keeps loses "
    "old young green black white long short early late cold warm heavy light narrow wide quiet broken empty full "
    "before after under over between against during without through across behind",
)
WORDS_OF = {"short": 10, "passage": 60, "chunk": 190}
"""Kinds of text, by their words: a question, a passage, a chunk of a document. A word is about one token."""


def make(kind: str, count: int, seed: int = 1) -> list[str]:
    """Return `count` texts of a kind; their lengths vary by a fifth about the kind's."""
    dice = random.Random(f"{kind}/{seed}")
    return [_text(dice, WORDS_OF[kind]) for _ in range(count)]


def _text(dice: random.Random, words: int) -> str:
    length = dice.randint(words - words // 5, words + words // 5)
    chosen = dice.choices(_WORDS, k=length)
    for start in range(0, length, 12):
        chosen[start] = chosen[start].capitalize()
        chosen[min(start + 11, length - 1)] += "."
    return " ".join(chosen)

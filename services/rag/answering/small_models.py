"""What keeps a small model's answer useful: it is short, it ends when it goes round in circles, it is never alone.

A model of 135 million parameters finds a port in a passage and loses the thread of anything longer. Where none of its
sentences stands on a passage, the sentences of the passages that come nearest to the question follow it, word for word.
"""

import re
from collections import Counter

LONGEST_ANSWER_TOKENS = 128
"""Where the request names no length."""
INTRODUCTION = "\n\nThe documents say:\n"
_SENTENCE_END = re.compile(r"[.!?]\s|\n")
_LEAST_WORDS = 4
_RUN = 6
_TIMES = 3
_LONGEST_HELD = 160


class Repetition:
    """Holds a text back by sentences, and ends it where it goes round in circles.

    Circles are a whole sentence again, or six words in a row for the third time.
    """

    def __init__(self) -> None:
        self.found = False
        self._said: set[str] = set()
        self._runs: Counter[tuple[str, ...]] = Counter()
        self._held = ""
        self._words: list[str] = []
        self._word = ""

    def feed(self, text: str) -> str:
        """Return what goes on, for what the model said now; nothing more once a circle was found."""
        out = ""
        for character in text:
            if not self.found:
                out += self._take(character)
        return out

    def finish(self) -> str:
        """Return what is held when the model has ended."""
        held, self._held = self._held, ""
        return "" if self.found or self._normal(held) in self._said else held

    def _take(self, character: str) -> str:
        self._held += character
        self._count(character)
        if self.found:
            return ""
        if _SENTENCE_END.search(self._held):
            sentence = self._normal(self._held)
            if len(sentence.split()) >= _LEAST_WORDS:
                self.found = sentence in self._said
                self._said.add(sentence)
        elif len(self._held) < _LONGEST_HELD:
            return ""
        held, self._held = self._held, ""
        return "" if self.found else held

    def _count(self, character: str) -> None:
        if not character.isspace():
            self._word += character.lower()
        elif self._word:
            self._words = [*self._words, self._word][-_RUN:]
            self._word = ""
            if len(self._words) == _RUN:
                run = tuple(self._words)
                self._runs[run] += 1
                self.found = self._runs[run] >= _TIMES

    @staticmethod
    def _normal(text: str) -> str:
        return " ".join(text.lower().split())

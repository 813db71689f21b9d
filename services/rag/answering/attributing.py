"""Citations put into an answer while it streams.

Small models do not cite, and larger ones make up numbers. So each sentence is compared with the passages when it has
ended, and its marker `[n]` comes after it; numbers that the model wrote are taken out, and count as hints. Words go
on as they come: held back are whitespace and what may become a marker, until the next letter.
"""

import re
from collections.abc import Sequence
from typing import Any

from services.rag.answering.deciding import NOT_FOUND
from services.rag.answering.supporting import Support, Supporters
from services.rag.documents import Passage
from services.rag.retrieving.trace import Retrieval
from services.rag.retrieving.words import is_abbreviation

_MAYBE_MARKER = re.compile(r"\[(?:(?:passage|source) )?[\d, ]*\Z", re.IGNORECASE)
_MARKER_BEGINNINGS = ("[passage ", "[source ")
_LONGEST_MARKER = 24
_SENTENCE_END = re.compile("[.!?][\"'\u201d\u2019)\\]*_]*\\Z")
_UNCITED = ("#", "|", ">")
"""Lines that a marker would break, or that say nothing by themselves: headings, tables, quotations."""


def annotation(passage: Passage, retrieval: Retrieval, support: Support, index: int) -> dict[str, Any]:
    """Return a citation as answers carry it.

    Args:
        index: of the marker in the answer's text, in characters.
    """
    return {
        "type": "file_citation",
        "index": index,
        "file_id": passage.document_id,
        "filename": passage.name,
        "sparkstack": {
            "number": support.number,
            "title": passage.title,
            "page": retrieval.page_at(passage, support.start),
            "quote": passage.text[support.start : support.end],
            "score": support.score,
        },
    }


class Attributor:
    """One answer on its way to the client.

    Args:
        passages: as they stand in the prompt; the first is number 1. Numbers are ranks, so that they are known before
            the answer is.
    """

    def __init__(self, passages: Sequence[Passage], retrieval: Retrieval) -> None:
        self.annotations: list[dict[str, Any]] = []
        self._passages = passages
        self._retrieval = retrieval
        self._supporters: Supporters | None = None
        self._out: list[str] = []
        self._length = 0
        self._line = ""
        self._sentence = ""
        self._space = ""
        self._marker = ""
        self._hints: list[int] = []
        self._ended = False
        self._gap = False
        self._fenced = False

    def feed(self, text: str) -> str:
        """Return what goes on to the client now, for what the model said now."""
        for character in text:
            self._take(character)
        return self._sent()

    def finish(self) -> str:
        """Return what is left when the model has ended."""
        self._flush_marker()
        self._close_sentence()
        return self._sent()

    def quote(self, introduction: str, limit: int) -> str:
        """Return the sentences of the passages that come nearest to the question, cited; empty where none does."""
        found = self._compared().nearest(limit)
        if found:
            self._write(introduction)
        for support in found:
            passage = self._passages[support.number - 1]
            self._write(f"\n> {' '.join(passage.text[support.start : support.end].split())} ")
            self._cite(support)
        return self._sent()

    def _compared(self) -> Supporters:
        if self._supporters is None:  # made late: the first words need not wait for it
            self._supporters = Supporters(self._passages, self._retrieval.question)
        return self._supporters

    def _sent(self) -> str:
        text, self._out = "".join(self._out), []
        return text

    def _take(self, character: str) -> None:
        if self._fenced:
            self._write(character)
        elif self._marker and self._goes_on(character):
            return
        elif character == "[" and self._sentence.count("`") % 2 == 0:
            self._marker = "["
        elif character.isspace():
            self._hold(character)
        else:
            self._show(character)

    def _goes_on(self, character: str) -> bool:
        """Take one more character of what may be a marker; False when it is none, and has been shown as it is."""
        text = self._marker + character
        if character == "]" and (found := re.findall(r"\d+", self._marker)):
            self._hints += [int(number) for number in found]
            self._marker = ""
            self._gap = self._space.endswith(" ")
            self._space = self._space.removesuffix(" ")
            return True
        begins = any(beginning.startswith(text.lower()) for beginning in _MARKER_BEGINNINGS)
        if len(text) <= _LONGEST_MARKER and (begins or _MAYBE_MARKER.match(text)):
            self._marker = text
            return True
        self._flush_marker()
        return False

    def _flush_marker(self) -> None:
        text, self._marker = self._marker, ""
        for character in text:
            self._hold(character) if character.isspace() else self._show(character)

    def _hold(self, character: str) -> None:
        self._space += character
        if character == "\n" or (_SENTENCE_END.search(self._sentence) and not is_abbreviation(self._sentence)):
            self._ended = True

    def _show(self, character: str) -> None:
        new_line = "\n" in self._space
        if self._ended and (new_line or not character.islower()):
            self._close_sentence()
        self._ended = False
        if self._gap and not self._space and character.isalnum():
            self._space = " "
        self._gap = False
        if self._space:
            self._sentence += self._space if self._sentence else ""
            self._write(self._space)
            self._space = ""
        self._sentence += character
        self._write(character)

    def _write(self, text: str) -> None:
        self._out.append(text)
        self._length += len(text)
        self._line = text.rpartition("\n")[2] if "\n" in text else self._line + text
        if self._line.endswith("```"):
            self._fenced = not self._fenced
            self._line, self._sentence = "", ""

    def _close_sentence(self) -> None:
        sentence, self._sentence = self._sentence.strip(), ""
        hints, self._hints = self._hints, []
        if not sentence or sentence.startswith(_UNCITED) or sentence.endswith(":") or sentence == NOT_FOUND:
            return
        for at, support in enumerate(self._compared().find(sentence, hints)):
            if not at:
                self._write(" ")
            self._cite(support)

    def _cite(self, support: Support) -> None:
        passage = self._passages[support.number - 1]
        self.annotations.append(annotation(passage, self._retrieval, support, self._length))
        self._write(f"[{support.number}]")

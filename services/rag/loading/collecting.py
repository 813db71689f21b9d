"""Blocks on their way into a document: cleaned, counted as they come, under the headings above them."""

import re
from collections.abc import Mapping

from services.rag.documents import Block, BlockKind, Document
from services.rag.loading.limits import LoadError, too_many_characters
from services.rag.loading.names import stem
from services.rag.loading.source import Source

_MAX_HEADING = 200
_NEWLINES = re.compile(r"\r\n?|[\x0c\x0b\x85\u2028\u2029]")
# Control characters, byte order marks within the text, and code points that are no characters.
_NOT_TEXT = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\ufffe\uffff\ufdd0-\ufdef]")
_SURROGATES = re.compile("[\ud800-\udfff]")


def clean_text(text: str) -> str:
    r"""Return text that every later step can hold: `\n` for line ends, no NUL or control, no lone surrogate."""
    text = _NEWLINES.sub("\n", text)
    text = _NOT_TEXT.sub("", text)
    return _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", text)


def one_line(text: str, most: int = _MAX_HEADING) -> str:
    """Return the text with single spaces, cut to `most` characters."""
    line = " ".join(clean_text(text[: most * 8]).split())
    return line if len(line) <= most else line[: most - 1].rstrip() + "…"


class Collector:
    """Gathers a document's blocks.

    It counts characters as they are added, so that a small file that says much (a CSV with long headers) is refused
    when it passes the limit, not after it has filled the memory.
    """

    def __init__(self, source: Source, media_type: str) -> None:
        self.title = ""
        self.metadata: dict[str, str | int | float] = {}
        self._source = source
        self._media_type = media_type
        self._blocks: list[Block] = []
        self._characters = 0
        self._headings: list[tuple[int, str]] = []

    @property
    def heading_path(self) -> tuple[str, ...]:
        """The headings that stand above what is added next."""
        return tuple(text for _, text in self._headings)

    def __len__(self) -> int:
        return len(self._blocks)

    def add(
        self, text: str, kind: BlockKind = "text", page: int | None = None, under: tuple[str, ...] | None = None
    ) -> None:
        """Add a block; nothing happens where it is blank.

        Args:
            under: its heading path, where it isn't that of the headings so far.

        Raises:
            LoadError: `too_large`.
        """
        self._characters += len(text)
        if self._characters > self._source.limits.max_characters:
            raise too_many_characters(self._source.name, self._characters, self._source.limits)
        cleaned = clean_text(text).strip("\n") if kind == "code" else clean_text(text).strip()
        if cleaned and not cleaned.isspace():
            self._blocks.append(Block(cleaned, kind, page, self.heading_path if under is None else under))

    def heading(self, text: str, level: int, page: int | None = None) -> None:
        """Add a heading; what follows stands under it.

        Args:
            level: 1 for the outermost.
        """
        line = one_line(text)
        if not line:
            return
        self.leave(level)
        self._headings.append((level, line))
        self.add(line, "heading", page)

    def leave(self, level: int) -> None:
        """Forget the headings of this level and below; what follows doesn't stand under them."""
        while self._headings and self._headings[-1][0] >= level:
            self._headings.pop()

    def describe(self, values: Mapping[str, object]) -> None:
        """Keep what the file says of itself, as far as it is short text or a number; what is known already stays."""
        for key, value in values.items():
            if isinstance(value, bool) or value is None:
                continue
            kept = value if isinstance(value, int | float) else one_line(str(value))
            if kept != "" and key not in self.metadata:
                self.metadata[key] = kept

    def document(self) -> Document:
        """Return the document.

        Raises:
            LoadError: `empty`, where no block was added.
        """
        if not self._blocks:
            raise LoadError(
                "empty", f"{self._source.name!r} has no text in it; leave it out, or check how it was written"
            )
        first = next((each.text for each in self._blocks if each.kind == "heading"), "")
        title = one_line(self.title) or first or stem(self._source.name)
        return Document(title, self._media_type, tuple(self._blocks), dict(self.metadata))

"""Text, by paragraphs. Headings are read where the text underlines them, as reStructuredText does."""

import re

from services.rag.documents import Document
from services.rag.loading.collecting import Collector, clean_text
from services.rag.loading.decoding import decode
from services.rag.loading.names import suffix
from services.rag.loading.source import Source

_BLANK = re.compile(r"\n[^\S\n]*\n\s*")
_UNDERLINE = re.compile(r"([=\-~^\"'`#*+.:_])\1{2,}\s*\Z")


def load_text(source: Source) -> Document:
    """Return a text's paragraphs as blocks."""
    text, encoding = decode(source)
    collector = Collector(source, "text/plain")
    collector.describe({"encoding": encoding})
    underlined = suffix(source.name) == ".rst"
    levels: list[str] = []
    for paragraph in _BLANK.split(clean_text(text)):
        if not (underlined and _add_heading(paragraph, collector, levels)):
            collector.add(paragraph)
    return collector.document()


def _add_heading(paragraph: str, collector: Collector, levels: list[str]) -> bool:
    """Add a heading whose mark is a line of one punctuation character; the marks' order of use gives its level."""
    lines = paragraph.strip("\n").split("\n")
    over = len(lines) > 2 and bool(_UNDERLINE.match(lines[0])) and lines[0].strip() == lines[2].strip()
    if over:
        lines = lines[1:]
    if len(lines) < 2 or not (found := _UNDERLINE.match(lines[1])) or not lines[0].strip():
        return False
    if len(lines[1].strip()) < len(lines[0].strip()):
        return False
    mark = found[1] * (2 if over else 1)
    if mark not in levels:
        levels.append(mark)
    collector.heading(lines[0], levels.index(mark) + 1)
    collector.add("\n".join(lines[2:]))
    return True

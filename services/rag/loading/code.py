"""Source code: a block for each top-level definition, with the comment above it; named in its heading path."""

import re

from services.rag.documents import Document
from services.rag.loading.collecting import Collector, clean_text, one_line
from services.rag.loading.decoding import decode
from services.rag.loading.source import Source

_WORDS = (
    "abstract|async|class|const|data|def|defmodule|enum|export|extern|final|fn|fun|func|function|impl|interface|"
    "macro_rules!|mod|module|namespace|object|open|package|private|proc|protected|protocol|pub|public|record|resource|"
    "sealed|static|struct|sub|template|trait|type|typedef|union|unsafe|void|CREATE|create"
)
_DEFINITION = re.compile(rf"(?:{_WORDS})\b(?!\s*[=:,.(])")
# What stands above a definition and belongs to it: decorators, attributes, comments.
_ABOVE = re.compile(r"@|#|//|/\*| \*|--|;;|\"\"\"")
_NAME = re.compile(
    r"(?:class|def|defmodule|enum|fn|fun|func|function|impl|interface|mod|module|namespace|object|package|proc|protocol|"
    r"record|struct|sub|trait|type|union)\s+(?:\([^()\n]{0,80}\)\s*)?([A-Za-z_$][\w$.:]{0,80})"
)


def load_code(source: Source) -> Document:
    """Return a source file's definitions."""
    text, encoding = decode(source)
    collector = Collector(source, "text/x-source")
    collector.describe({"encoding": encoding})
    add_code(clean_text(text), collector)
    return collector.document()


def add_code(text: str, collector: Collector) -> None:
    """Add code to a document, cut before each definition that begins a line.

    No parser: a rule that fits most languages and is never wrong in a way that loses text.
    """
    lines = text.split("\n")
    begin, name = 0, ""
    for at, line in enumerate(lines):
        if not _DEFINITION.match(line):
            continue
        cut = at
        while cut > begin and _ABOVE.match(lines[cut - 1]):
            cut -= 1
        if any(map(str.strip, lines[begin:cut])):
            _add(lines[begin:cut], name, collector)
            begin = cut
        found = _NAME.search(line)
        name = found[1].rstrip(".:") if found else ""
    _add(lines[begin:], name, collector)


def _add(lines: list[str], name: str, collector: Collector) -> None:
    above = collector.heading_path
    collector.add("\n".join(lines), "code", under=(*above, one_line(name)) if name else above)

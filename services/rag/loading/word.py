"""DOCX by python-docx: headings, paragraphs, lists and tables. Its parts are looked at before they are parsed."""

import io
import zipfile
from collections.abc import Iterator
from typing import Any

import docx
from docx.document import Document as WordDocument
from docx.opc.exceptions import PackageNotFoundError
from docx.oxml.ns import qn

from services.rag.documents import Document
from services.rag.loading.collecting import Collector
from services.rag.loading.limits import LoadError
from services.rag.loading.source import Source

_MAX_ENTRIES = 10_000
_UNPACKED_PER_LIMIT = 8
_MAX_RATIO = 200
_RATIO_FROM_BYTES = 1_000_000
_XML = (".xml", ".rels")
_DOCTYPES = (b"<!DOCTYPE", "<!DOCTYPE".encode("utf-16-le"), "<!DOCTYPE".encode("utf-16-be"))
_ENCRYPTED_FLAG = 0x1

_P, _TBL, _SDT, _SDT_CONTENT = qn("w:p"), qn("w:tbl"), qn("w:sdt"), qn("w:sdtContent")
_T, _TAB, _BR, _CR = qn("w:t"), qn("w:tab"), qn("w:br"), qn("w:cr")
_ROW, _CELL, _VAL = qn("w:tr"), qn("w:tc"), qn("w:val")
_FALLBACK = "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback"
_NOT_TEXT = frozenset({qn("w:pPr"), qn("w:rPr"), qn("w:del"), qn("w:instrText"), _FALLBACK})


def load_docx(source: Source) -> Document:
    """Return a Word document's text; deleted text of tracked changes, comments and footnotes are left out."""
    _check_package(source)
    try:
        document = docx.Document(io.BytesIO(source.data))
    except (PackageNotFoundError, KeyError, ValueError) as error:
        raise LoadError(
            "damaged",
            f"{source.name!r} is a DOCX that is broken: {error}; open it in a word processor and save it again",
        ) from error
    collector = Collector(source, "application/vnd.openxmlformats-officedocument.wordprocessingml.document")
    _describe(document, collector)
    _Body(document, collector).add()
    return collector.document()


def _check_package(source: Source) -> None:
    """Refuse what would grow beyond measure, and entities, before any XML parser sees the file."""
    limit = source.limits.max_bytes * _UNPACKED_PER_LIMIT
    with zipfile.ZipFile(io.BytesIO(source.data)) as package:
        entries = package.infolist()
        total = sum(entry.file_size for entry in entries)
        if len(entries) > _MAX_ENTRIES or total > limit:
            raise LoadError(
                "unsafe",
                f"{source.name!r} would unpack to {len(entries):,} parts with {total / 1e6:,.1f} MB, more than "
                f"{_MAX_ENTRIES:,} parts or {limit / 1e6:,.1f} MB; remove pictures from it, or raise RAG_MAX_FILE_MB",
            )
        for entry in entries:
            if entry.flag_bits & _ENCRYPTED_FLAG:
                raise LoadError("encrypted", f"{source.name!r} is packed with a password; remove it and try again")
            _check_entry(source, package, entry)


def _check_entry(source: Source, package: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    ratio = entry.file_size / max(1, entry.compress_size)
    if entry.file_size > _RATIO_FROM_BYTES and ratio > _MAX_RATIO:
        raise LoadError(
            "unsafe",
            f"{source.name!r} looks like a zip bomb: its part {entry.filename[:80]!r} would unpack to "
            f"{ratio:,.0f} times its size (at most {_MAX_RATIO} is usual); save it anew in a word processor",
        )
    if not entry.filename.lower().endswith(_XML):
        return
    try:
        # zipfile stops at the size that the directory names, so that a part can't be larger than it says.
        xml = package.read(entry)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, ValueError) as error:
        raise LoadError("damaged", f"{source.name!r} is a DOCX that is broken: {error}; get it again") from error
    if any(mark in xml for mark in _DOCTYPES):
        raise LoadError(
            "unsafe",
            f"{source.name!r} declares a document type in its part {entry.filename[:80]!r}, which no word processor "
            "does and entity attacks need; save it anew in a word processor",
        )


def _describe(document: WordDocument, collector: Collector) -> None:
    facts = document.core_properties
    collector.title = facts.title or ""
    created = facts.created.date().isoformat() if facts.created is not None else None
    collector.describe(
        {
            "author": facts.author,
            "created": created,
            "subject": facts.subject,
            "keywords": facts.keywords,
            "language": facts.language,
        }
    )


class _Body:
    """Goes through the document's body; on the XML itself, since python-docx's objects are slow for each paragraph."""

    def __init__(self, document: WordDocument, collector: Collector) -> None:
        self._root: Any = document.element.body
        self._collector = collector
        self._styles = {style.style_id: (style.name or "").lower() for style in document.styles}
        self._list: list[str] = []

    def add(self) -> None:
        """Add all blocks."""
        for element in _contents(self._root):
            if element.tag == _TBL:
                self._end_list()
                self._collector.add(_table(element), "table")
            else:
                self._paragraph(element)
        self._end_list()

    def _paragraph(self, element: Any) -> None:
        text = _text(element).strip()
        style = self._style(element)
        level = _heading_level(style, element)
        if level and text:
            self._end_list()
            self._collector.heading(text, level)
        elif style.startswith("list") or element.find(f"{qn('w:pPr')}/{qn('w:numPr')}") is not None:
            if text:
                self._list.append(f"- {text}")
        else:
            self._end_list()
            code = "code" in style or style in ("html preformatted", "plain text", "source text")
            self._collector.add(text, "code" if code else "text")

    def _end_list(self) -> None:
        self._collector.add("\n".join(self._list))
        self._list.clear()

    def _style(self, element: Any) -> str:
        found = element.find(f"{qn('w:pPr')}/{qn('w:pStyle')}")
        name = found.get(_VAL, "") if found is not None else ""
        return self._styles.get(name, name.lower())


def _contents(root: Any) -> Iterator[Any]:
    """Yield paragraphs and tables in their order, those within content controls too; without recursion."""
    waiting = [iter(root)]
    while waiting:
        element = next(waiting[-1], None)
        if element is None:
            waiting.pop()
        elif element.tag in (_P, _TBL):
            yield element
        elif element.tag == _SDT:
            waiting.extend(iter(content) for content in element.findall(_SDT_CONTENT))


def _text(element: Any) -> str:
    """Return a paragraph's text, without recursion."""
    parts: list[str] = []
    waiting = [element]
    while waiting:
        node = waiting.pop()
        if node.tag == _T:
            parts.append(node.text or "")
        elif node.tag == _TAB:
            parts.append("\t")
        elif node.tag in (_BR, _CR):
            parts.append("\n")
        elif node.tag not in _NOT_TEXT:
            waiting.extend(reversed(node))
    return "".join(parts)


def _heading_level(style: str, element: Any) -> int:
    if style == "title":
        return 1
    if style.startswith("heading ") and style[8:].isdecimal():
        return min(int(style[8:]), 9)
    outline = element.find(f"{qn('w:pPr')}/{qn('w:outlineLvl')}")
    level = outline.get(_VAL, "") if outline is not None else ""
    return int(level) + 1 if level.isdecimal() and int(level) < 9 else 0


def _table(table: Any) -> str:
    rows = []
    for row in table.iter(_ROW):
        cells = [" ".join(" ".join(_text(each) for each in cell.iter(_P)).split()) for cell in row.findall(_CELL)]
        if any(cells):
            rows.append(" | ".join(cells))
    return "\n".join(rows)

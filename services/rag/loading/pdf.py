"""PDF by pypdfium2: text by page, the outline as headings, lines that every page repeats left out."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import pypdfium2
import pypdfium2.raw as pdfium_c

from services.rag.documents import Document
from services.rag.loading.collecting import Collector, clean_text, one_line
from services.rag.loading.limits import LoadError
from services.rag.loading.source import Source

_MAX_HEADINGS = 5000
_MAX_OUTLINE_DEPTH = 6
# Where a running header or footer may stand, on how many pages at least, and on what share of them.
_EDGE_LINES = 2
_REPEATED_PAGES = 3
_REPEATED_SHARE = 0.6
_DIGITS = re.compile(r"\d+")
_HYPHEN = re.compile("[\x02\ufffe]\r?\n?")
_METADATA = {"Author": "author", "Subject": "subject", "Keywords": "keywords", "CreationDate": "created"}


@dataclass(frozen=True)
class _Bookmark:
    page: int
    level: int
    title: str


def load_pdf(source: Source) -> Document:
    """Return a PDF's text, page by page."""
    pdf = _open(source)
    try:
        count = len(pdf)
        if count > source.limits.max_pages:
            raise LoadError(
                "too_large",
                f"{source.name!r} has {count:,} pages, more than the limit of {source.limits.max_pages:,}; split it, "
                "or raise RAG_MAX_FILE_PAGES",
            )
        pages = _page_texts(source, pdf, count)
        if not any(page.strip() for page in pages):
            raise _no_text(source, pdf, count)
        collector = Collector(source, "application/pdf")
        _describe(pdf, collector, pages)
        outline = _outline(pdf)
    finally:
        pdf.close()
    lines = [[line.strip() for line in page.split("\n")] for page in pages]
    removed = _without_repeated(lines)
    if removed:
        collector.describe({"repeated_lines_left_out": removed})
    for number, page in enumerate(lines, 1):
        _add_page(page, number, outline.get(number, []), collector)
    return collector.document()


def _open(source: Source) -> pypdfium2.PdfDocument:
    try:
        pdf = pypdfium2.PdfDocument(source.data)
        if not len(pdf):
            raise LoadError("damaged", f"{source.name!r} is a PDF without pages; get it again")
    except pypdfium2.PdfiumError as error:
        if error.err_code in (pdfium_c.FPDF_ERR_PASSWORD, pdfium_c.FPDF_ERR_SECURITY):
            raise LoadError(
                "encrypted", f"{source.name!r} is a PDF with a password; save it without one and try again"
            ) from error
        raise LoadError("damaged", f"{source.name!r} is a PDF that is broken or cut off; get it again") from error
    return pdf


def _page_texts(source: Source, pdf: pypdfium2.PdfDocument, count: int) -> list[str]:
    texts: list[str] = []
    broken = 0
    for index in range(count):
        try:
            page = pdf[index]
            text_page = page.get_textpage()
            # A word that a line's end divides comes with a mark of its own for the hyphen.
            texts.append(clean_text(_HYPHEN.sub("", text_page.get_text_bounded())))
            text_page.close()
            page.close()
        except pypdfium2.PdfiumError:
            broken += 1
            texts.append("")
    if broken == count:
        raise LoadError("damaged", f"none of the {count:,} pages of {source.name!r} can be read; get it again")
    return texts


def _no_text(source: Source, pdf: pypdfium2.PdfDocument, count: int) -> LoadError:
    pictures = any(
        next(iter(pdf[index].get_objects(filter=[pdfium_c.FPDF_PAGEOBJ_IMAGE], max_depth=3)), None) is not None
        for index in range(min(count, 5))
    )
    if pictures:
        return LoadError(
            "scanned",
            f"{source.name!r} has pictures on its {count:,} pages but no text: it was scanned. Run text recognition on "
            "it (for example `ocrmypdf in.pdf out.pdf`) and ingest the result",
        )
    return LoadError("empty", f"{source.name!r} has no text on its {count:,} pages; leave it out, or check it")


def _describe(pdf: pypdfium2.PdfDocument, collector: Collector, pages: Sequence[str]) -> None:
    collector.title = clean_text(pdf.get_metadata_value("Title"))
    collector.describe({ours: pdf.get_metadata_value(theirs) for theirs, ours in _METADATA.items()})
    collector.describe({"pages": len(pages)})
    if blank := sum(not page.strip() for page in pages):
        collector.describe({"pages_without_text": blank})


def _outline(pdf: pypdfium2.PdfDocument) -> dict[int, list[_Bookmark]]:
    """Return the outline's entries by the page that they lead to."""
    found: dict[int, list[_Bookmark]] = defaultdict(list)
    try:
        for number, entry in enumerate(pdf.get_toc(max_depth=_MAX_OUTLINE_DEPTH)):
            if number >= _MAX_HEADINGS:
                break
            target = entry.get_dest()
            index = target.get_index() if target is not None else None
            title = one_line(entry.get_title())
            if index is not None and index >= 0 and title:
                found[index + 1].append(_Bookmark(index + 1, entry.level + 1, title))
    except (pypdfium2.PdfiumError, ValueError):
        # A broken outline costs the headings, not the text.
        return found
    return found


def _without_repeated(pages: list[list[str]]) -> int:
    """Take running headers and footers out of the pages' lines, in place; return how many lines went.

    A line goes only where the same line, numbers apart, stands at the same place from the top or the bottom of most
    pages with text. It is counted and told in the metadata.
    """
    filled = [page for page in pages if any(page)]
    for page in filled:
        page[:] = [line for line in page if line]
    counts: Counter[tuple[int, str]] = Counter(
        (place, _DIGITS.sub("#", page[place])) for page in filled for place in _edges(page)
    )
    needed = max(_REPEATED_PAGES, round(_REPEATED_SHARE * len(filled)))
    removed = 0
    for page in filled:
        gone = {place % len(page) for place in _edges(page) if counts[place, _DIGITS.sub("#", page[place])] >= needed}
        page[:] = [line for at, line in enumerate(page) if at not in gone]
        removed += len(gone)
    return removed


def _edges(page: Sequence[str]) -> list[int]:
    """Return the places of the first and last lines, where the page has other lines as well."""
    if len(page) <= 2 * _EDGE_LINES:
        return [0, -1] if len(page) > 2 else []
    return [*range(_EDGE_LINES), *range(-_EDGE_LINES, 0)]


def _add_page(lines: Sequence[str], number: int, bookmarks: Sequence[_Bookmark], collector: Collector) -> None:
    """Add a page's lines, cut where a heading of the outline stands; one that isn't found stands at the page's top."""
    places: dict[int, list[_Bookmark]] = defaultdict(list)
    for bookmark in bookmarks:
        places[_place(lines, bookmark.title)].append(bookmark)
    begin = 0
    for at in sorted(places):
        collector.add("\n".join(lines[begin:at]), page=number)
        for bookmark in places[at]:
            collector.heading(bookmark.title, bookmark.level, page=number)
        begin = at + 1 if at < len(lines) and _plain(lines[at]) == _plain(places[at][-1].title) else at
    collector.add("\n".join(lines[begin:]), page=number)


def _place(lines: Sequence[str], title: str) -> int:
    wanted = _plain(title)
    exact = (at for at, line in enumerate(lines) if _plain(line) == wanted)
    # `2 Methods` in the text for `Methods` in the outline.
    ending = (at for at, line in enumerate(lines) if len(line) < len(title) + 12 and _plain(line).endswith(wanted))
    return next(exact, next(ending, 0))


def _plain(text: str) -> str:
    return "".join(each for each in text.casefold() if each.isalnum())

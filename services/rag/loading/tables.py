"""CSV and its kin: each row as `header: value` lines, so that a row means something wherever it is cut."""

import csv
import itertools
import re
from collections.abc import Iterator, Sequence

from services.rag.documents import Document
from services.rag.loading.collecting import Collector, clean_text
from services.rag.loading.decoding import decode
from services.rag.loading.limits import LoadError
from services.rag.loading.names import suffix
from services.rag.loading.source import Source

_DELIMITERS = ",;\t|"
_SAMPLE_CHARACTERS = 64_000
_SAMPLE_ROWS = 20
_BLOCK_CHARACTERS = 1500
_NUMBER = re.compile(r"\s*[-+]?[\d.,]+\s*%?\s*\Z")


def load_table(source: Source) -> Document:
    """Return a table's rows, grouped into blocks of a few."""
    text, encoding = decode(source)
    collector = Collector(source, "text/tab-separated-values" if suffix(source.name) == ".tsv" else "text/csv")
    text = clean_text(text)
    delimiter = _delimiter(text[:_SAMPLE_CHARACTERS], suffix(source.name))
    # The default bound of 128 kB is for a field of any file; here the file's own bounds hold.
    csv.field_size_limit(source.limits.max_characters)
    rows = csv.reader(_lines(text), delimiter=delimiter, strict=False)
    try:
        count = _add_rows(rows, collector)
    except csv.Error as error:
        raise LoadError(
            "damaged", f"{source.name!r} is no table that can be read: {error}; check its quotes"
        ) from error
    collector.describe({"encoding": encoding, "rows": count})
    return collector.document()


def _lines(text: str) -> Iterator[str]:
    return (f"{line}\n" for line in text.split("\n"))


def _add_rows(rows: Iterator[list[str]], collector: Collector) -> int:
    filled = (row for row in rows if any(cell.strip() for cell in row))
    first = next(filled, None)
    if first is None:
        return 0
    header = [cell.strip() for cell in first] if _is_header(first) else []
    count, size = 0, 0
    group: list[str] = []
    for row in filled if header else itertools.chain([first], filled):
        text = _row_text(header, row)
        count += 1
        if group and size + len(text) > _BLOCK_CHARACTERS:
            collector.add("\n\n".join(group), "table")
            group, size = [], 0
        group.append(text)
        size += len(text)
    collector.add("\n\n".join(group) if group else _row_text([], first), "table")
    return count


def _row_text(header: Sequence[str], row: Sequence[str]) -> str:
    named = itertools.zip_longest(header[: len(row)], row, fillvalue="")
    lines = [
        f"{name or f'column {number}'}: {' '.join(value.split())}"
        for number, (name, value) in enumerate(named, 1)
        if value.strip()
    ]
    return "\n".join(lines)


def _is_header(row: Sequence[str]) -> bool:
    """Say whether a first row names the columns: every cell says something, none is a number, none comes twice."""
    cells = [cell.strip() for cell in row]
    return all(cells) and len(set(cells)) == len(cells) and not any(_NUMBER.match(cell) for cell in cells)


def _delimiter(sample: str, extension: str) -> str:
    """Return the delimiter by which the first rows have the same number of cells, and the most of them.

    The standard library's sniffer takes time that grows with the square of some samples, and guesses letters.
    """
    if extension in (".tsv", ".tab"):
        return "\t"
    best, best_score = ",", 0.0
    for delimiter in _DELIMITERS:
        try:
            rows = itertools.islice(csv.reader(_lines(sample), delimiter=delimiter), _SAMPLE_ROWS)
            widths = [len(row) for row in rows if row]
        except csv.Error:
            continue
        most = max(set(widths), key=widths.count, default=1)
        score = widths.count(most) / len(widths) * min(most, 50) if most > 1 else 0.0
        if score > best_score:
            best, best_score = delimiter, score
    return best

"""Documents of every format, made of this project's own prose: the same from run to run."""

import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from itertools import cycle, islice
from pathlib import Path

import docx
from fpdf import FPDF

from services.rag.loading import Limits, load

ROOT = Path(__file__).parents[2]
PAGE_CHARACTERS = 3000
_PARAGRAPHS_A_SECTION = 4
_SECTION_CHARACTERS = 1500


@dataclass(frozen=True)
class Section:
    """What stands under a heading."""

    heading: str
    paragraphs: Sequence[str]
    code: str
    row: Sequence[str]


def write_all(folder: Path, pages: int, files: int) -> dict[str, list[Path]]:
    """Write `files` files of each format, with about as many pages in all; return them by format."""
    sections = _sections()
    count = max(1, round(pages * PAGE_CHARACTERS / _SECTION_CHARACTERS / files))
    written: dict[str, list[Path]] = {}
    parts = [list(islice(sections, count)) for _ in range(files)]
    for name, make in FORMATS.items():
        written[name] = []
        for number, part in enumerate(parts):
            path = folder / f"{number}.{name}"
            path.write_bytes(make(part))
            written[name].append(path)
    return written


def _sections() -> Iterator[Section]:
    blocks = [
        block
        for path in sorted((ROOT / "docs").glob("*.md"))
        for block in load(path, path.name, Limits()).blocks
        if block.kind in ("text", "code")
    ]
    prose = cycle([each.text for each in blocks if each.kind == "text" and len(each.text) > 150])
    code = cycle([each.text[:300] for each in blocks if each.kind == "code"])
    number = 0
    while True:
        number += 1
        paragraphs: list[str] = []
        while sum(map(len, paragraphs)) < _SECTION_CHARACTERS and len(paragraphs) < _PARAGRAPHS_A_SECTION:
            paragraphs.append(next(prose)[:800])
        words = paragraphs[0].split()
        yield Section(f"{number}. {' '.join(words[:4])}", paragraphs, next(code), words[:3])


def _text(sections: Sequence[Section]) -> bytes:
    return "\n\n".join(part for each in sections for part in (each.heading, *each.paragraphs)).encode()


def _markdown(sections: Sequence[Section]) -> bytes:
    parts = ["# A document"]
    for each in sections:
        table = f"| a | b | c |\n|---|---|---|\n| {' | '.join(each.row)} |"
        parts += [f"## {each.heading}", *each.paragraphs, f"```\n{each.code}\n```", table]
    return "\n\n".join(parts).encode()


def _html(sections: Sequence[Section]) -> bytes:
    parts = ["<!doctype html><title>A document</title><nav>Home</nav><main><h1>A document</h1>"]
    for each in sections:
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in each.row)
        parts += [
            f"<h2>{escape(each.heading)}</h2>",
            *(f"<p>{escape(text)}</p>" for text in each.paragraphs),
            f"<pre><code>{escape(each.code)}</code></pre><table><tr>{cells}</tr></table>",
        ]
    return "\n".join(parts).encode()


def _pdf(sections: Sequence[Section]) -> bytes:
    made = FPDF()
    made.set_font("helvetica", size=9)
    made.add_page()
    for each in sections:
        heading = _latin(each.heading)
        made.start_section(heading)
        made.cell(0, 8, heading, new_x="LMARGIN", new_y="NEXT")
        for text in each.paragraphs:
            made.multi_cell(0, 4.2, _latin(text), new_x="LMARGIN", new_y="NEXT")
    return bytes(made.output())


def _latin(text: str) -> str:
    return text.encode("latin-1", "ignore").decode("latin-1")


def _docx(sections: Sequence[Section]) -> bytes:
    document = docx.Document()
    for each in sections:
        document.add_heading(each.heading, 1)
        for text in each.paragraphs:
            document.add_paragraph(text)
        for cell, text in zip(document.add_table(1, 3).rows[0].cells, each.row, strict=True):
            cell.text = text
    buffer = io.BytesIO()
    document.save(buffer)
    return buffer.getvalue()


def _csv(sections: Sequence[Section]) -> bytes:
    rows = (f'{each.row[0]!r},"{text.replace(chr(34), chr(39))}"' for each in sections for text in each.paragraphs)
    return "\n".join(["word,text", *rows]).encode()


def _code(sections: Sequence[Section]) -> bytes:
    functions = (
        f'def section_{number}():\n    """{text.replace(chr(34), chr(39))}"""\n    return {len(text)}\n'
        for number, each in enumerate(sections)
        for text in each.paragraphs
    )
    return "\n\n".join(functions).encode()


def _notebook(sections: Sequence[Section]) -> bytes:
    cells = []
    for each in sections:
        text = "\n\n".join((f"## {each.heading}", *each.paragraphs))
        cells.append({"cell_type": "markdown", "metadata": {}, "source": text})
        cells.append({"cell_type": "code", "metadata": {}, "source": each.code, "outputs": [], "execution_count": None})
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 4}).encode()


def _json(sections: Sequence[Section]) -> bytes:
    return json.dumps([{"heading": each.heading, "text": list(each.paragraphs)} for each in sections]).encode()


FORMATS: dict[str, Callable[[Sequence[Section]], bytes]] = {
    "md": _markdown,
    "html": _html,
    "txt": _text,
    "pdf": _pdf,
    "docx": _docx,
    "csv": _csv,
    "py": _code,
    "ipynb": _notebook,
    "json": _json,
}

"""docs/documents.md says what there is: every code, every setting's default, every chunker and format."""

import re
from pathlib import Path
from typing import get_args

import pytest

from services.rag.library import Chunker
from services.rag.loading import LOAD_CODES, Limits
from services.rag.loading.recognising import Format
from services.rag.settings import RagSettings

PAGE = (Path(__file__).parents[3] / "docs" / "documents.md").read_text(encoding="utf-8")
SHOWN_AS = {
    "docx": "DOCX",
    "html": "HTML",
    "markdown": "Markdown",
    "pdf": "PDF",
    "table": "CSV, TSV",
    "json": "JSON, JSON Lines",
}


@pytest.mark.parametrize("code", LOAD_CODES)
def test_every_code_of_a_file_that_cannot_be_read(code):
    assert re.search(rf"^\| `{code}` \| .+ \| .+ \|$", PAGE, re.MULTILINE)


def test_no_code_that_there_is_not():
    table = PAGE.partition("## What can go wrong")[2].partition("\n## ")[0]
    codes = re.findall(r"^\| `([a-z_]+)` \|", table, re.MULTILINE)
    assert sorted(codes) == sorted(LOAD_CODES)


def test_every_limit_with_its_default():
    fields = RagSettings.model_fields
    rows = dict(re.findall(r"^\| `RAG_([A-Z_]+)` \| ([\d,]+) \|", PAGE, re.MULTILINE))
    assert {name.lower(): int(value.replace(",", "")) for name, value in rows.items()} == {
        name: fields[name].default
        for name in ("max_file_mb", "max_file_characters", "max_file_pages", "file_timeout_s", "reader_memory_mb")
    }
    assert Limits.of(RagSettings()) == Limits()


@pytest.mark.parametrize("chunker", get_args(Chunker))
def test_every_chunker(chunker):
    assert re.search(rf"^\| `{chunker}`", PAGE, re.MULTILINE)


@pytest.mark.parametrize("kind", get_args(Format))
def test_every_format(kind):
    assert re.search(rf"^\| {SHOWN_AS.get(kind, kind)} \| ", PAGE, re.MULTILINE)

"""Files that can't be read, or mean harm: each ends in an error that says what it is and what to do, and soon."""

import os
import time
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.rag.documents import Document
from services.rag.loading import LOAD_CODES, Limits, LoadError, clean_name, load
from services.rag.tests import files

SMALL = Limits(max_bytes=10_000_000, max_characters=100_000, max_pages=3)
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)
BOMB = b"<?xml version='1.0'?>" + b" " * 20_000_000


def refuse(tmp_path: Path, name: str, data: bytes, limits: Limits = SMALL) -> LoadError:
    path = files.write(tmp_path, "upload", data)
    with pytest.raises(LoadError) as caught:
        load(path, name, limits)
    assert caught.value.code in LOAD_CODES
    assert repr(clean_name(name)) in caught.value.message
    return caught.value


@pytest.mark.parametrize(
    ("name", "data", "code", "says"),
    [
        ("a.txt", b"", "empty", "0 bytes"),
        ("a.md", b" \n\t\n", "empty", "no text"),
        ("a.html", b"<html><script>x()</script></html>", "empty", "no text"),
        ("a.csv", b"\n\n,,\n", "empty", "no text"),
        ("a.json", b"[]", "empty", "no text"),
        ("a.pdf", files.pdf([[]]), "empty", "no text on its 1 pages"),
        ("a.pdf", files.scanned_pdf(), "scanned", "ocrmypdf"),
        ("a.pdf", files.pdf([["Secret."]], password="x"), "encrypted", "save it without one"),
        ("a.docx", OLE + "EncryptedPackage".encode("utf-16-le"), "encrypted", "remove the password"),
        ("a.pdf", b"%PDF-1.7\nnothing of the kind", "damaged", "broken or cut off"),
        ("a.pdf", b"just words", "damaged", "called .pdf but its content is plain text"),
        ("a.docx", files.word_document()[:3000], "damaged", "broken"),
        ("a.docx", files.word_package(b"<w:document"), "damaged", "DOCX"),
        ("a.ipynb", b'{"cells": [', "damaged", "open it in Jupyter"),
        ("a.ipynb", b'{"cells": 3, "nbformat": 4}', "damaged", "notebook"),
        ("a.ipynb", b"[1, 2]", "damaged", "notebook"),
        ("a.json", b'{"a": 1,}', "damaged", "line 1 column"),
        ("a.jsonl", b'{"a": 1}\n{"a"\n', "damaged", "line 2"),
        ("a.json", b"[" * 100_000, "damaged", "nested too deep"),
        ("a.md", b"\x7fELF" + bytes(100), "unsupported", "a program (ELF)"),
        ("a.txt", b"MZ" + bytes(100), "unsupported", "a program (Windows)"),
        ("a.md", b"\x89PNG\r\n\x1a\n" + bytes(50), "unsupported", "a PNG picture; run text recognition"),
        ("a.txt", files.zip_of(x=b"1"), "unsupported", "a zip archive; unpack it first"),
        ("a.docx", files.zip_of(**{"xl/workbook.xml": b"1"}), "unsupported", "an Excel workbook"),
        ("a.doc", OLE, "unsupported", "save it as DOCX"),
        ("a.rtf", b"{\\rtf1 hello}", "unsupported", "an RTF document"),
        ("a.txt", bytes(range(32)) * 40, "unsupported", "binary data"),
        ("a.docx", files.word_package(files.billion_laughs()), "unsafe", "declares a document type"),
        ("a.docx", files.word_package(files.billion_laughs().decode().encode("utf-16")), "unsafe", "document type"),
        ("a.docx", files.word_package(BOMB), "unsafe", "looks like a zip bomb"),
        ("a.docx", files.word_package(b"<w/>", **{f"m{n}": b"0" * 990_000 for n in range(90)}), "unsafe", "unpack to"),
        ("a.pdf", files.pdf([["One."]] * 4), "too_large", "4 pages, more than the limit of 3; split it"),
        ("a.txt", b"word " * 20_001, "too_large", "limit of 100,000; split it, or raise RAG_MAX_FILE_CHAR"),
        ("a.md", b"x" * 10_000_001, "too_large", "more than the limit of 10.0 MB; split it, or raise RAG_MAX"),
    ],
)  # fmt: skip
def test_each_says_what_it_is_and_what_to_do(tmp_path: Path, name, data, code, says):
    error = refuse(tmp_path, name, data)
    assert (error.code, says in error.message) == (code, True), error.message


def test_a_small_table_that_says_much_is_refused_as_it_grows(tmp_path: Path):
    header = ",".join(f"{'long header ' * 80}{number}" for number in range(20))
    assert refuse(tmp_path, "a.csv", f"{header}\n{'1,' * 20}\n".encode() * 30).code == "too_large"


def test_a_zip_that_lies_about_its_sizes_is_damaged(tmp_path: Path):
    data = bytearray(files.word_package(files.paragraph_xml("x" * 50_000)))
    with zipfile.ZipFile(files.write(tmp_path, "x.zip", bytes(data))) as package:
        true = package.getinfo("word/document.xml").file_size
    at = data.rindex(true.to_bytes(4, "little"))
    data[at : at + 4] = (100).to_bytes(4, "little")
    assert refuse(tmp_path, "a.docx", bytes(data)).code == "damaged"


def test_what_is_no_file_is_not_opened(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.md")
    (tmp_path / "x.pdf").mkdir()
    (tmp_path / "secret.txt").write_text("The secret.")
    (tmp_path / "link.txt").symlink_to(tmp_path / "secret.txt")
    said = {}
    for name in ("pipe.md", "x.pdf", "link.txt", "nothing.md"):
        with pytest.raises(LoadError) as caught:
            load(tmp_path / name, name, SMALL)
        assert caught.value.code == "unreadable"
        said[name] = caught.value.message
    assert "is a pipe, not a file" in said["pipe.md"]
    assert "is a folder, not a file" in said["x.pdf"]
    assert "is a symbolic link, not a file; give the file that it points to" in said["link.txt"]
    assert "No such file" in said["nothing.md"]


@pytest.mark.parametrize(
    ("tag", "depth"), [("div", 100_000), ("b", 20_000), ("p", 20_000), ("ul><li", 10_000), ("table><tr><td", 10_000)]
)
def test_deep_html_takes_linear_time_and_loses_no_text(tmp_path: Path, tag, depth):
    path = files.write(tmp_path, "upload", f"<html><body>{f'<{tag}>' * depth}at the bottom".encode())
    began = time.process_time()
    found = load(path, "a.html", SMALL)
    assert "at the bottom" in found.blocks[-1].text
    assert time.process_time() - began < 5


def test_a_table_of_ten_thousand_columns_is_read(tmp_path: Path):
    header = ",".join(f"c{number}" for number in range(10_000))
    path = files.write(tmp_path, "upload", f"{header}\n{','.join(map(str, range(10_000)))}\n".encode())
    (block,) = load(path, "a.csv", Limits()).blocks
    assert block.text.endswith("c9999: 9999")


def test_fifty_megabytes_on_one_line_are_refused_by_their_characters(tmp_path: Path):
    began = time.process_time()
    assert refuse(tmp_path, "a.txt", b"word and " * 5_600_000, Limits()).code == "too_large"
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("../../etc/passwd", "etc/passwd"),
        ("/etc/passwd", "etc/passwd"),
        ("..\\..\\windows\\system.ini", "windows/system.ini"),
        ("C:\\Users\\me\\a.pdf", "Users/me/a.pdf"),
        ("a/./b//c.md", "a/b/c.md"),
        ("in\x00vis\x1bible\n.md", "invisible.md"),
        ("exe.\u202efdp.txt", "exe.fdp.txt"),
        ("cafe\u0301.md", "café.md"),
        ("  spaced   out .md ", "spaced out .md"),
        (".gitignore", ".gitignore"),
        ("lone\ud800.md", "lone.md"),
    ],
)
def test_names_are_made_safe(name, clean):
    assert clean_name(name) == clean


@pytest.mark.parametrize("name", ["", "..", "../..", "/", "\x00", ". .", "x" * 513])
def test_names_that_say_nothing_or_too_much_are_refused(name):
    with pytest.raises(LoadError) as caught:
        clean_name(name)
    assert caught.value.code == "bad_name"


@settings(derandomize=True)
@given(st.text(max_size=60))
def test_a_clean_name_stays_as_it_is_and_leads_nowhere(name):
    try:
        clean = clean_name(name)
    except LoadError:
        return
    assert clean_name(clean) == clean
    assert not clean.startswith("/")
    assert not {"", ".", ".."} & set(clean.split("/"))
    assert clean.encode().decode().isprintable()


SEEDS = {
    "pdf": files.pdf([["One.", "Two."], ["Three."]], title="T", outline={1: "One."}),
    "docx": files.word_document(),
    "html": b"<!doctype html><h1>A</h1><p>b<table><tr><td>c</table><pre>d",
    "md": b"---\na: b\n---\n# A\n\n- b\n\n```\nc\n```\n\n| a |\n|---|\n| b |\n",
    "csv": b'a,b\n"c\nd",e\n',
    "ipynb": files.notebook({"cell_type": "code", "source": "x", "outputs": [], "metadata": {}, "execution_count": 1}),
    "json": b'{"a": [1, {"b": null}]}',
    "jsonl": b'{"a": 1}\n[2]\n',
    "py": b"class A:\n    pass\n",
    "rst": b"A\n=\n\nb\n",
    "txt": "ä b".encode("latin-1"),
}


def outcome(path: Path, name: str) -> Document | LoadError:
    try:
        return load(path, name, SMALL)
    except LoadError as error:
        return error


@pytest.mark.parametrize("extension", sorted(SEEDS))
@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_bytes_end_in_a_document_or_in_its_error(tmp_path_factory, extension, data):
    seed = SEEDS[extension]
    begin = data.draw(st.integers(0, len(seed)))
    end = data.draw(st.integers(begin, min(len(seed), begin + 40)))
    path = tmp_path_factory.mktemp("fuzz") / "upload"
    path.write_bytes(seed[:begin] + data.draw(st.binary(max_size=40)) + seed[end:])
    found = outcome(path, f"x.{extension}")
    if isinstance(found, LoadError):
        assert found.code in LOAD_CODES
    else:
        assert found.title
        assert all(block.text.strip() for block in found.blocks)
        # Every later step can hold it.
        assert "\x00" not in "".join(block.text for block in found.blocks)
        "".join(block.text for block in found.blocks).encode()

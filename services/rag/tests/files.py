"""Files for the readers' tests, whole and broken, made when a test wants them."""

import io
import json
import zipfile
from pathlib import Path

import docx
from fpdf import FPDF
from PIL import Image

CONTENT_TYPES = (
    '<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    '<Default Extension="xml" ContentType="application/vnd.openxmlformats-officedocument.wordprocessingml.document.'
    'main+xml"/></Types>'
)
RELATIONS = (
    '<?xml version="1.0"?><Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
    '<Relationship Id="r1" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" '
    'Target="word/document.xml"/></Relationships>'
)
WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


def pdf(pages: list[list[str]], *, title: str = "", outline: dict[int, str] | None = None, password: str = "") -> bytes:
    """Return a PDF with these lines on its pages."""
    made = FPDF()
    made.set_font("helvetica", size=10)
    if title:
        made.set_title(title)
    if password:
        made.set_encryption(owner_password="owner", user_password=password)
    for number, lines in enumerate(pages, 1):
        made.add_page()
        if outline and number in outline:
            made.start_section(outline[number])
        for line in lines:
            made.cell(0, 6, line, new_x="LMARGIN", new_y="NEXT")
    return bytes(made.output())


def scanned_pdf() -> bytes:
    """Return a PDF whose page is a picture."""
    made = FPDF()
    made.add_page()
    made.image(Image.new("L", (50, 50), 200), w=100)
    return bytes(made.output())


def word_document() -> bytes:
    """Return a DOCX with headings, a list and a table."""
    document = docx.Document()
    document.core_properties.title = "The manual"
    document.core_properties.author = "A. Writer"
    document.add_heading("Install", 1)
    document.add_paragraph("Put it on the table.")
    document.add_paragraph("first", style="List Bullet")
    document.add_paragraph("second", style="List Bullet")
    document.add_heading("Parts", 2)
    table = document.add_table(rows=2, cols=2)
    for row, cells in zip(table.rows, (("name", "count"), ("screw", "4")), strict=True):
        for cell, text in zip(row.cells, cells, strict=True):
            cell.text = text
    buffer = io.BytesIO()
    document.save(buffer)
    return buffer.getvalue()


def word_package(document_xml: bytes, **others: bytes) -> bytes:
    """Return a DOCX whose parts are given as they are."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as package:
        package.writestr("[Content_Types].xml", CONTENT_TYPES)
        package.writestr("_rels/.rels", RELATIONS)
        package.writestr("word/document.xml", document_xml)
        for name, data in others.items():
            package.writestr(name, data)
    return buffer.getvalue()


def billion_laughs() -> bytes:
    """Return a document part whose entities would grow to a billion words."""
    entities = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    return (
        f'<?xml version="1.0"?><!DOCTYPE w [<!ENTITY l0 "lol">{entities}]>'
        f'<w:document xmlns:w="{WORD}"><w:body><w:p><w:r><w:t>&l9;</w:t></w:r></w:p></w:body></w:document>'
    ).encode()


def paragraph_xml(text: str) -> bytes:
    """Return a document part with one paragraph."""
    return (
        f'<?xml version="1.0"?><w:document xmlns:w="{WORD}"><w:body><w:p><w:r><w:t>{text}</w:t></w:r></w:p></w:body>'
        "</w:document>"
    ).encode()


def zip_of(**parts: bytes) -> bytes:
    """Return a zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def notebook(*cells: dict) -> bytes:
    """Return a notebook."""
    return json.dumps(
        {
            "cells": cells,
            "metadata": {"language_info": {"name": "python"}},
            "nbformat": 4,
            "nbformat_minor": 5,
        }
    ).encode()


def write(folder: Path, name: str, data: bytes) -> Path:
    """Write a file and return where it is."""
    path = folder / name
    path.write_bytes(data)
    return path

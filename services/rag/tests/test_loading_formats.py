"""What each format becomes: its text, in order, with pages, headings and kinds."""

from pathlib import Path

import pytest

from services.rag.documents import Document
from services.rag.loading import Limits, load
from services.rag.tests import files

LIMITS = Limits()


def read(tmp_path: Path, name: str, content: bytes | str) -> Document:
    data = content.encode() if isinstance(content, str) else content
    return load(files.write(tmp_path, "upload", data), name, LIMITS)


def blocks(document: Document) -> list[tuple[str, str]]:
    return [(block.kind, block.text) for block in document.blocks]


def test_pdf_keeps_pages_title_and_outline(tmp_path: Path):
    pages = [["Intro", "Welcome here.", "More words."], ["On the second page.", "Usage", "Press the button."]]
    found = read(tmp_path, "x.pdf", files.pdf(pages, title="The book", outline={1: "Intro", 2: "Usage"}))
    assert found.title == "The book"
    assert found.metadata["pages"] == 2
    assert [(each.kind, each.page, each.heading_path, each.text) for each in found.blocks] == [
        ("heading", 1, ("Intro",), "Intro"),
        ("text", 1, ("Intro",), "Welcome here.\nMore words."),
        ("text", 2, ("Intro",), "On the second page."),
        ("heading", 2, ("Usage",), "Usage"),
        ("text", 2, ("Usage",), "Press the button."),
    ]


def test_pdf_leaves_out_what_every_page_repeats_and_says_how_much(tmp_path: Path):
    pages = [
        ["ACME handbook", f"Text {word}.", "And more.", f"Again {word}.", f"Page {n} of 5"]
        for n, word in enumerate("abcde")
    ]
    found = read(tmp_path, "x.pdf", files.pdf(pages))
    assert found.blocks[0].text == "Text a.\nAnd more.\nAgain a."
    assert found.metadata["repeated_lines_left_out"] == 10
    assert not any("ACME" in each.text or "Page" in each.text for each in found.blocks)


def test_pdf_of_two_pages_loses_no_line(tmp_path: Path):
    pages = [["Same line", "one", "two", "three", "Same end"], ["Same line", "four", "five", "six", "Same end"]]
    found = read(tmp_path, "x.pdf", files.pdf(pages))
    assert sum(each.text.count("Same") for each in found.blocks) == 4


def test_docx_keeps_headings_lists_tables_and_facts(tmp_path: Path):
    found = read(tmp_path, "x.docx", files.word_document())
    assert found.title == "The manual"
    assert found.metadata["author"] == "A. Writer"
    assert blocks(found) == [
        ("heading", "Install"),
        ("text", "Put it on the table."),
        ("text", "- first\n- second"),
        ("heading", "Parts"),
        ("table", "name | count\nscrew | 4"),
    ]
    assert found.blocks[-1].heading_path == ("Install", "Parts")


HTML = """<!doctype html><html lang="en"><head><title>A page</title><meta name="author" content="Joe"><style>p{}</style>
</head><body><header>Site</header><nav><a href="/">Home</a></nav><main><h1>Top<a class="headerlink">¶</a></h1>
<p>Hello <b>world</b>,<br>line two.</p><ul><li>one<ul><li>inner <p>par</p></li></ul></li><li>two</ul>
<table><caption>Sums</caption><tr><th>A<th>B<tr><td>1<td>2</table><pre><code>x = 1
  y &lt; 2</code></pre><h2>Sub</h2>loose <!-- not this --> text<div>more<script>evil()</script></div></main>
<footer>Imprint</footer></body></html>"""


def test_html_keeps_the_matter_and_drops_what_stands_around_it(tmp_path: Path):
    found = read(tmp_path, "x.html", HTML)
    assert found.title == "A page"
    assert found.metadata["author"] == "Joe"
    assert found.metadata["language"] == "en"
    assert blocks(found) == [
        ("heading", "Top"),
        ("text", "Hello world,\nline two."),
        ("text", "- one\n- inner par\n- two"),
        ("table", "Sums\nA | B\n1 | 2"),
        ("code", "x = 1\n  y < 2"),
        ("heading", "Sub"),
        ("text", "loose text"),
        ("text", "more"),
    ]
    assert found.blocks[-1].heading_path == ("Top", "Sub")


def test_html_that_is_all_menu_is_not_called_empty(tmp_path: Path):
    assert blocks(read(tmp_path, "x.html", "<html><nav>Home</nav></html>")) == [("text", "Home")]


MARKDOWN = """---
title: From the front
tags: [a, b]
year: 2024
---
Intro with a [link](https://example.org/long?x=1) and ![a picture](p.png).

# First

- one
- two

## Second `code`

```python
# not a heading
```

| a | b |
|---|---|
| 1 | 2 |

# Third
"""


def test_markdown_keeps_headings_code_tables_and_front_matter(tmp_path: Path):
    found = read(tmp_path, "x.md", MARKDOWN)
    assert found.title == "From the front"
    assert found.metadata["year"] == 2024
    assert [(each.kind, each.heading_path, each.text) for each in found.blocks] == [
        ("text", (), "Intro with a link and a picture."),
        ("heading", ("First",), "First"),
        ("text", ("First",), "- one\n- two"),
        ("heading", ("First", "Second code"), "Second code"),
        ("code", ("First", "Second code"), "# not a heading"),
        ("table", ("First", "Second code"), "| a | b |\n|---|---|\n| 1 | 2 |"),
        ("heading", ("Third",), "Third"),
    ]


def test_text_is_cut_by_paragraphs_and_named_by_its_file(tmp_path: Path):
    found = read(tmp_path, "notes/today.txt", "One\nline.\r\n\r\nTwo.\n \nThree.")
    assert found.title == "today"
    assert [each.text for each in found.blocks] == ["One\nline.", "Two.", "Three."]


def test_restructured_text_has_headings(tmp_path: Path):
    found = read(tmp_path, "x.rst", "=====\nTitle\n=====\n\nText.\n\nPart\n----\n\nMore.")
    assert [each.heading_path for each in found.blocks if each.kind == "text"] == [("Title",), ("Title", "Part")]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_tables_say_the_header_with_each_value(tmp_path: Path, delimiter):
    rows = [["city", "people"], ["Bonn", "336,000"], ["Köln, am Rhein", ""]]
    text = "\n".join(delimiter.join(f'"{cell}"' if "," in cell else cell for cell in row) for row in rows)
    found = read(tmp_path, "x.csv", text)
    assert blocks(found) == [("table", "city: Bonn\npeople: 336,000\n\ncity: Köln, am Rhein")]
    assert found.metadata["rows"] == 2


def test_a_table_without_header_numbers_its_columns(tmp_path: Path):
    assert blocks(read(tmp_path, "x.csv", "1,2\n3,4"))[0][1] == "column 1: 1\ncolumn 2: 2\n\ncolumn 1: 3\ncolumn 2: 4"


def test_code_is_cut_at_definitions_and_loses_nothing(tmp_path: Path):
    text = "import os\n\nX = 1\n\n# about f\n@cache\ndef f():\n    return 1\n\n\nclass A:\n    def g(self): ...\n"
    found = read(tmp_path, "x.py", text)
    assert [(each.kind, each.heading_path) for each in found.blocks] == [
        ("code", ()),
        ("code", ("f",)),
        ("code", ("A",)),
    ]
    assert found.blocks[1].text.startswith("# about f\n@cache\ndef f")
    assert "".join("".join(each.text.split()) for each in found.blocks) == "".join(text.split())


def test_notebooks_keep_cells_and_the_start_of_what_they_printed(tmp_path: Path):
    code = {
        "cell_type": "code",
        "id": "b",
        "metadata": {},
        "execution_count": 1,
        "source": ["x = 1\n", "print('a' * 5000)"],
        "outputs": [{"output_type": "stream", "name": "stdout", "text": ["a" * 5000]}],
    }
    text = {"cell_type": "markdown", "id": "a", "metadata": {}, "source": "# Start\nWords."}
    found = read(tmp_path, "x.ipynb", files.notebook(text, code))
    assert found.title == "Start"
    assert [(each.kind, len(each.text)) for each in found.blocks] == [
        ("heading", 5),
        ("text", 6),
        ("code", 23),
        ("code", 1001),
    ]
    assert found.metadata["programming_language"] == "python"
    assert found.blocks[-1].heading_path == ("Start",)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.json", '[{"a": {"b": 1}, "c": [1, "x"]}, {"a": null, "d": [{"e": true}]}]'),
        ("x.jsonl", '{"a": {"b": 1}, "c": [1, "x"]}\n\n{"a": null, "d": [{"e": true}]}\n'),
    ],
)
def test_json_says_the_path_with_each_value(tmp_path: Path, name, text):
    assert blocks(read(tmp_path, name, text)) == [("table", "a.b: 1\nc: 1, x\n\na: null\nd[0].e: true")]


@pytest.mark.parametrize(
    ("name", "data", "media_type"),
    [
        ("x.txt", files.pdf([["Text."]]), "application/pdf"),
        ("x.bin", b"\r\n" + files.pdf([["Text."]]), "application/pdf"),
        ("x.txt", files.word_document(), "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
        ("x.pdf", HTML.encode(), "text/html"),
        ("README", b"plain words", "text/plain"),
        ("Makefile", b"all:\n\techo", "text/x-source"),
    ],
)
def test_content_tells_more_than_the_name(tmp_path: Path, name, data, media_type):
    assert read(tmp_path, name, data).media_type == media_type


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
def test_encodings_are_recognised(tmp_path: Path, encoding):
    text = "Ein schöner Tag für die Bücher in Köln, sagte der Müller überall. " * 5
    assert read(tmp_path, "x.txt", text.encode(encoding)).blocks[0].text == text.strip()


def test_a_broken_byte_in_utf8_costs_one_character(tmp_path: Path):
    data = "schöne Grüße aus Köln für alle Bücher überall, Äpfel, Öl, Übung ".encode() + b"\xff end"
    assert read(tmp_path, "x.txt", data).blocks[0].text.endswith("Übung \N{REPLACEMENT CHARACTER} end")


def test_nul_and_control_characters_are_left_out(tmp_path: Path):
    found = read(tmp_path, "x.txt", b"a\x00b\x07c some more words here to be text\x0bnew")
    assert found.blocks[0].text == "abc some more words here to be text\nnew"

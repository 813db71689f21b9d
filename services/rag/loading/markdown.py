"""Markdown by markdown-it-py: its block structure; the text stays as it is written, less the addresses of links."""

import datetime
import re
from functools import cache

import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

from services.rag.documents import Document
from services.rag.loading.collecting import Collector, clean_text
from services.rag.loading.decoding import decode
from services.rag.loading.source import Source

_FRONT = re.compile(r"\A---[ \t]*\n(.{0,20000}?)\n(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.S)
_LINK = re.compile(r"(!?)\[([^\[\]]{0,1000})\]\([^()\s]{0,2000}(?:\s+\"[^\"\n]{0,300}\")?\)")
_EMPHASIS = re.compile(r"(\*{1,3}|`)([^*`\n]{1,300})\1")
_COMMENT = re.compile(r"<!--.{0,10000}?-->", re.S)
_TAG = re.compile(r"</?[A-Za-z][^<>]{0,1000}>")


@cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark").enable("table")
    # The structure is all that is wanted: what is within a paragraph stays as it is written.
    parser.core.ruler.disable(["inline", "text_join"])
    return parser


def load_markdown(source: Source) -> Document:
    """Return a Markdown file's headings, paragraphs, lists, code and tables."""
    text, encoding = decode(source)
    collector = Collector(source, "text/markdown")
    collector.describe({"encoding": encoding})
    text = clean_text(text)
    if (front := _FRONT.match(text)) and (values := _front_matter(front[1])) is not None:
        collector.title = str(values.pop("title", ""))
        collector.describe(values)
        text = text[front.end() :]
    add_markdown(text, collector)
    return collector.document()


def add_markdown(text: str, collector: Collector) -> None:
    """Add Markdown's blocks to a document, under the headings that it has so far."""
    lines = text.split("\n")
    tokens = _parser().parse(text)
    at = 0
    while at < len(tokens):
        token = tokens[at]
        if token.type == "heading_open":
            collector.heading(_without_marks(tokens[at + 1].content), int(token.tag[1:]))
        else:
            _add_block(token, lines, collector)
        at = _after(tokens, at)


def _after(tokens: list[Token], at: int) -> int:
    """Return where the block that begins at `at` is over."""
    depth = 0
    while at < len(tokens):
        depth += tokens[at].nesting
        at += 1
        if depth <= 0:
            break
    return at


def _add_block(token: Token, lines: list[str], collector: Collector) -> None:
    if token.type in ("fence", "code_block"):
        collector.add(token.content, "code")
        return
    if token.type == "hr" or token.map is None:
        return
    raw = "\n".join(lines[token.map[0] : token.map[1]])
    if token.type == "html_block":
        collector.add(_TAG.sub("", _COMMENT.sub("", raw)))
    elif token.type == "table_open":
        collector.add(without_addresses(raw), "table")
    else:
        collector.add(without_addresses(raw))


def without_addresses(text: str) -> str:
    """Return Markdown with each link's text in the link's place: its address says nothing to a reader."""
    if "](" not in text:
        return text
    return _LINK.sub(lambda found: found[2], text)


def _without_marks(text: str) -> str:
    return _EMPHASIS.sub(lambda found: found[2], without_addresses(text))


def _front_matter(text: str) -> dict[str, object] | None:
    """Return the values of YAML front matter that are words or numbers; None where it is something else."""
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    plain = (str, int, float, datetime.date)
    return {str(key): value for key, value in found.items() if isinstance(value, plain)}

"""HTML by selectolax (Lexbor): title, headings, text, lists, code and tables, without menus, scripts and forms."""

import re
from collections.abc import Iterator
from typing import Literal

from selectolax.lexbor import LexborHTMLParser, LexborNode

from services.rag.documents import Document
from services.rag.loading.collecting import Collector
from services.rag.loading.decoding import decode
from services.rag.loading.source import Source

# As browsers do; Lexbor's time grows with the square of the depth (100,000 nested elements: 50 s).
_MAX_DEPTH = 512
_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9:-]*)")
# Elements that hold nothing, or that another of their kind ends: they don't add to the depth.
_FLAT_TAGS = (
    "a area base body br col colgroup dd dt embed h1 h2 h3 h4 h5 h6 head hr html img input li link meta optgroup "
    "option p param rp rt script source style tbody td textarea tfoot th thead title tr track wbr"
)
_FLAT = frozenset(_FLAT_TAGS.split())
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_SKIPPED_TAGS = (
    "audio button canvas dialog embed head iframe input map math nav noscript object script select style svg "
    "template textarea video"
)
_SKIPPED = frozenset(_SKIPPED_TAGS.split())
_SKIPPED_ROLES = frozenset({"navigation", "search", "menu", "menubar", "toolbar", "banner", "contentinfo"})
_FRAMES = frozenset({"header", "footer", "aside"})
_BLOCKS_TAGS = (
    "address article aside blockquote body caption center dd details div dl dt fieldset figcaption figure footer "
    "form header hgroup hr html legend main p section summary table tbody td tfoot th thead tr"
)
_BLOCKS = frozenset(_BLOCKS_TAGS.split())
_BREAK = "\u2028"
_SPACES = re.compile(r"[^\S\u2028]+")
_BREAKS = re.compile(r" ?\u2028[\u2028 ]*")
_EMPTY_ITEM = re.compile(r"\u2028- ?(?=\u2028|\Z)")
_LAYOUT = frozenset({*_HEADINGS, "table", "pre", "ul", "ol"})
_LISTS = frozenset({"ul", "ol", "menu", "dir"})
_META = {"author": "author", "description": "description", "keywords": "keywords", "date": "date"}
_ENOUGH_OF_BODY = 0.3

_Step = tuple[Literal["in", "out"], LexborNode]


def load_html(source: Source) -> Document:
    """Return what a page says, without what stands around it on every page of its site."""
    text, encoding = decode(source, markup=True)
    parser = LexborHTMLParser(limit_depth(text))
    collector = Collector(source, "text/html")
    collector.describe({"encoding": encoding})
    _describe(parser, collector)
    body = parser.body
    if body is not None:
        _Walk(collector).take(_main(body) or body)
        if not len(collector):
            # A page that is all menu: better that than to say that it is empty.
            _Walk(collector, whole=True).take(body)
    return collector.document()


def limit_depth(text: str) -> str:
    """Return the HTML with elements beyond the deepest level made void, so that parsing takes linear time."""
    depth, at = 0, 0
    parts: list[str] = []
    for tag in _TAG.finditer(text):
        if tag[2].lower() in _FLAT:
            continue
        too_deep = depth >= _MAX_DEPTH + (1 if tag[1] else 0)
        depth = max(0, depth - 1) if tag[1] else depth + 1
        if too_deep:
            parts += (text[at : tag.start()], f"<{tag[1]}wbr")
            at = tag.end()
    return "".join((*parts, text[at:])) if parts else text


def _describe(parser: LexborHTMLParser, collector: Collector) -> None:
    title = parser.css_first("head > title")
    collector.title = title.text() if title is not None else ""
    collector.describe({"language": parser.root.attributes.get("lang") if parser.root is not None else None})
    for meta in parser.css("meta[name][content]"):
        if key := _META.get((meta.attributes.get("name") or "").lower()):
            collector.describe({key: meta.attributes.get("content")})


def _main(body: LexborNode) -> LexborNode | None:
    """Return the element that says that it is the page's matter, where most of the text is in it."""
    found = body.css_first("main, [role=main]") or (articles[0] if len(articles := body.css("article")) == 1 else None)
    if found is not None and len(found.text()) >= _ENOUGH_OF_BODY * len(body.text()):
        return found
    return None


def _steps(root: LexborNode) -> Iterator[_Step]:
    """Yield each node below as the walk goes into it and out of it, without recursion; send True to skip it."""
    node: LexborNode | None = root
    while node is not None:
        skipped = yield ("in", node)
        child = None if skipped else node.child
        while child is None:
            yield ("out", node)
            if node.mem_id == root.mem_id:
                return
            child = node.next
            if child is None:
                parent = node.parent
                if parent is None:
                    return
                node = parent
        node = child


class _Walk:
    """Goes through a page and adds a block whenever one is over."""

    def __init__(self, collector: Collector, *, whole: bool = False) -> None:
        self._collector = collector
        self._whole = whole
        self._text: list[str] = []
        self._lists = 0
        self._within = 0  # article or main: a header there is the article's own

    def take(self, root: LexborNode) -> None:
        """Add all that stands below a node."""
        self._within = int(root.tag != "body")
        steps = _steps(root)
        skip: bool | None = None
        while True:
            try:
                step, node = steps.send(skip)  # type: ignore[attr-defined]
            except StopIteration:
                break
            if step == "in":
                skip = self._enter(node)
            else:
                self._leave(node)
                skip = None
        self._flush()

    def _enter(self, node: LexborNode) -> bool:
        """Take a node in; return whether what is below it is left out, or has been taken already."""
        if node.is_text_node:
            self._text.append(node.text_content or "")
            return True
        tag = node.tag or ""
        if not node.is_element_node or (not self._whole and self._is_boilerplate(node, tag)):
            return True
        if tag in _HEADINGS:
            self._flush()
            self._collector.heading(_flat(node), _HEADINGS[tag])
            return True
        if tag == "pre":
            self._flush()
            self._collector.add(node.text(), "code")
            return True
        if tag == "table" and _is_data(node):
            self._flush()
            self._collector.add(_rows(node), "table")
            return True
        self._open(tag)
        return False

    def _open(self, tag: str) -> None:
        if tag == "br":
            self._text.append(_BREAK)
        elif tag in _LISTS:
            if not self._lists:
                self._flush()
            self._lists += 1
        elif tag == "li":
            self._text.append(f"{_BREAK}- ")
        elif tag in _BLOCKS:
            self._edge()
        if tag in ("article", "main"):
            self._within += 1

    def _leave(self, node: LexborNode) -> None:
        tag = node.tag or ""
        if tag in _LISTS:
            self._lists = max(0, self._lists - 1)
        if tag in _BLOCKS or (tag in _LISTS and not self._lists):
            self._edge()
        if tag in ("article", "main"):
            self._within -= 1

    def _edge(self) -> None:
        """End a block; within a list only the line, so that its items stay together."""
        if self._lists:
            self._text.append(" ")
        else:
            self._flush()

    def _flush(self) -> None:
        text = _EMPTY_ITEM.sub("", _SPACES.sub(" ", "".join(self._text)))
        self._text.clear()
        self._collector.add(_BREAKS.sub("\n", text))

    def _is_boilerplate(self, node: LexborNode, tag: str) -> bool:
        if tag in _SKIPPED or (tag in _FRAMES and self._within <= 0):
            return True
        attributes = node.attributes
        if not attributes:
            return False
        if "hidden" in attributes or attributes.get("role") in _SKIPPED_ROLES:
            return True
        # The sign that documentation tools put beside a heading.
        return tag == "a" and "headerlink" in (attributes.get("class") or "")


def _flat(node: LexborNode) -> str:
    return node.text().replace("¶", "").strip()


def _is_data(table: LexborNode) -> bool:
    """Say whether a table holds data; one with headings, code or tables in it lays a page out."""
    return not any(step == "in" and node.tag in _LAYOUT and node.mem_id != table.mem_id for step, node in _steps(table))


def _rows(table: LexborNode) -> str:
    rows = []
    for row in table.css("tr"):
        cells = [" ".join(cell.text(separator=" ").split()) for cell in row.css("th, td")]
        if any(cells):
            rows.append(" | ".join(cells))
    caption = table.css_first("caption")
    return "\n".join([*([" ".join(caption.text().split())] if caption is not None else []), *rows])

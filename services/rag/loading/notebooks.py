"""Jupyter notebooks by nbformat: Markdown cells as Markdown, code cells as code with the start of what they printed."""

import warnings
from collections.abc import Mapping
from typing import Any

import nbformat

from services.rag.documents import Document
from services.rag.loading.collecting import Collector
from services.rag.loading.decoding import decode
from services.rag.loading.limits import LoadError
from services.rag.loading.markdown import add_markdown
from services.rag.loading.source import Source

_OUTPUT_CHARACTERS = 1000


def load_notebook(source: Source) -> Document:
    """Return a notebook's cells in their order."""
    text, _ = decode(source, markup=True)
    collector = Collector(source, "application/x-ipynb+json")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Read and brought to version 4, not validated: a cell without an id is no reason to refuse it.
            notebook = nbformat.convert(nbformat.reader.reads(text), 4)  # type: ignore[no-untyped-call]
            cells = [_Cell.of(cell) for cell in notebook["cells"]]
            described = notebook.get("metadata", {})
    except RecursionError as error:
        raise LoadError("damaged", f"{source.name!r} is nested too deep for a notebook") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise LoadError(
            "damaged",
            f"{source.name!r} is no notebook that can be read: {reason}; open it in Jupyter and save it again",
        ) from error
    collector.describe(_facts(described))
    for cell in cells:
        cell.add(collector)
    return collector.document()


class _Cell:
    """One cell: its kind, its source, and what it printed."""

    def __init__(self, kind: str, text: str, printed: str) -> None:
        self.kind = kind
        self.text = text
        self.printed = printed

    @classmethod
    def of(cls, cell: Mapping[str, Any]) -> "_Cell":
        outputs = cell.get("outputs") or []
        printed = "\n".join(filter(None, (_printed(output) for output in outputs)))
        return cls(str(cell.get("cell_type")), _text(cell.get("source")), printed)

    def add(self, collector: Collector) -> None:
        if self.kind == "markdown":
            add_markdown(self.text, collector)
        elif self.kind == "code":
            collector.add(self.text, "code")
            cut = self.printed[:_OUTPUT_CHARACTERS]
            collector.add(f"{cut.rstrip()}…" if len(self.printed) > _OUTPUT_CHARACTERS else cut, "code")
        else:
            collector.add(self.text)


def _text(value: Any) -> str:
    return "".join(map(str, value)) if isinstance(value, list) else str(value or "")


def _printed(output: Mapping[str, Any]) -> str:
    if output.get("output_type") == "stream":
        return _text(output.get("text"))
    if output.get("output_type") == "error":
        return f"{output.get('ename')}: {output.get('evalue')}"
    return _text((output.get("data") or {}).get("text/plain"))


def _facts(metadata: Mapping[str, Any]) -> dict[str, object]:
    language = (metadata.get("language_info") or metadata.get("kernelspec") or {}).get("name")
    return {"title": metadata.get("title"), "programming_language": language}

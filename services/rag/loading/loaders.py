"""Which loader reads which format."""

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path

from services.rag.documents import Document
from services.rag.loading.limits import Limits, LoadError
from services.rag.loading.names import clean_name
from services.rag.loading.recognising import Format, recognise
from services.rag.loading.source import Source, read_source

# Imported when a file needs them: a process that reads Markdown alone doesn't hold the PDF engine.
_LOADERS: Mapping[Format, tuple[str, str, str]] = {
    "code": ("code", "load_code", "source code"),
    "docx": ("word", "load_docx", "a DOCX document"),
    "html": ("html", "load_html", "HTML"),
    "json": ("records", "load_json", "JSON"),
    "markdown": ("markdown", "load_markdown", "Markdown"),
    "notebook": ("notebooks", "load_notebook", "a notebook"),
    "pdf": ("pdf", "load_pdf", "a PDF"),
    "table": ("tables", "load_table", "CSV"),
    "text": ("plain", "load_text", "text"),
}


def load(path: Path, name: str, limits: Limits) -> Document:
    """Return the document that a file holds.

    Args:
        name: what it is called by those who gave it; its extension tells one kind of text from another.

    Raises:
        LoadError: with a code of `LOAD_CODES`; its message names the file, the cause and the next step.
        MemoryError: the process's own limit was reached.
    """
    source = read_source(path, clean_name(name), limits)
    module, function, what = _LOADERS[recognise(source)]
    loader: Callable[[Source], Document] = getattr(import_module(f"services.rag.loading.{module}"), function)
    try:
        return loader(source)
    except (LoadError, MemoryError):
        raise
    except Exception as error:
        # A parser's own failure on content that it didn't foresee. The file is told of; the others go on.
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise LoadError(
            "damaged", f"{source.name!r} can't be read as {what}: {reason}; check it, or save it anew"
        ) from error

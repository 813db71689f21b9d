"""What a file is: by its content first, by its name where content can't tell (all text looks alike)."""

import io
import re
import zipfile
from typing import Literal

from services.rag.loading.decoding import wide_encoding
from services.rag.loading.limits import LoadError
from services.rag.loading.names import suffix
from services.rag.loading.source import Source

Format = Literal["pdf", "docx", "html", "markdown", "text", "table", "code", "notebook", "json"]

_CODE_EXTENSIONS = (
    "bash bat c cc cfg clj cmake conf cpp cs css cu cuh cxx dart erl ex exs f90 fish go gradle graphql groovy h hcl "
    "hh hpp hs hxx ini java jl js jsx kt kts less lisp lua m make mk ml mli mm nix pas php pl pm proto ps1 py pyi "
    "pyx r rb rs sass scala scss sh sol sql svelte swift tcl tf toml ts tsx vb vim vue xml xsd xsl yaml yml zig zsh"
)
CODE_SUFFIXES = frozenset(f".{each}" for each in _CODE_EXTENSIONS.split())
_CODE_NAMES = frozenset({"dockerfile", "makefile", "cmakelists.txt", "jenkinsfile", "vagrantfile", "justfile"})
_BY_SUFFIX: dict[str, Format] = {
    ".csv": "table",
    ".htm": "html",
    ".html": "html",
    ".ipynb": "notebook",
    ".json": "json",
    ".jsonl": "json",
    ".markdown": "markdown",
    ".md": "markdown",
    ".mdx": "markdown",
    ".ndjson": "json",
    ".tab": "table",
    ".tsv": "table",
    ".xhtml": "html",
}
_READABLE = "PDF, DOCX, HTML, Markdown, text, CSV, code, notebooks and JSON are read"
# First bytes of what is no text, and what to do with it. Sources: the formats' specifications.
_MAGIC: tuple[tuple[bytes, str, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "a PNG picture", "run text recognition (OCR) on it first"),
    (b"\xff\xd8\xff", "a JPEG picture", "run text recognition (OCR) on it first"),
    (b"GIF8", "a GIF picture", "run text recognition (OCR) on it first"),
    (b"II*\x00", "a TIFF picture", "run text recognition (OCR) on it first"),
    (b"MM\x00*", "a TIFF picture", "run text recognition (OCR) on it first"),
    (b"\x7fELF", "a program (ELF)", _READABLE),
    (b"MZ", "a program (Windows)", _READABLE),
    (b"\xcf\xfa\xed\xfe", "a program (macOS)", _READABLE),
    (b"\xca\xfe\xba\xbe", "a program (Java class or macOS)", _READABLE),
    (b"\x00asm", "a program (WebAssembly)", _READABLE),
    (b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (b"BZh", "a bzip2 archive", "unpack it first"),
    (b"\xfd7zXZ\x00", "an xz archive", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive", "unpack it first"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "unpack it first"),
    (b"Rar!\x1a\x07", "a RAR archive", "unpack it first"),
    (b"SQLite format 3\x00", "an SQLite database", "export its tables as CSV first"),
    (b"PAR1", "a Parquet file", "export it as CSV first"),
    (b"{\\rtf", "an RTF document", "save it as DOCX or PDF first"),
    (b"%!PS", "a PostScript document", "convert it to PDF first"),
    (b"OggS", "an audio or video file", "transcribe it first"),
    (b"ID3", "an audio file", "transcribe it first"),
    (b"fLaC", "an audio file", "transcribe it first"),
    (b"RIFF", "an audio, video or WebP file", _READABLE),
    (b"GGUF", "a model file (GGUF)", _READABLE),
    (b"\x93NUMPY", "a NumPy array", _READABLE),
)
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_OLE_ENCRYPTED = "EncryptedPackage".encode("utf-16-le")
_ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
_PACKED: tuple[tuple[str, str, str], ...] = (
    ("xl/workbook.xml", "an Excel workbook", "save its sheets as CSV first"),
    ("ppt/presentation.xml", "a PowerPoint presentation", "save it as PDF first"),
    ("META-INF/container.xml", "an EPUB book", "convert it to HTML or PDF first"),
    ("content.xml", "an OpenDocument file", "save it as DOCX, CSV or PDF first"),
    ("META-INF/MANIFEST.MF", "a Java archive", _READABLE),
)
_HTML_START = re.compile(
    rb"\s*(?:<\?xml[^>]{0,200}\?>\s*)?(?:<!--.{0,2000}?-->\s*)?<(?:!doctype\s+html|html)\b", re.I | re.S
)
_PDF_WITHIN = 1024
_SAMPLE_BYTES = 8192
_SHARE_OF_CONTROLS = 0.1
_CONTROLS = bytes(range(9)) + bytes(range(14, 27)) + bytes(range(28, 32)) + b"\x7f"


def recognise(source: Source) -> Format:
    """Return how to read a file.

    Raises:
        LoadError: `unsupported`, `encrypted` or `damaged`, saying what the file is.
    """
    head = source.data[:_SAMPLE_BYTES]
    if b"%PDF-" in head[:_PDF_WITHIN]:
        return "pdf"
    if head.startswith(_ZIP):
        return _packed(source)
    _refuse_binary(source, head)
    extension = suffix(source.name)
    marked = head.removeprefix(b"\xef\xbb\xbf")
    if extension not in CODE_SUFFIXES and _HTML_START.match(marked):
        return "html"
    if extension in (".pdf", ".docx"):
        raise LoadError(
            "damaged",
            f"{source.name!r} is called {extension} but its content is plain text: it may be cut off or an error page; "
            "get it again, or rename it to .txt if it is text",
        )
    return _by_name(source.name, extension)


def _by_name(name: str, extension: str) -> Format:
    if extension in CODE_SUFFIXES or name.rpartition("/")[2].lower() in _CODE_NAMES:
        return "code"
    return _BY_SUFFIX.get(extension, "text")


def _packed(source: Source) -> Format:
    try:
        with zipfile.ZipFile(io.BytesIO(source.data)) as archive:
            names = frozenset(archive.namelist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise LoadError(
            "damaged", f"{source.name!r} is a zip file (DOCX is one) that is broken: {error}; get it again"
        ) from error
    if "word/document.xml" in names:
        return "docx"
    what, advice = next(((w, a) for inner, w, a in _PACKED if inner in names), ("a zip archive", "unpack it first"))
    raise _unsupported(source, what, advice)


def _refuse_binary(source: Source, head: bytes) -> None:
    if head.startswith(_OLE):
        if _OLE_ENCRYPTED in source.data:
            raise LoadError(
                "encrypted",
                f"{source.name!r} is an Office document with a password; remove the password and try again",
            )
        raise _unsupported(source, "an old Office document (.doc, .xls, .ppt)", "save it as DOCX or PDF first")
    for magic, what, advice in _MAGIC:
        # Two letters may begin a text as well; the rest of a program is not text.
        if head.startswith(magic) and (len(magic) > 3 or _looks_binary(head)):
            raise _unsupported(source, what, advice)
    if head[4:8] == b"ftyp":
        raise _unsupported(source, "a video, audio or HEIF picture file", _READABLE)
    if head[257:262] == b"ustar":
        raise _unsupported(source, "a tar archive", "unpack it first")
    if _looks_binary(head):
        raise _unsupported(source, "binary data of no known kind", _READABLE)


def _looks_binary(head: bytes) -> bool:
    if head.startswith((b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")) or wide_encoding(head):
        return False
    controls = len(head) - len(head.translate(None, _CONTROLS))
    return controls > len(head) * _SHARE_OF_CONTROLS


def _unsupported(source: Source, what: str, advice: str) -> LoadError:
    return LoadError("unsupported", f"{source.name!r} is {what}; {advice}")

"""What reading a file may take, and how a file that can't be read is told of."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    # Half of the time that a reading process takes to start, and it needs none of it.
    from services.rag.settings import RagSettings

LoadCode = Literal[
    "bad_name",
    "crashed",
    "damaged",
    "empty",
    "encrypted",
    "scanned",
    "timed_out",
    "too_large",
    "unreadable",
    "unsafe",
    "unsupported",
]
LOAD_CODES: tuple[LoadCode, ...] = get_args(LoadCode)


class LoadError(Exception):
    """A file that can't be read: `code` for programs, `message` names the file, the cause and the next step."""

    def __init__(self, code: LoadCode, message: str) -> None:
        super().__init__(message)
        self.code: LoadCode = code
        self.message = message

    def __reduce__(self) -> tuple[type["LoadError"], tuple[LoadCode, str]]:
        return type(self), (self.code, self.message)


@dataclass(frozen=True)
class Limits:
    """Bounds for one file; where one is passed, the file is refused and the others go on.

    Args:
        max_bytes: of the file itself; what is packed in it (DOCX) may be eight times that.
        max_characters: of its text.
        max_pages: of a PDF.
        timeout_s: for reading and cutting it, without the time that embedding takes (semantic chunks).
        max_memory_bytes: address space of the process that reads it.
    """

    max_bytes: int = 64_000_000
    max_characters: int = 20_000_000
    max_pages: int = 5000
    timeout_s: float = 120
    max_memory_bytes: int = 2_048_000_000

    @classmethod
    def of(cls, settings: "RagSettings") -> "Limits":
        """Return the limits that the settings give."""
        return cls(
            max_bytes=settings.max_file_mb * 1_000_000,
            max_characters=settings.max_file_characters,
            max_pages=settings.max_file_pages,
            timeout_s=settings.file_timeout_s,
            max_memory_bytes=settings.reader_memory_mb * 1_000_000,
        )


def too_many_bytes(name: str, size: int, limits: Limits) -> LoadError:
    """Return the error of a file with too many bytes."""
    return LoadError(
        "too_large",
        f"{name!r} has {size / 1e6:,.1f} MB, more than the limit of {limits.max_bytes / 1e6:,.1f} MB; split it, or "
        "raise RAG_MAX_FILE_MB",
    )


def too_many_characters(name: str, characters: int, limits: Limits) -> LoadError:
    """Return the error of a file with too much text."""
    return LoadError(
        "too_large",
        f"{name!r} has {characters:,} characters of text or more, above the limit of {limits.max_characters:,}; split "
        "it, or raise RAG_MAX_FILE_CHARACTERS",
    )

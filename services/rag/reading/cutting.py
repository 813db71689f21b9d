"""One file to chunks, in whatever process this is called."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from services.rag.chunking import Embed, TokenCounter, chunk, tokenizer_counter
from services.rag.documents import Chunk
from services.rag.library import ChunkOptions
from services.rag.loading import Limits, LoadError, load


@dataclass(frozen=True)
class Cut:
    """What reading a file gives: the document's facts and its chunks.

    Args:
        characters: of its text, before it was cut.
        pages: of a PDF; None where the format has none.
    """

    title: str
    media_type: str
    characters: int
    pages: int | None
    metadata: Mapping[str, str | int | float] = field(default_factory=dict)
    chunks: tuple[Chunk, ...] = ()

    @property
    def tokens(self) -> int:
        """The tokens of all chunks, what overlaps counted twice."""
        return sum(each.tokens for each in self.chunks)


def read_and_cut(
    path: Path,
    name: str,
    options: ChunkOptions,
    limits: Limits,
    counter: TokenCounter | None = None,
    embed: Embed | None = None,
) -> Cut:
    """Return a file's chunks; takes as long as it takes, so call it where nobody waits: see `Readers`.

    Args:
        counter: of the embedding model's tokens; None for the default model's.

    Raises:
        LoadError
    """
    document = load(path, name, limits)
    chunks = chunk(document, options, counter or tokenizer_counter(), embed)
    if not chunks:
        raise LoadError("empty", f"{name!r} has no text in it; leave it out, or check how it was written")
    pages = document.metadata.get("pages") if document.media_type == "application/pdf" else None
    return Cut(
        document.title,
        document.media_type,
        document.characters,
        int(pages) if pages is not None else None,
        document.metadata,
        tuple(chunks),
    )

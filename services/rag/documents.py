"""What a file becomes on its way into the index: a document of blocks, then chunks, then points. Pure data."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

BlockKind = Literal["text", "heading", "code", "table"]
_POINTS = uuid.UUID("6b0f7c1e-2f0a-5c0e-9d5e-6a2f3d7c9b11")


@dataclass(frozen=True)
class Block:
    """A run of text of one kind, in reading order.

    Args:
        page: 1 for the first; None where the format has no pages.
        heading_path: the headings above it, outermost first; a heading's own text is the last of its path.
    """

    text: str
    kind: BlockKind = "text"
    page: int | None = None
    heading_path: tuple[str, ...] = ()


@dataclass(frozen=True)
class Document:
    """A file's text and what is known of it.

    Args:
        title: from its metadata or first heading, else its name.
        metadata: author, created, language and the like, as far as the file says.
    """

    title: str
    media_type: str
    blocks: tuple[Block, ...]
    metadata: Mapping[str, str | int | float] = field(default_factory=dict)

    @property
    def characters(self) -> int:
        """The length of its text."""
        return sum(len(block.text) for block in self.blocks)


@dataclass(frozen=True)
class Chunk:
    """A passage of a document: what is found, quoted and put into a prompt.

    Args:
        index: 0 for the document's first.
        text: as it stands in the document; what is quoted.
        context: title and heading path in one line; put before `text` for the vectors alone.
        tokens: of `text`, by the counter that the chunker was given.
        page: of its first character.
    """

    index: int
    text: str
    context: str
    tokens: int
    page: int | None = None
    heading_path: tuple[str, ...] = ()

    @property
    def indexed_text(self) -> str:
        """What the vectors are made of."""
        return f"{self.context}\n{self.text}" if self.context else self.text


def point_id(document_id: str, version: str, index: int) -> str:
    """Return the id of a chunk's point: the same for the same content, so that writing it twice leaves one."""
    return str(uuid.uuid5(_POINTS, f"{document_id}/{version}/{index}"))


def payload(
    chunk: Chunk, *, document_id: str, version: str, tenant: str, name: str, title: str, attributes: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what a chunk's point carries; `passage` reads it back.

    Args:
        version: of the document's content and of how it was cut; points of another version are stale.
        tenant: whose it is; searches in a private collection are bound to it.
        attributes: the user's own metadata, which filters may name.
    """
    return {
        "document_id": document_id,
        "version": version,
        "tenant": tenant,
        "name": name,
        "title": title,
        "index": chunk.index,
        "text": chunk.text,
        "context": chunk.context,
        "tokens": chunk.tokens,
        "page": chunk.page,
        "heading_path": list(chunk.heading_path),
        "attributes": dict(attributes),
    }


@dataclass(frozen=True)
class Passage:
    """A chunk that was found.

    Args:
        score: of the last step that scored; higher is better, comparable within one search.
        similarity: cosine of question and passage, −1 … 1; None where no dense vector was looked at.
    """

    id: str
    document_id: str
    name: str
    title: str
    index: int
    text: str
    context: str
    tokens: int
    score: float
    page: int | None = None
    heading_path: tuple[str, ...] = ()
    similarity: float | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)


def passage(point: str, score: float, carried: Mapping[str, Any], similarity: float | None = None) -> Passage:
    """Return what was found at a point, from the payload that `payload` wrote."""
    return Passage(
        id=point,
        document_id=carried["document_id"],
        name=carried["name"],
        title=carried["title"],
        index=carried["index"],
        text=carried["text"],
        context=carried["context"],
        tokens=carried["tokens"],
        score=score,
        page=carried["page"],
        heading_path=tuple(carried["heading_path"]),
        similarity=similarity,
        attributes=carried["attributes"],
    )

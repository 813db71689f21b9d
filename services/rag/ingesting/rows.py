"""A document's row: what is wanted of it, what of it is searchable, and what has become of it."""

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from services.rag.library import ChunkOptions, Collection

# Part of every version. A change of how files are read or cut makes what was indexed before it stale: count it up.
READING = 1
SHARED = "shared"
"""The tenant of documents that all callers see."""


@dataclass(frozen=True)
class DocumentRow:
    """One document, as the registry has it.

    Args:
        key: its identity beside collection and tenant.
        version: that is wanted; `live_version` is the one that is searchable, empty for none.
        generation: of the order that it is worked on for; what was begun for an older one is void.
        dirty: points of other versions than the live one may be in the store.
        chunks: of the live version.
    """

    seq: int
    collection: str
    id: str
    tenant: str
    key: str
    name: str
    file: str
    hash: str
    bytes: int
    attributes: Mapping[str, Any]
    chunking: ChunkOptions | None
    version: str
    live_version: str
    state: str
    generation: int
    dirty: bool
    chunks: int
    tokens: int
    characters: int
    title: str
    media_type: str
    error_code: str
    error: str
    created: int
    updated: int

    @property
    def status(self) -> str:
        """Its state in OpenAI's words."""
        return {
            "queued": "in_progress",
            "working": "in_progress",
            "ready": "completed",
            "failed": "failed",
        }.get(self.state, "cancelled")


def document_row(row: sqlite3.Row) -> DocumentRow:
    """Return a row of the table as what it means."""
    columns = dict(row)
    columns["attributes"] = json.loads(columns["attributes"])
    columns["chunking"] = chunk_options(columns["chunking"])
    columns["dirty"] = bool(columns["dirty"])
    return DocumentRow(**columns)


def chunk_options(text: str) -> ChunkOptions | None:
    """Return what `chunk_text` wrote."""
    return ChunkOptions(**json.loads(text)) if text else None


def chunk_text(options: ChunkOptions | None) -> str:
    """Return a way of being cut as it stands in a row."""
    return json.dumps(asdict(options)) if options else ""


def tenant_of(collection: Collection, caller: str) -> str:
    """Return whose documents a caller sees and writes there."""
    return caller if collection.visibility == "private" else SHARED


def version_of(
    collection: Collection, document: str, content: str, options: ChunkOptions | None, attributes: Mapping[str, Any]
) -> str:
    """Return the version of a document: the same for the same content, cut and embedded the same way.

    The document's own id is in it, so that what is stale of one document is never the version of another.
    """
    parts = [
        READING,
        document,
        content,
        asdict(options or collection.chunking),
        collection.embedding_model,
        sorted(attributes.items()),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]

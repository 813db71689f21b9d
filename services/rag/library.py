"""What the service knows of its collections: the port that retrieval and answers read them by."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from services.rag.vectors import Quantization

Visibility = Literal["shared", "private"]
Chunker = Literal["fixed", "sentence", "heading", "semantic"]


@dataclass(frozen=True)
class ChunkOptions:
    """How documents are cut."""

    chunker: Chunker = "heading"
    tokens: int = 200
    overlap_tokens: int = 40


@dataclass(frozen=True)
class Collection:
    """A named set of documents, which answers as the model `rag/<name>`.

    Args:
        id: of OpenAI's vector store (`vs_…`), and the name of its collection in the store.
        name: what people call it: letters, digits, `.`, `_` and `-`.
        owner: the caller who made it.
        visibility: shared: every caller sees every document; private: each their own alone, by the payload's tenant.
        embedding_model: fixed when it is made; its vectors can be compared with no other's.
        revision: grows with each change of its content; answers that were kept of another are stale.
        preset: how it retrieves, where a request doesn't say; empty for the service's.
        model: that answers, where a request doesn't say; empty for the service's.
    """

    id: str
    name: str
    owner: str
    embedding_model: str
    dimensions: int
    visibility: Visibility = "shared"
    chunking: ChunkOptions = field(default_factory=ChunkOptions)
    quantization: Quantization = "none"
    revision: int = 0
    created: int = 0
    preset: str = ""
    model: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)


class Library(Protocol):
    """The collections by name."""

    async def collection(self, name: str) -> Collection:
        """Return the collection of this name or id.

        Raises:
            CollectionNotFound: naming those that there are.
        """

    async def collections(self) -> list[Collection]:
        """Return all, the oldest first."""

    async def searchable(self) -> list[Collection]:
        """Return those with at least one document that can be found, the oldest first: each is a model `rag/<name>`."""

"""What the RAG service needs of others: vectors, reranking, generation. One file an adapter."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Caller:
    """Who asks, and what goes on with every inner call.

    Args:
        name: of the key at the gateway; the tenant of what it writes.
        headers: request id, trace, hops and on whose behalf: put on each request to the gateway and to embeddings.
    """

    name: str = "default"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class EmbeddingModel:
    """What the embeddings service says of one of its models."""

    id: str
    dimensions: int
    max_tokens: int


class Embedder(Protocol):
    """Texts to vectors."""

    async def model(self) -> EmbeddingModel:
        """Return the model in use; asked once, then remembered.

        Raises:
            EmbeddingsUnavailable
        """

    async def embed(self, texts: Sequence[str], caller: Caller | None = None) -> npt.NDArray[np.float32]:
        """Return `(n_texts, dimensions)` float32, L2-normalised.

        Raises:
            EmbeddingsUnavailable
        """


class Reranker(Protocol):
    """How well passages answer a question."""

    async def scores(self, query: str, documents: Sequence[str], caller: Caller | None = None) -> list[float]:
        """Return a score for each document, in their order; higher is better.

        Raises:
            EmbeddingsUnavailable
        """


@dataclass(frozen=True)
class Generated:
    """A whole answer of a model."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int


class Generator(Protocol):
    """A chat model behind the gateway."""

    async def generate(
        self, messages: Sequence[Mapping[str, Any]], caller: Caller, *, max_tokens: int, **options: Any
    ) -> Generated:
        """Return a whole answer.

        Raises:
            AppError: the gateway's own, as it came.
        """

    def stream(
        self, messages: Sequence[Mapping[str, Any]], caller: Caller, *, max_tokens: int, **options: Any
    ) -> AsyncIterator[dict[str, Any]]:
        """Yield the events of a streamed answer, usage last. Closing the iterator ends the answer upstream.

        Raises:
            AppError: the gateway's own, as it came.
        """

"""What computes: one file a way to compute, behind two ports.

Called from one worker thread a model, never from the event loop.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]


class BackendError(Exception):
    """A model can't be loaded or can't compute; the message says why and what to do."""


class EmbeddingBackend(Protocol):
    """A loaded model that makes vectors of texts.

    Args:
        dimensions: of a vector.
        max_tokens: of a text, special tokens included; a longer one is refused before it comes here.
    """

    dimensions: int
    max_tokens: int

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return each text's tokens, special tokens included, before any truncation."""

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return `(n_texts, dimensions)` float32, L2-normalised rows."""

    def close(self) -> None:
        """Give its memory back."""


class RerankBackend(Protocol):
    """A loaded model that says how well documents answer a query."""

    max_tokens: int

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return each text's tokens, special tokens included, before any truncation."""

    def score(self, query: str, documents: Sequence[str]) -> Vectors:
        """Return `(n_documents,)` float32: higher is better; comparable within one query alone."""

    def close(self) -> None:
        """Give its memory back."""

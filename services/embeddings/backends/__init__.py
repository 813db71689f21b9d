"""What computes: one file a way to compute, behind two ports; and the tokenizer before them.

A backend is called from one worker thread a model, never from the event loop. The tokenizer is another object than the
backend's own, so that texts are counted while a batch is computed, and before the model has been loaded.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]


class BackendError(Exception):
    """A model can't be loaded or can't compute; the message says why and what to do."""


class Tokeniser(Protocol):
    """Counts and cuts texts as the model will read them. Called from several threads at once."""

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return each text's tokens, special tokens included, before any truncation."""

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Return a text's token numbers, with the special tokens around them or without."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of token numbers, special tokens left out.

        Raises:
            ValueError: a number is not in the vocabulary; the message says which.
        """

    def cut(self, text: str, most_tokens: int) -> str:
        """Return the beginning of a text that has at most `most_tokens`, special tokens included."""


class EmbeddingBackend(Protocol):
    """A loaded model that makes vectors of texts.

    Args:
        dimensions: of a vector.
        max_tokens: of a text, special tokens included; a longer one is refused before it comes here.
    """

    dimensions: int
    max_tokens: int

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return `(n_texts, dimensions)` float32, L2-normalised rows."""

    def close(self) -> None:
        """Give its memory back."""


class RerankBackend(Protocol):
    """A loaded model that says how well documents answer a query."""

    max_tokens: int

    def score(self, query: str, documents: Sequence[str]) -> Vectors:
        """Return `(n_documents,)` float32: higher is better; comparable within one query alone."""

    def close(self) -> None:
        """Give its memory back."""


Backend = EmbeddingBackend | RerankBackend

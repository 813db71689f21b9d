"""A model of no weights: vectors and scores follow from the words alone. For tests, and to measure all but the model.

Texts that share words have similar vectors, the same text has the same vector, and a token takes as long as is said.
"""

import hashlib
import time
from collections.abc import Callable, Sequence

import numpy as np

from services.embeddings.backends import Vectors

_VOCABULARY = 32_768
_AROUND = 2


class DummyTokeniser:
    """Splits at white space; two special tokens stand around each text."""

    def count(self, texts: Sequence[str]) -> list[int]:
        """Return each text's words plus two."""
        return [len(text.split()) + _AROUND for text in texts]

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Return the words' numbers: a hash of each, from 2 on."""
        words = [2 + _seed(word) % (_VOCABULARY - 2) for word in text.split()]
        return [0, *words, 1] if special else words

    def decode(self, tokens: Sequence[int]) -> str:
        """Return a word for each number: hashes can't be turned back.

        Raises:
            ValueError: a number is not in the vocabulary.
        """
        for token in tokens:
            if not 0 <= token < _VOCABULARY:
                raise ValueError(f"token {token} is not in the vocabulary of {_VOCABULARY}")
        return " ".join(f"t{token}" for token in tokens if token >= _AROUND)

    def cut(self, text: str, most_tokens: int) -> str:
        """Return the first words."""
        return " ".join(text.split()[: max(0, most_tokens - _AROUND)])


class DummyBackend:
    """Embeds and reranks by shared words.

    Args:
        seconds_per_token: how long computing takes.
        before: called with the texts of each batch before it is computed; may wait, or raise.
    """

    def __init__(
        self,
        *,
        dimensions: int = 8,
        max_tokens: int = 64,
        seconds_per_token: float = 0.0,
        before: Callable[[Sequence[str]], None] = lambda _texts: None,
    ) -> None:
        self.dimensions = dimensions
        self.max_tokens = max_tokens
        self.closed = False
        self._seconds_per_token = seconds_per_token
        self._before = before

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return the normalised sum of a random vector for each word and of one that all texts share."""
        self._work(texts)
        rows = np.stack([self._vector(text) for text in texts])
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)

    def score(self, query: str, documents: Sequence[str]) -> Vectors:
        """Return the share of the query's words that a document has."""
        self._work(documents)
        asked = set(query.lower().split())
        shares = [len(asked & set(text.lower().split())) / max(1, len(asked)) for text in documents]
        return np.array(shares, dtype=np.float32)

    def close(self) -> None:
        """Remember that it was closed."""
        self.closed = True

    def _work(self, texts: Sequence[str]) -> None:
        self._before(texts)
        if self._seconds_per_token:
            time.sleep(self._seconds_per_token * sum(len(text.split()) + _AROUND for text in texts))

    def _vector(self, text: str) -> Vectors:
        vector = np.zeros(self.dimensions, dtype=np.float32)
        for word in ("", *text.lower().split()):
            vector += np.random.default_rng(_seed(word)).normal(size=self.dimensions)
        return vector


def _seed(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")

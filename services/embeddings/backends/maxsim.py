"""Late-interaction reranking with an embedding model: each word of the query looks for its like in the document.

An embedding model makes a vector of each token before it averages them. Kept apart, they answer what the average
blurs: for each token of the query the cosine to its most similar token of the document. A token's weight in the mean
of these is the square of its vector's length, by which the network itself says how much it should count. The score is
the mean of that and of the cosine of the averages.
Source: ColBERT (Khattab and Zaharia, 2020), whose vectors come of a network trained for it; here they come of one
that was trained for its average alone, so expect less of it than of a cross-encoder.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from services.embeddings.backends import Vectors
from services.embeddings.backends.network import OnnxNetwork, batches, normalised

TokenVectors = npt.NDArray[np.float16]
"""`(1 + tokens, dimensions)`: of the whole text, then of each token; L2-normalised. In 2 bytes a number, of which the
cache holds twice as many as of float32."""


@dataclass(frozen=True)
class _Window:
    """A part of a text that the network takes in one go, with the special tokens around it."""

    ids: list[int]
    type_ids: list[int]


class MaxSim:
    """A reranker over the token vectors of an embedding network.

    Nothing is cut off: a document longer than `max_tokens` is read in windows, and a query token finds its like in
    any of them. Scores are means of cosines, so they lie in -1…1; a document equal to the query has 1.

    Args:
        network: whose output is `(batch, tokens, dimensions)`.
        max_tokens: of one window, special tokens included.
        batch_tokens: that are computed at once, padding included.
        cache_bytes: for the vectors of documents that come again (0: none are kept).
    """

    def __init__(
        self, network: OnnxNetwork, *, max_tokens: int = 256, batch_tokens: int = 4096, cache_bytes: int = 0
    ) -> None:
        self.max_tokens = max_tokens
        self._network = network
        self._batch_tokens = batch_tokens
        self.cache = TokenCache(cache_bytes)
        self._around = tuple(network.tokenizer.encode("").ids)
        self._last_query: tuple[str, Vectors, Vectors] = ("", *self._read_query(""))

    def score(self, query: str, documents: Sequence[str]) -> Vectors:
        """Return `(n_documents,)` float32 in -1…1; see the module's first lines for what it is."""
        if not documents:
            return np.zeros(0, dtype=np.float32)
        asked, weights = self._query(query)
        found = self.cache.get_all(documents, self._documents)
        # One product for all documents. Of each one's columns the first is of the whole text; of the others, the best.
        starts = np.cumsum([0, *(len(each) for each in found[:-1])])
        cosines = asked @ np.concatenate(found).astype(np.float32).T
        best = np.maximum.reduceat(cosines[1:], np.stack((starts, starts + 1), axis=1).ravel(), axis=1)[:, 1::2]
        return np.asarray(np.clip((weights @ best + cosines[0, starts]) / 2, -1, 1), dtype=np.float32)

    def close(self) -> None:
        """Give its memory back."""
        self.cache.clear()
        self._network.close()

    def _query(self, query: str) -> tuple[Vectors, Vectors]:
        """Return what `_read_query` does; the documents of one request come in several batches, mostly in a row."""
        if self._last_query[0] != query:
            self._last_query = (query, *self._read_query(query))
        return self._last_query[1:]

    def _read_query(self, query: str) -> tuple[Vectors, Vectors]:
        """Return the query's vectors, the whole one first, and the weights of its tokens, which add up to 1."""
        (states,) = self._states([query])
        weights = np.square(states).sum(axis=1)
        vectors = normalised(np.concatenate((states.mean(axis=0, keepdims=True), states)))
        return vectors, np.asarray(weights / weights.sum(), dtype=np.float32)

    def _documents(self, texts: Sequence[str]) -> list[TokenVectors]:
        return [
            normalised(np.concatenate((states.mean(axis=0, keepdims=True), states))).astype(np.float16)
            for states in self._states(texts)
        ]

    def _states(self, texts: Sequence[str]) -> list[Vectors]:
        """Return what the network says of each text's tokens, the special ones of each window included."""
        windows: list[_Window] = []
        owners: list[int] = []
        encoded = self._network.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        for owner, encoding in enumerate(encoded):
            cut = self._windows(encoding.ids)
            windows += cut
            owners += [owner] * len(cut)
        parts: dict[int, Vectors] = {}
        for chosen in batches([len(window.ids) for window in windows], self._batch_tokens):
            found = self._network.run([windows[index] for index in chosen])
            parts |= {index: found[row, : len(windows[index].ids)] for row, index in enumerate(chosen)}
        grouped: list[list[Vectors]] = [[] for _ in texts]
        for index, owner in enumerate(owners):
            grouped[owner].append(parts[index])
        return [np.concatenate(group) for group in grouped]

    def _windows(self, ids: list[int]) -> list[_Window]:
        size = self.max_tokens - len(self._around)
        pieces = [ids[start : start + size] for start in range(0, len(ids), size)] or [[]]
        return [_Window([self._around[0], *piece, self._around[-1]], [0] * (len(piece) + 2)) for piece in pieces]


class TokenCache:
    """The token vectors of documents that were scored last, by the documents' content, within a bound of bytes."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.held_bytes = 0
        self._held: OrderedDict[bytes, TokenVectors] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def get_all(
        self, texts: Sequence[str], compute: Callable[[Sequence[str]], list[TokenVectors]]
    ) -> list[TokenVectors]:
        """Return the vectors of each text; those that are not held are computed in one call, each once."""
        keys = [hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest() for text in texts]
        found: dict[bytes, TokenVectors] = {}
        missing: dict[bytes, str] = {}
        for key, text in zip(keys, texts, strict=True):
            if key in self._held:
                self._held.move_to_end(key)
                found[key] = self._held[key]
            else:
                missing[key] = text
        if missing:
            for key, vectors in zip(missing, compute(list(missing.values())), strict=True):
                found[key] = vectors
                self._keep(key, vectors)
        return [found[key] for key in keys]

    def _keep(self, key: bytes, vectors: TokenVectors) -> None:
        if vectors.nbytes > self.most_bytes:
            return
        self._held[key] = vectors
        self.held_bytes += vectors.nbytes
        while self.held_bytes > self.most_bytes:
            _key, dropped = self._held.popitem(last=False)
            self.held_bytes -= dropped.nbytes

    def clear(self) -> None:
        """Forget all."""
        self._held.clear()
        self.held_bytes = 0

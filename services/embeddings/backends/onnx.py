"""Embedding models by ONNX Runtime on the CPU: mean of the token vectors, then norm 1."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from services.embeddings.backends import Vectors
from services.embeddings.backends.network import OnnxNetwork, batches, normalised


class OnnxEmbeddings:
    """An embedding model whose network gives a vector of each token.

    Args:
        network: whose output is `(batch, tokens, dimensions)`.
        max_tokens: of a text, special tokens included; what is behind them is not read.
        batch_tokens: that are computed at once, padding included.
    """

    def __init__(
        self, network: OnnxNetwork, *, dimensions: int, max_tokens: int = 256, batch_tokens: int = 1024
    ) -> None:
        self.dimensions = dimensions
        self.max_tokens = max_tokens
        self._batch_tokens = batch_tokens
        self._network = network
        self._network.tokenizer.enable_truncation(max_tokens)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return `(n_texts, dimensions)` float32, L2-normalised rows."""
        vectors = np.empty((len(texts), self.dimensions), dtype=np.float32)
        encodings = self._network.tokenizer.encode_batch_fast(list(texts))
        lengths = [len(each.ids) for each in encodings]
        for chosen in batches(lengths, self._batch_tokens):
            states = self._network.run([encodings[index] for index in chosen])
            vectors[chosen] = _means(states, np.array([lengths[index] for index in chosen]))
        return normalised(vectors)

    def close(self) -> None:
        """Give its memory back."""
        self._network.close()


def _means(states: Vectors, lengths: npt.NDArray[np.int64]) -> Vectors:
    """Return the mean of each text's own token vectors, `(batch, dimensions)`; padding has weight 0."""
    own = np.arange(states.shape[1]) < lengths[:, None]
    weights = (own / lengths[:, None]).astype(np.float32)
    return np.asarray(np.matmul(weights[:, None, :], states)[:, 0, :], dtype=np.float32)

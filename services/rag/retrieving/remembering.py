"""An embedder that remembers the last questions: the semantic cache and the search want the same vector."""

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from services.rag.ports import Caller, Embedder, EmbeddingModel

_REMEMBERED = 256


class RememberingEmbedder:
    """Passes on what it does not remember; single texts alone are remembered."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._vectors: OrderedDict[str, npt.NDArray[np.float32]] = OrderedDict()

    async def model(self) -> EmbeddingModel:
        """Return the model in use."""
        return await self._embedder.model()

    async def embed(self, texts: Sequence[str], caller: Caller | None = None) -> npt.NDArray[np.float32]:
        """Return `(n_texts, dimensions)` float32, L2-normalised."""
        if len(texts) != 1:
            return await self._embedder.embed(texts, caller)
        known = self._vectors.get(texts[0])
        if known is None:
            known = self._vectors[texts[0]] = await self._embedder.embed(texts, caller)
            while len(self._vectors) > _REMEMBERED:
                self._vectors.popitem(last=False)
        return known

"""BM25 weights of texts, the same for every store: Qdrant's own encoder, which needs no model and no network.

A text's words (letters and digits; lower-cased, without stop words, stemmed) are hashed to 31-bit numbers. A document's
weight of a term is `tf (k + 1) / (tf + k (1 - b + b length / average))`; a query's is 1. The store multiplies by IDF.

Source: S. Robertson, H. Zaragoza, The Probabilistic Relevance Framework: BM25 and Beyond, 2009.
"""

import numpy as np
import qdrant_edge

from services.rag.vectors import SparseVector

# Of a chunk of 200 model tokens, without stop words. It is part of what is stored: another value is another encoder.
_AVERAGE_TERMS = 96.0
_K, _B = 1.2, 0.75


class Bm25:
    """Encodes texts.

    Args:
        language: whose stop words and stems are used (`english`, `german`, …); `none` for neither, as for code.

    Raises:
        ValueError: a language that it doesn't know.
    """

    def __init__(self, language: str = "english") -> None:
        if language == "none":
            config = qdrant_edge.Bm25Config(
                k=_K,
                b=_B,
                avg_len=_AVERAGE_TERMS,
                stopwords=qdrant_edge.StopwordsSet(),
                stemmer=qdrant_edge.DisabledStemmer(),
            )
        else:
            config = qdrant_edge.Bm25Config(k=_K, b=_B, avg_len=_AVERAGE_TERMS, language=language)
        self._encoder = qdrant_edge.Bm25(config)

    def document(self, text: str) -> SparseVector:
        """Return the weights of a text that is stored; no terms where it has none but stop words."""
        return _sparse(self._encoder.embed_document(text))

    def query(self, text: str) -> SparseVector:
        """Return the terms of a question, each with weight 1."""
        return _sparse(self._encoder.embed_query(text))


def _sparse(found: qdrant_edge.SparseVector) -> SparseVector:
    return SparseVector(np.array(found.indices, dtype=np.uint32), np.array(found.values, dtype=np.float32))

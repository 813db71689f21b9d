"""Answers as bytes. Vectors are written by hand: an object a number is what makes embeddings servers slow."""

import binascii
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import numpy as np

from services.embeddings.backends import Vectors
from services.embeddings.catalogue import Card


def shortened(vectors: Vectors, dimensions: int) -> Vectors:
    """Return the first dimensions of each vector, with norm 1 again; float32, rows in C order, little-endian."""
    if dimensions < vectors.shape[1]:
        vectors = vectors[:, :dimensions]
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return np.ascontiguousarray(vectors, dtype="<f4")


def embeddings_answer(model: str, vectors: Vectors, tokens: int, *, base64: bool) -> bytes:
    """Return OpenAI's `CreateEmbeddingResponse` as JSON.

    Args:
        vectors: `(n_texts, dimensions)` as `shortened` returns them.
        base64: each vector as the base64 of its float32 bytes, little-endian, instead of a list of numbers.
    """
    rows = _base64_rows(vectors) if base64 else _number_rows(vectors)
    items = b",".join(
        b'{"object":"embedding","index":%d,"embedding":%b}' % (index, row) for index, row in enumerate(rows)
    )
    end = b'],"model":%b,"usage":{"prompt_tokens":%d,"total_tokens":%d}}'
    return b'{"object":"list","data":[' + items + end % (msgspec.json.encode(model), tokens, tokens)


def _base64_rows(vectors: Vectors) -> Iterable[bytes]:
    return (b'"%b"' % binascii.b2a_base64(row.data, newline=False) for row in vectors)


def _number_rows(vectors: Vectors) -> Iterable[bytes]:
    return (msgspec.json.encode(row.tolist()) for row in vectors)


def rerank_answer(
    answer_id: str,
    card: Card,
    scores: Vectors,
    documents: Sequence[str],
    tokens: int,
    *,
    top_n: int | None,
    return_documents: bool,
    cut: Sequence[int],
) -> bytes:
    """Return the documents' scores, the best first, as JSON; of equal ones the earlier document first.

    Args:
        cut: indexes of the documents whose end was not read; named in `meta.warnings`.
    """
    order = np.argsort(-scores, kind="stable")[:top_n].tolist()
    results: list[dict[str, Any]] = [{"index": index, "relevance_score": float(scores[index])} for index in order]
    if return_documents:
        for result in results:
            result["document"] = {"text": documents[result["index"]]}
    body: dict[str, Any] = {
        "id": answer_id,
        "object": "rerank",
        "model": card.id,
        "results": results,
        "usage": {"total_tokens": tokens},
    }
    if cut:
        some = ", ".join(map(str, cut[:20])) + (", …" if len(cut) > 20 else "")
        body["meta"] = {"warnings": [f"{len(cut)} documents are too long, their ends were not read: {some}"]}
    return msgspec.json.encode(body)


def model_document(card: Card, *, default: bool, created: int) -> dict[str, Any]:
    """Return a model as `GET /v1/models` lists it."""
    return {
        "id": card.id,
        "object": "model",
        "created": created,
        "owned_by": "sparkstack",
        "sparkstack": {
            "capabilities": [card.capability],
            "context_tokens": card.context_tokens,
            "dimensions": card.dimensions or None,
            "family": card.family,
            "aliases": list(card.aliases),
            "licence": card.licence,
            "default": default,
        },
    }

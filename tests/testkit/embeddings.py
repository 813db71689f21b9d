"""Embeddings that depend on the text alone: L2-normalised, equal texts have equal vectors."""

import base64
import hashlib
import math
import random
import struct
from typing import Any

from tests.testkit.answers import BadRequest
from tests.testkit.tokens import split_tokens


def embed(text: str, dimensions: int) -> list[float]:
    """Return the vector of a text, `(dimensions,)` with norm 1."""
    dice = random.Random(hashlib.blake2b(text.encode(), digest_size=8).digest())
    raw = [dice.gauss(0, 1) for _ in range(dimensions)]
    norm = math.sqrt(sum(value * value for value in raw))
    return [value / norm for value in raw]


def embeddings_document(body: dict[str, Any], model: str, default_dimensions: int, *, usage: bool) -> dict[str, Any]:
    """Return the answer of `/v1/embeddings`.

    Raises:
        BadRequest: a 400 with its message.
    """
    texts = _texts(body.get("input"))
    dimensions = body.get("dimensions") or default_dimensions
    if not isinstance(dimensions, int) or not 1 <= dimensions <= 4096:
        raise BadRequest(f"dimensions must be a whole number from 1 to 4096, not {dimensions!r}")
    wanted = body.get("encoding_format") or "float"
    if wanted not in ("float", "base64"):
        raise BadRequest(f"encoding_format must be float or base64, not {wanted!r}")
    vectors: list[Any] = [embed(text, dimensions) for text in texts]
    if wanted == "base64":
        vectors = [base64.b64encode(struct.pack(f"<{dimensions}f", *vector)).decode() for vector in vectors]
    data = [{"object": "embedding", "index": index, "embedding": each} for index, each in enumerate(vectors)]
    document: dict[str, Any] = {"object": "list", "model": model, "data": data}
    if usage:
        tokens = sum(len(split_tokens(text)) for text in texts)
        document["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
    return document


def _texts(given: Any) -> list[str]:
    if isinstance(given, str):
        given = [given]
    if not isinstance(given, list) or not given:
        raise BadRequest("'input' is required: a string, a list of strings, or token numbers")
    if all(isinstance(each, int) for each in given):
        given = [given]
    texts = [each if isinstance(each, str) else f"tokens {each}" for each in given]
    if not all(texts):
        raise BadRequest("'input' must not be an empty text")
    return texts

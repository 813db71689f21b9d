"""The embeddings service over HTTP, as the monitor asks it: a few texts at a time, and never impatiently."""

import base64
from collections.abc import Sequence

import httpx
import msgspec

from services.kit import tracing

_CONNECT_S = 5.0
_ANSWER_S = 60.0
_CHARACTERS = 8000
"""A model reads the beginning of a long text alone."""


class EmbeddingsFailed(Exception):
    """No vectors came; the message says why."""


class _Row(msgspec.Struct):
    index: int
    embedding: str


class _Rows(msgspec.Struct):
    data: list[_Row]


class _Model(msgspec.Struct):
    id: str
    sparkstack: dict[str, object] = msgspec.field(default_factory=dict)


class _Models(msgspec.Struct):
    data: list[_Model]


class HttpEmbedder:
    """OpenAI's `/v1/embeddings`, by the service's default model."""

    def __init__(self, url: str, key: str = "") -> None:
        self._url = url.rstrip("/")
        headers = {"authorization": f"Bearer {key}"} if key else {}
        timeout = httpx.Timeout(_ANSWER_S, connect=_CONNECT_S)
        self._client = httpx.AsyncClient(headers=headers, timeout=timeout, trust_env=False)
        self._model = ""

    async def embed(self, texts: Sequence[str]) -> list[bytes]:
        """Return a vector for each text: float32, little-endian, L2-normalised; empty for an empty text.

        Raises:
            EmbeddingsFailed
        """
        asked = [(place, text[:_CHARACTERS]) for place, text in enumerate(texts) if text.strip()]
        vectors = [b""] * len(texts)
        if not asked:
            return vectors
        try:
            model = await self._default_model()
            body = {
                "model": model,
                "input": [text for _, text in asked],
                "encoding_format": "base64",
                "truncate": True,
            }
            answer = await self._ask("POST", "/v1/embeddings", msgspec.json.encode(body))
            rows = msgspec.json.decode(answer, type=_Rows).data
            for row in rows:
                vectors[asked[row.index][0]] = base64.b64decode(row.embedding)
        except (httpx.HTTPError, msgspec.DecodeError, IndexError, ValueError) as error:
            reason = str(error) or type(error).__name__
            raise EmbeddingsFailed(f"the embeddings service at {self._url} gave no vectors: {reason}") from None
        return vectors

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _default_model(self) -> str:
        if not self._model:
            listed = msgspec.json.decode(await self._ask("GET", "/v1/models"), type=_Models).data
            able = [each for each in listed if _embeds(each)]
            chosen = [each for each in able if each.sparkstack.get("default")] or able
            if not chosen:
                raise EmbeddingsFailed(f"the embeddings service at {self._url} has no model for embeddings")
            self._model = chosen[0].id
        return self._model

    async def _ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        headers = dict(tracing.outgoing_headers())
        if body is not None:
            headers["content-type"] = "application/json"
        response = await self._client.request(method, self._url + path, content=body, headers=headers)
        if response.status_code == 404:
            self._model = ""  # it was another one's yesterday
        response.raise_for_status()
        return response.content


def _embeds(model: _Model) -> bool:
    capabilities = model.sparkstack.get("capabilities")
    return not isinstance(capabilities, list) or "embeddings" in capabilities

"""The embeddings service over HTTP: texts to vectors in base64, and which model makes them."""

import asyncio
import base64
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp
import msgspec
import numpy as np
import numpy.typing as npt

from services.kit import genai, tracing
from services.kit.errors import InvalidRequest
from services.rag.errors import EmbeddingsUnavailable
from services.rag.ports import Caller, EmbeddingModel

_CONNECT_S = 5.0
_READ_IDLE_S = 120.0
_PATIENCE_S = 15.0
_TRIES_AT_A_FULL_DOOR = 5
# What a model whose description says nothing of its length takes: the length of BERT's position table.
_USUAL_MAX_TOKENS = 512


class _Embedding(msgspec.Struct):
    index: int
    embedding: str | list[float]


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0


class _Embeddings(msgspec.Struct):
    data: list[_Embedding]
    usage: _Usage | None = None


class _Model(msgspec.Struct):
    id: str
    sparkstack: dict[str, Any] = msgspec.field(default_factory=dict)


class _Models(msgspec.Struct):
    data: list[_Model]


class _Failure(Exception):
    """The service answered with a status that is no success."""

    def __init__(self, status: int, message: str, retry_after_s: float | None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s


class HttpEmbedder:
    """OpenAI's `/v1/embeddings` behind the port.

    Args:
        model: to use; empty for the one that the service calls its default.
    """

    def __init__(self, url: str, key: str = "", model: str = "") -> None:
        self._url = url.rstrip("/")
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._wanted = model
        self._model: EmbeddingModel | None = None
        self._client: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Make the pool of connections."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=_READ_IDLE_S)
        self._client = aiohttp.ClientSession(timeout=timeout, headers=self._headers, trust_env=False)

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()

    async def model(self) -> EmbeddingModel:
        """Return the model in use; asked once, then remembered.

        Raises:
            EmbeddingsUnavailable
        """
        if self._model is None:
            self._model = await self._ask_for_model()
        return self._model

    async def embed(self, texts: Sequence[str], caller: Caller | None = None) -> npt.NDArray[np.float32]:
        """Return `(n_texts, dimensions)` float32, L2-normalised. A full service is waited for, for some seconds.

        Raises:
            EmbeddingsUnavailable
            InvalidRequest: it refuses a text; trying again would not help.
        """
        model = await self.model()
        if not texts:
            return np.zeros((0, model.dimensions), np.float32)
        # A passage with its headings may be a little longer than the model takes: its end is in the text, and found by
        # its words, all the same.
        asked = {"model": model.id, "input": list(texts), "encoding_format": "base64", "truncate": True}
        body = msgspec.json.encode(asked)
        about = {**genai.request("embeddings", model.id), genai.ROLE: "EMBEDDING", "rag.texts": len(texts)}
        with tracing.client_span(genai.name_of("embeddings", model.id), about) as span:
            answer = await self._patiently("/v1/embeddings", body, caller.headers if caller else {})
            read = msgspec.json.decode(answer, type=_Embeddings)
            span.set({genai.DIMENSIONS: model.dimensions, **genai.usage(read.usage.prompt_tokens if read.usage else 0)})
        rows = sorted(read.data, key=lambda row: row.index)
        vectors = np.stack([_vector(row.embedding) for row in rows])
        if vectors.shape != (len(texts), model.dimensions):
            raise EmbeddingsUnavailable(
                f"the embeddings service answered {vectors.shape[0]} vectors of {vectors.shape[1]} numbers to "
                f"{len(texts)} texts; {model.id} has {model.dimensions}. Another model runs at {self._url}?"
            )
        return vectors

    async def answers(self) -> str:
        """Return `ok`, or a sentence on what is wrong with the service."""
        try:
            await self._once("GET", "/v1/models", b"", {})
        except (_Failure, aiohttp.ClientError, TimeoutError) as error:
            return self._unreachable(error)
        return "ok"

    async def _ask_for_model(self) -> EmbeddingModel:
        answer = await self._patiently("/v1/models", b"", {})
        listed = [each for each in msgspec.json.decode(answer, type=_Models).data if _embeds(each)]
        named = [each for each in listed if self._wanted in (each.id, *each.sparkstack.get("aliases", ()))]
        default = [each for each in listed if each.sparkstack.get("default")] or listed
        found = (named if self._wanted else default)[:1]
        if not found:
            there = ", ".join(each.id for each in listed) or "no embedding model"
            raise EmbeddingsUnavailable(
                f"the embeddings service at {self._url} has {there}, not {self._wanted or 'a default'}; "
                "set RAG_EMBEDDING_MODEL to one that it has",
                retry_after_s=5,
            )
        about = found[0].sparkstack
        dimensions = about.get("dimensions") or await self._measure(found[0].id)
        return EmbeddingModel(found[0].id, int(dimensions), int(about.get("context_tokens") or _USUAL_MAX_TOKENS))

    async def _measure(self, model: str) -> int:
        """Return the dimensions of a model whose server doesn't say them."""
        body = msgspec.json.encode({"model": model, "input": ["dimensions"], "encoding_format": "base64"})
        answer = await self._patiently("/v1/embeddings", body, {})
        return len(_vector(msgspec.json.decode(answer, type=_Embeddings).data[0].embedding))

    async def _patiently(self, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        """Ask; where the service is full, as often and as late as it says."""
        waited_s = 0.0
        for _ in range(_TRIES_AT_A_FULL_DOOR):
            try:
                return await self._with_a_fresh_socket(path, body, headers)
            except _Failure as failure:
                pause_s = failure.retry_after_s if failure.retry_after_s is not None else 1.0
                if failure.status != 429 or waited_s + pause_s > _PATIENCE_S:
                    raise self._explained(failure) from None
                waited_s += pause_s
                await asyncio.sleep(pause_s)
            except (aiohttp.ClientError, TimeoutError) as error:
                raise EmbeddingsUnavailable(self._unreachable(error), retry_after_s=2) from None
        raise EmbeddingsUnavailable(f"the embeddings service at {self._url} is full", retry_after_s=5)

    async def _with_a_fresh_socket(self, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        """Ask, and once again where the connection was lost: a kept one may have been closed meanwhile."""
        method = "POST" if body else "GET"
        try:
            return await self._once(method, path, body, headers)
        except (aiohttp.ClientConnectionError, ConnectionError) as error:
            if isinstance(error, TimeoutError):
                raise
            return await self._once(method, path, body, headers)

    async def _once(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        assert self._client is not None, "open() comes first"
        about = {**headers, **tracing.outgoing_headers()}
        if body:
            about["content-type"] = "application/json"
        async with self._client.request(method, self._url + path, data=body or None, headers=about) as response:
            answer = await response.read()
            if response.status >= 400:
                raise _Failure(response.status, _message(answer), _seconds(response.headers.get("retry-after")))
            return answer

    def _explained(self, failure: _Failure) -> Exception:
        if failure.status in (401, 403):
            return EmbeddingsUnavailable(
                f"the embeddings service at {self._url} refuses the key; set RAG_EMBEDDINGS_KEY to its own"
            )
        if failure.status in (400, 413, 422):
            return InvalidRequest(f"the embeddings service refuses the text: {failure}")
        return EmbeddingsUnavailable(
            f"the embeddings service at {self._url} answers {failure.status}: {failure}",
            retry_after_s=failure.retry_after_s or 2,
        )

    def _unreachable(self, error: BaseException) -> str:
        return (
            f"the embeddings service at {self._url} does not answer ({str(error) or type(error).__name__}); "
            "`sparkstack status` shows it"
        )


def _embeds(model: _Model) -> bool:
    capabilities = model.sparkstack.get("capabilities")
    return capabilities is None or "embeddings" in capabilities


def _vector(given: str | list[float]) -> npt.NDArray[np.float32]:
    if isinstance(given, str):
        return np.frombuffer(base64.b64decode(given), dtype="<f4").astype(np.float32)
    return np.asarray(given, np.float32)


def _message(answer: bytes) -> str:
    try:
        return str(msgspec.json.decode(answer)["error"]["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return answer[:200].decode(errors="replace")


def _seconds(given: str | None) -> float | None:
    try:
        return max(0.0, float(given)) if given else None
    except ValueError:
        return None

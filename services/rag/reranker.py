"""The embeddings service's `/v1/rerank`."""

import asyncio
from collections.abc import Sequence
from typing import Any

import aiohttp
import msgspec

from services.kit import genai, tracing
from services.kit.errors import EngineInvalidResponse
from services.kit.tracing import Value
from services.rag.errors import EmbeddingsUnavailable
from services.rag.ports import Caller

_CONNECT_S = 5.0
_ANSWER_S = 60.0
_LOST = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, ConnectionError)


class HttpReranker:
    """Scores by a reranking model.

    Args:
        url: of the embeddings service, without a path.
        key: that it wants; empty for none.
        model: empty for the service's default, which `GET /v1/models` names.
    """

    def __init__(self, url: str, key: str, model: str = "") -> None:
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._model = model
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()

    async def scores(self, query: str, documents: Sequence[str], caller: Caller | None = None) -> list[float]:
        """Return a score for each document, in their order; higher is better.

        Raises:
            EmbeddingsUnavailable: it can't be reached, is busy, or has no reranking model.
            EngineInvalidResponse: its answer is not what the protocol says.
        """
        if not documents:
            return []
        model = await self._model_id(caller)
        body = msgspec.json.encode(
            {"model": model, "query": query, "documents": list(documents), "return_documents": False}
        )
        about: dict[str, Value] = {genai.REQUEST_MODEL: model, genai.ROLE: "RERANKER", "rag.documents": len(documents)}
        with tracing.client_span(f"rerank {model}", about):
            answer = await self._ask("POST", "/v1/rerank", body, caller)
        try:
            scores: list[float | None] = [None] * len(documents)
            for result in answer["results"]:
                scores[result["index"]] = float(result["relevance_score"])
        except (KeyError, TypeError, IndexError, ValueError):
            raise EngineInvalidResponse("the answer of /v1/rerank has no results with index and score") from None
        if None in scores:
            raise EngineInvalidResponse(f"/v1/rerank scored {len(documents) - scores.count(None)} of {len(documents)}")
        return [score for score in scores if score is not None]

    async def _model_id(self, caller: Caller | None) -> str:
        if not self._model:
            listed = await self._ask("GET", "/v1/models", None, caller)
            models = [
                (not own.get("default", False), str(each.get("id")))
                for each in listed.get("data", [])
                if "rerank" in (own := each.get("sparkstack") or {}).get("capabilities", ())
            ]
            if not models:
                raise EmbeddingsUnavailable(f"the embeddings service at {self._url} has no model that reranks")
            self._model = min(models)[1]
        return self._model

    async def _ask(self, method: str, path: str, body: bytes | None, caller: Caller | None) -> dict[str, Any]:
        given = {**(caller.headers if caller else {}), **tracing.outgoing_headers()}
        headers = {"Content-Type": "application/json", **given, **self._headers}
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S))
        try:
            async with (
                asyncio.timeout(_ANSWER_S),
                self._session.request(method, self._url + path, data=body, headers=headers) as response,
            ):
                answer = await response.read()
        except TimeoutError:
            raise EmbeddingsUnavailable(f"the embeddings service sent no scores within {_ANSWER_S:.0f} s") from None
        except _LOST as error:
            raise EmbeddingsUnavailable(
                f"the embeddings service at {self._url} (RAG_EMBEDDINGS_URL) can't be reached: {type(error).__name__}",
                retry_after_s=2,
            ) from None
        if response.status != 200:
            raise EmbeddingsUnavailable(f"{path} answers {response.status}: {_message(answer)}", retry_after_s=2)
        try:
            document = msgspec.json.decode(answer)
        except msgspec.DecodeError:
            document = None
        if not isinstance(document, dict):
            raise EngineInvalidResponse(f"{path} of the embeddings service does not answer in JSON objects")
        return document


def _message(body: bytes) -> str:
    try:
        return str(msgspec.json.decode(body)["error"]["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return "without a reason"

"""The stack as an evaluation sees it: searches, answers and a judge, through its one door."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

_PATIENCE_S = 300.0


class ServiceError(Exception):
    """The service can't be asked or refuses; the message says what to do."""


@dataclass(frozen=True)
class Found:
    """What a search found, best first.

    Args:
        names: of each passage's document.
        texts: of each passage.
        ms: from the question sent to the answer read.
        steps: milliseconds of each step, as the service says.
        similarity: the best cosine of question and passage; None where the preset looks at no vectors.
    """

    names: tuple[str, ...]
    texts: tuple[str, ...]
    ms: float
    steps: Mapping[str, float]
    similarity: float | None


@dataclass(frozen=True)
class Answered:
    """An answer of `rag/<collection>`; `answerable` is False where the service says "not in the documents"."""

    text: str
    answerable: bool


class Service:
    """The gateway, which passes searches on to the RAG service.

    Args:
        client: with the gateway's address and a key.
    """

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def search(self, collection: str, question: str, *, preset: str, limit: int) -> Found:
        """Return the passages of a question.

        Raises:
            ServiceError
        """
        body: dict[str, Any] = {"query": question, "limit": limit}
        if preset:
            body["preset"] = preset
        started = time.perf_counter()
        answer = await _post(self._client, f"/v1/collections/{quote(collection, safe='')}/search", body)
        ms = (time.perf_counter() - started) * 1000
        rows = answer.get("data", [])
        return Found(
            names=tuple(str(row["name"]) for row in rows),
            texts=tuple(str(row["text"]) for row in rows),
            ms=ms,
            steps={str(step["name"]): float(step["ms"]) for step in answer.get("steps", [])},
            similarity=answer.get("best_similarity"),
        )

    async def answer(self, collection: str, question: str, *, preset: str) -> Answered:
        """Return the answer of the collection's model, by the gateway, as any client gets it.

        Raises:
            ServiceError
        """
        body: dict[str, Any] = {
            "model": f"rag/{collection}",
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
        }
        if preset:
            body["rag"] = {"preset": preset}
        document = await _post(self._client, "/v1/chat/completions", body)
        text = document["choices"][0]["message"]["content"] or ""
        return Answered(text, bool(document.get("sparkstack", {}).get("answerable", True)))

    async def ask(self, model: str, prompt: str, schema: Mapping[str, Any], max_tokens: int) -> str:
        """Return what a model says to a prompt, held to a JSON schema where its engine can.

        Raises:
            ServiceError
        """
        body = {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": max_tokens,
            "response_format": {"type": "json_schema", "json_schema": {"name": "verdict", "schema": dict(schema)}},
        }
        document = await _post(self._client, "/v1/chat/completions", body)
        return str(document["choices"][0]["message"]["content"] or "")


def client(url: str, headers: Mapping[str, str]) -> httpx.AsyncClient:
    """Return a client of the gateway. No proxy of the environment stands between this machine's processes."""
    patience = httpx.Timeout(_PATIENCE_S, connect=5.0)
    return httpx.AsyncClient(base_url=url, headers=headers, timeout=patience, trust_env=False)


async def _post(by: httpx.AsyncClient, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    try:
        response = await by.post(path, json=dict(body))
    except httpx.HTTPError as error:
        reason = str(error) or type(error).__name__
        raise ServiceError(f"{by.base_url} doesn't answer ({reason}): `sparkstack status` shows what runs") from None
    if response.status_code != 200:
        raise ServiceError(f"{by.base_url}{path.lstrip('/')} says {response.status_code}: {_message(response)}")
    document: dict[str, Any] = response.json()
    return document


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return response.text[:200]

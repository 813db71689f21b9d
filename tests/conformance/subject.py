"""What the checks are asked of: an engine with a model, behind a gateway."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import openai

KEY = "sk-spark-conformance"


@dataclass(frozen=True)
class Place:
    """A running engine and the gateway in front of it.

    Args:
        name: of the engine: a column of the matrix.
        version: of the engine.
        model: the model's public id.
        context_tokens: of one request.
        lacks: checks that this pair can't pass → why, by its recipe.
        thinks: fields of a request that make it think.
        dictated: whether a JSON schema can make it say anything; else `echo:` does.
        running_metric: the gauge of requests under way in the engine's `/metrics`; the fake engine tells otherwise.
    """

    name: str
    version: str
    model: str
    gateway_url: str
    engine_url: str
    context_tokens: int
    lacks: Mapping[str, str] = field(default_factory=dict)
    thinks: Mapping[str, Any] = field(default_factory=dict)
    dictated: bool = True
    running_metric: str = ""


@dataclass(frozen=True)
class Subject:
    """A place, and the clients of one check.

    Args:
        client: openai's own, without retries.
        http: to the gateway; `engine` goes past it.
    """

    place: Place
    client: openai.AsyncOpenAI
    http: httpx.AsyncClient
    engine: httpx.AsyncClient

    def ask(self, text: str = "Tell me about Paris.", **fields: Any) -> dict[str, Any]:
        """Return the fields of a conversation of one turn, at temperature 0."""
        return {
            "model": self.place.model,
            "messages": [{"role": "user", "content": text}],
            "temperature": 0,
            **fields,
        }

    def dictate(self, text: str) -> dict[str, Any]:
        """Return the fields of a request whose answer is `text` as a JSON string; of a fake engine just `text`."""
        if not self.place.dictated:
            return self.ask(f"echo:{text}")
        schema = {"name": "text", "strict": True, "schema": {"const": text}}
        return self.ask("Say it.", response_format={"type": "json_schema", "json_schema": schema}, max_tokens=200)

    async def under_way(self) -> float:
        """Return how many requests the engine says that it works on."""
        name = self.place.running_metric
        if not name:
            return float((await self.engine.get("/fake/state")).json()["open_streams"])
        lines = (await self.engine.get("/metrics")).text.splitlines()
        found = [line for line in lines if line.split("{")[0].split(" ")[0] == name]
        assert found, f"{self.place.name} has no metric {name}"
        return sum(float(line.rsplit(" ", 1)[1]) for line in found)


@contextlib.asynccontextmanager
async def subject_of(place: Place) -> AsyncIterator[Subject]:
    """Yield the place with clients of this event loop."""
    limits = httpx.Timeout(180)  # a heavy engine on a busy machine
    async with (
        openai.AsyncOpenAI(base_url=f"{place.gateway_url}/v1", api_key=KEY, max_retries=0, timeout=180) as client,
        httpx.AsyncClient(
            base_url=place.gateway_url, headers={"Authorization": f"Bearer {KEY}"}, timeout=limits, trust_env=False
        ) as http,
        httpx.AsyncClient(base_url=place.engine_url, timeout=limits, trust_env=False) as engine,
    ):
        yield Subject(place, client, http, engine)

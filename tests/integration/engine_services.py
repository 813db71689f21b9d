"""The engines service on a real socket, over a runtime whose engines are fake ones."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml
from fastapi import FastAPI

from services.engines.app import create_app
from services.engines.recipes import MODELS_FOLDER
from services.engines.service import Service
from services.engines.settings import EnginesSettings
from tests.testkit.fake_runtime import FakeRuntime
from tests.testkit.server import eventually, running

KEY = "internal-key"
GIB = 2**30
DEFAULT = "smollm2-135m-instruct-q4_1"


def write_recipe(state: Path, model: str, weight_bytes: int) -> None:
    """Add a recipe of the user's own: the default model's file, said to be of another size."""
    document = yaml.safe_load((MODELS_FOLDER / f"{DEFAULT}.yaml").read_text())
    document |= {"id": model, "name": model, "aliases": [f"{model}-alias"]}
    document["memory"] |= {"weight_bytes": weight_bytes}
    folder = state / "recipes"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{model}.yaml").write_text(yaml.safe_dump(document))


@dataclass
class EngineService:
    """A running service, and what a test asks of it."""

    url: str
    service: Service
    client: httpx.AsyncClient
    runtime: FakeRuntime
    background: list[asyncio.Task[Any]] = field(default_factory=list)

    async def models(self) -> dict[str, dict[str, Any]]:
        """Return the list of models by id."""
        document = (await self.client.get("/models")).json()
        return {item["id"]: item for item in document["data"]}

    async def state(self, model: str) -> str:
        """Return a model's state."""
        return str((await self.models())[model]["state"])

    async def until(self, model: str, state: str, timeout_s: float = 10.0) -> None:
        """Wait until a model is in a state."""
        async with asyncio.timeout(timeout_s):
            while await self.state(model) != state:
                await asyncio.sleep(0.01)

    async def lease(self, model: str, holder: str = "test") -> httpx.Response:
        """Ask for a lease, and for an answer at once."""
        return await self.client.post("/leases", json={"model": model, "holder": holder})

    async def lease_stream(self, model: str, holder: str = "test") -> list[tuple[str, dict[str, Any]]]:
        """Ask for a lease and wait for it; returns the events."""
        events = []
        body = {"model": model, "holder": holder, "wait": True}
        async with self.client.stream("POST", "/leases", json=body) as response:
            if response.status_code != 200:
                await response.aread()
                return [("refused", {"status": response.status_code, **response.json()})]
            name = ""
            async for line in response.aiter_lines():
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    events.append((name, json.loads(line.removeprefix("data: "))))
        return events

    async def granted(self, model: str, holder: str = "test") -> dict[str, Any]:
        """Wait for a lease and return it."""
        events = await self.lease_stream(model, holder)
        assert events[-1][0] == "granted", events
        return events[-1][1]


@contextlib.asynccontextmanager
async def engine_service(
    state: Path, runtime: FakeRuntime, *, models: dict[str, int], preload: str = "", listen_at: int = 0, **settings: Any
) -> AsyncIterator[EngineService]:
    """Run the service; `models` are the ids of models and their weights in bytes."""
    chosen = {"models": preload or next(iter(models)), "min_residency_s": 0, **settings}

    def make() -> FastAPI:
        for model, weight_bytes in models.items():
            write_recipe(state, model, weight_bytes)
        return create_app(EnginesSettings(state=state, api_key=KEY, **chosen), runtime)

    app = await asyncio.to_thread(make)  # before it serves it may read files
    async with (
        running(app, listen_at=listen_at) as url,
        httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {KEY}"}, timeout=30) as client,
    ):
        yield EngineService(url, app.state.service, client, runtime)


__all__ = ["DEFAULT", "GIB", "KEY", "EngineService", "engine_service", "eventually"]

"""Gateway, RAG and embeddings as they are, a fake engine, a collector: every service that a question goes through."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.embeddings.app import create_app as create_embeddings
from services.embeddings.settings import EmbeddingsSettings
from services.gateway.app import create_app as create_gateway
from services.gateway.settings import GatewaySettings
from services.kit.settings import load_settings
from services.rag.app import create_app as create_rag
from services.rag.settings import RagSettings
from tests.testkit.collector import Collector, collector
from tests.testkit.engine import FakeEngine
from tests.testkit.server import fake_engine, free_port, running

KEY = "sk-internal-0123456789"
UNSAMPLED = {"traceparent": f"00-{'c' * 32}-{'d' * 16}-00"}
DOCUMENTS = {
    "gateway.md": "# Gateway\n\nThe gateway listens on port 8000. It speaks the protocol of OpenAI.\n",
    "leases.md": "# Leases\n\nA lease on a model lasts fifteen seconds, and the gateway renews it.\n",
}


@dataclass
class TracedStack:
    """What runs."""

    client: httpx.AsyncClient
    engine: FakeEngine
    collector: Collector

    async def add_documents(self, name: str = "handbook") -> None:
        """Make a collection, and wait until the gateway lists it; the ingest is traced, these requests are not."""
        made = await self.client.post("/v1/collections", json={"name": name}, headers=UNSAMPLED)
        assert made.status_code == 201, made.text
        files = [("files", (each, text.encode())) for each, text in DOCUMENTS.items()]
        job = (await self.client.post(f"/v1/collections/{name}/documents", files=files, headers=UNSAMPLED)).json()
        events = f"/v1/collections/{name}/jobs/{job['id']}?stream=true"
        async with self.client.stream("GET", events, headers=UNSAMPLED) as response:
            async for line in response.aiter_lines():
                if line == "event: done":
                    break
        async with asyncio.timeout(60):
            while f"rag/{name}" not in (await self.client.get("/v1/models", headers=UNSAMPLED)).text:
                await asyncio.sleep(0.02)

    async def ask(self, question: str = "Which port does the gateway listen on?", **fields: Any) -> httpx.Response:
        """Ask the handbook."""
        messages = [{"role": "user", "content": question}]
        body = {"model": "rag/handbook", "messages": messages, "rag": {"preset": "balanced"}, **fields}
        return await self.client.post("/v1/chat/completions", json=body)


@contextlib.asynccontextmanager
async def traced_stack(folder: Path, monkeypatch: pytest.MonkeyPatch, **variables: str) -> AsyncIterator[TracedStack]:
    """Run all of it; `variables` are OpenTelemetry's, on top of where the collector is."""
    port = free_port()
    async with collector() as seen, fake_engine(models=("fake-chat",), embedding_models=()) as engine:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", seen.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        embedding_settings = EmbeddingsSettings(api_key=KEY, state=folder)
        async with (
            running(await asyncio.to_thread(create_embeddings, embedding_settings)) as embeddings,
            running(await asyncio.to_thread(create_rag, _rag_settings(folder, port, embeddings))) as rag,
        ):
            catalogue = folder / "catalogue.json"
            catalogue.write_text(json.dumps({"backends": _backends(rag, embeddings, engine.url)}))
            settings = await asyncio.to_thread(
                load_settings,
                GatewaySettings,
                allow_loopback_without_key=True,
                catalogue=catalogue,
                internal_key=KEY,
                discovery_interval_s=1,
            )
            front = await asyncio.to_thread(create_gateway, settings)
            async with (
                running(front, listen_at=port) as url,
                httpx.AsyncClient(base_url=url, trust_env=False, verify=False, timeout=30) as client,
            ):
                yield TracedStack(client, engine, seen)


def _rag_settings(folder: Path, gateway_port: int, embeddings: str) -> RagSettings:
    return RagSettings(
        state=folder,
        api_key=KEY,
        gateway_url=f"http://127.0.0.1:{gateway_port}",
        gateway_key=KEY,
        embeddings_url=embeddings,
        embeddings_key=KEY,
        model="fake-chat",
        vector_store="edge",
        cache_entries=0,
    )


def _backends(rag: str, embeddings: str, engine: str) -> list[dict[str, Any]]:
    return [
        {"name": "rag", "url": rag, "engine": "sparkstack", "paths": ["/v1/collections"], "models": []},
        {"name": "embeddings", "url": embeddings, "engine": "sparkstack", "paths": [], "models": []},
        {"name": "engine", "url": engine, "engine": "llamacpp", "paths": [], "models": []},
    ]

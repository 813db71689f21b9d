"""A RAG service that is killed in the middle of an ingest, again and again, loses nothing and has nothing twice.

The service is a real process with Qdrant's own engine; the embeddings are the fake engine's, over HTTP.
"""

import asyncio
import contextlib
import json
import random
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from services.rag.settings import RagSettings
from services.rag.vectors.filters import OneOf
from services.rag.vectors.opening import open_store
from tests.testkit.ports import free_port
from tests.testkit.server import ChildProcess, fake_engine, run_process

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
KEY = "sk-killed-ingest"
_DOCUMENTS = 300
_KILLED_AT = (40, 0, 15, 50)
"""How many documents of the job are completed when the service is killed."""
_WORDS = ["valve", "pump", "bridge", "lamp", "river", "engine", "cable", "mirror", "garden", "anchor"]


def text(number: int, version: int = 1) -> str:
    dice = random.Random(number * 31 + version)
    paragraphs = [" ".join(dice.choices(_WORDS, k=90)) for _ in range(1 + number % 5)]
    return f"# Document {number}, version {version}\n\n" + "\n\n".join(paragraphs)


@contextlib.asynccontextmanager
async def rag_process(state: Path, embeddings: str, port: int) -> AsyncIterator[tuple[ChildProcess, httpx.AsyncClient]]:
    environment = {
        "SPARKSTACK_STATE": str(state),
        "RAG_API_KEY": KEY,
        "RAG_EMBEDDINGS_URL": embeddings,
        "RAG_EMBEDDING_MODEL": "fake-embed",
        "RAG_CHUNK_TOKENS": "64",
        "RAG_CHUNK_OVERLAP_TOKENS": "8",
        "RAG_INGEST_BATCH": "16",
    }
    command = [sys.executable, "-m", "services.cli.main", "rag", "serve", "--port", str(port)]
    async with (
        run_process(command, env=environment) as child,
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}/v1",
            headers={"authorization": f"Bearer {KEY}"},
            trust_env=False,
            timeout=60,
        ) as client,
    ):
        await child.wait_for_url(f"http://127.0.0.1:{port}/readyz", timeout_s=90)
        yield child, client


async def send(client: httpx.AsyncClient, documents: dict[str, str]) -> str:
    files = [("files", (name, content.encode())) for name, content in documents.items()]
    answer = await client.post("/collections/handbook/documents", files=files)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


async def follow(client: httpx.AsyncClient, job: str, completed: int | None = None) -> None:
    """Follow a job's events until so many documents are completed; without a number, until its end."""
    name = ""
    async with client.stream("GET", f"/collections/handbook/jobs/{job}", params={"stream": "true"}) as response:
        async for line in response.aiter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                counts = json.loads(line.removeprefix("data: "))["documents"]
                if name == "done" or (completed is not None and counts["completed"] >= completed):
                    return
    raise AssertionError("the stream ended before the job")


async def documents_of(client: httpx.AsyncClient) -> dict[str, object]:
    listed = (await client.get("/collections/handbook/documents", params={"limit": 1000})).json()["data"]
    return {each["name"]: (each["status"], each["chunks"]) for each in listed}


async def points_of(state: Path) -> dict[tuple[str, str], list[int]]:
    """Return the chunk numbers in the store of each document and version; nothing else has the store open."""
    store = await asyncio.to_thread(open_store, RagSettings(state=state))
    try:
        (collection,) = await store.collections()
        hits = await store.fetch(collection, OneOf("tenant", ("shared",)), limit=100_000)
        assert len(hits) == await store.count(collection)
    finally:
        await store.close()
    found: dict[tuple[str, str], list[int]] = {}
    for hit in hits:
        found.setdefault((hit.payload["name"], hit.payload["version"]), []).append(int(hit.payload["index"]))
    return found


async def test_the_counts_equal_the_documents_whatever_was_killed_when(tmp_path):
    first = {f"guide/{number}.md": text(number) for number in range(_DOCUMENTS)}
    second = {f"guide/{number}.md": text(number, 2) for number in range(0, _DOCUMENTS, 3)}
    gone = [f"guide/{number}.md" for number in range(1, _DOCUMENTS, 30)]
    async with fake_engine(embedding_models=("fake-embed",)) as engine:
        port = free_port()
        job = ""
        for kill, completed in enumerate(_KILLED_AT):
            async with rag_process(tmp_path / "killed", engine.url, port) as (child, client):
                if kill == 0:
                    assert (await client.post("/collections", json={"name": "handbook"})).status_code == 201
                    job = await send(client, first)
                elif kill == 1:
                    job = await send(client, second)  # while much of the first is still under way
                elif kill == 2:
                    for name in gone:
                        answer = await client.delete(f"/collections/handbook/documents/{name}")
                        assert answer.status_code == 200, answer.text
                await follow(client, job, completed)
                child.send_signal(signal.SIGKILL)
                await child.wait()
        async with rag_process(tmp_path / "killed", engine.url, port) as (_, client):
            await follow(client, job)
            after_kills = await documents_of(client)
        clean = {name: content for name, content in {**first, **second}.items() if name not in gone}
        async with rag_process(tmp_path / "clean", engine.url, port) as (_, client):
            await client.post("/collections", json={"name": "handbook"})
            await follow(client, await send(client, clean))
            undisturbed = await documents_of(client)

    assert after_kills == undisturbed
    assert {status for status, _ in undisturbed.values()} == {"completed"}
    points, clean_points = await points_of(tmp_path / "killed"), await points_of(tmp_path / "clean")
    assert len(points) == len(clean), "each document has one version"
    assert {name: sorted(indexes) for (name, _), indexes in points.items()} == {
        name: sorted(indexes) for (name, _), indexes in clean_points.items()
    }
    for (name, _), indexes in points.items():
        assert sorted(indexes) == list(range(after_kills[name][1])), f"{name}: no chunk is missing or there twice"

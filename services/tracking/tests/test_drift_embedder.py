"""The embeddings service as the monitor asks it."""

import asyncio

import numpy as np
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from services.tracking.drift.embedder import EmbeddingsFailed, HttpEmbedder
from tests.testkit.embeddings import embed, embeddings_document
from tests.testkit.ports import free_port
from tests.testkit.server import running

MODELS = [
    {"id": "reranker", "sparkstack": {"capabilities": ["rerank"]}},
    {"id": "small", "sparkstack": {"capabilities": ["embeddings"]}},
    {"id": "usual", "sparkstack": {"capabilities": ["embeddings"], "default": True}},
]


def service(asked, models=MODELS, status=200):
    app = FastAPI()

    @app.get("/v1/models")
    async def listed(request: Request):
        asked.append(request.headers.get("authorization"))
        return {"object": "list", "data": models}

    @app.post("/v1/embeddings")
    async def embeddings(request: Request):
        body = await request.json()
        asked.append(body)
        return JSONResponse(embeddings_document(body, body["model"], 8, usage=True), status)

    return app


async def opened(url, key=""):
    # As in the service: made before there is a loop, for it loads modules and certificates.
    return await asyncio.to_thread(HttpEmbedder, url, key)


async def test_texts_become_vectors_of_the_default_model_and_empty_ones_none():
    asked = []
    async with running(service(asked)) as url:
        embedder = await opened(url, "sk-e")
        first = await embedder.embed(["a question", "  ", "an answer"])
        await embedder.embed(["another"])
        await embedder.close()

    assert first[1] == b""
    np.testing.assert_allclose(np.frombuffer(first[2], "<f4"), embed("an answer", 8), rtol=1e-5)
    assert asked[0] == "Bearer sk-e"
    assert [body["model"] for body in asked[1:]] == ["usual", "usual"]
    assert asked[1]["input"] == ["a question", "an answer"]
    assert asked[1]["truncate"] is True


async def test_nothing_is_asked_where_all_texts_are_empty():
    asked = []
    async with running(service(asked)) as url:
        embedder = await opened(url)
        assert await embedder.embed(["", ""]) == [b"", b""]
        await embedder.close()
    assert asked == []


@pytest.mark.parametrize(("models", "status", "said"), [(MODELS, 503, "503"), (MODELS[:1], 200, "has no model")])
async def test_what_is_wrong_with_the_service_is_said(models, status, said):
    async with running(service([], models, status)) as url:
        embedder = await opened(url)
        with pytest.raises(EmbeddingsFailed, match=said):
            await embedder.embed(["a"])
        await embedder.close()


async def test_a_service_that_is_not_there_is_said():
    embedder = await opened(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(EmbeddingsFailed, match="gave no vectors"):
        await embedder.embed(["a"])
    await embedder.close()

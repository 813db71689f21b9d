"""The way to the embeddings service: vectors as they were sent, a full or lost service, a model that is not there."""

import base64
import contextlib

import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from services.kit.errors import InvalidRequest
from services.rag.embedder import HttpEmbedder
from services.rag.errors import EmbeddingsUnavailable
from tests.testkit.ports import free_port
from tests.testkit.server import running

ABOUT = {"capabilities": ["embeddings"], "dimensions": 2, "context_tokens": 128, "default": True}
RERANKER = {"id": "reranker", "sparkstack": {"capabilities": ["rerank"], "default": True}}


@contextlib.asynccontextmanager
async def embeddings(*answers, about=ABOUT, model=""):
    """Run a service that gives these answers to /v1/embeddings, one after another, and an embedder for it."""
    left, asked = list(answers), []

    async def models(_request):
        return JSONResponse({"data": [RERANKER, {"id": "small", "sparkstack": about}]})

    async def embed(request):
        asked.append(await request.json())
        status, body, headers = left.pop(0)
        return JSONResponse(body, status, headers)

    app = Starlette(routes=[Route("/v1/models", models), Route("/v1/embeddings", embed, methods=["POST"])])
    async with running(app) as url:
        embedder = HttpEmbedder(url, "key", model)
        await embedder.open()
        try:
            yield embedder, asked
        finally:
            await embedder.close()


def vectors(*rows):
    data = [
        {"index": index, "embedding": base64.b64encode(np.array(row, "<f4").tobytes()).decode()}
        for index, row in reversed(list(enumerate(rows)))
    ]
    return 200, {"data": data}, {}


def failure(status, message="no", **headers):
    return status, {"error": {"message": message, "code": "x"}}, headers


async def test_vectors_come_in_the_order_of_the_texts():
    async with embeddings(vectors((1, 0), (0, 1))) as (embedder, asked):
        found = await embedder.embed(["first", "second"])
        assert found.dtype == np.float32
        assert found.tolist() == [[1, 0], [0, 1]]
        assert (await embedder.model()).max_tokens == 128
        assert asked[0]["model"] == "small"
        assert asked[0]["input"] == ["first", "second"]
        assert (await embedder.embed([])).shape == (0, 2)


async def test_a_full_service_is_asked_again_when_it_says():
    async with embeddings(failure(429, **{"retry-after": "0"}), vectors((1, 0))) as (embedder, asked):
        assert (await embedder.embed(["text"])).tolist() == [[1, 0]]
        assert len(asked) == 2


async def test_a_service_that_stays_full_is_unavailable():
    async with embeddings(failure(429, "full up", **{"retry-after": "60"})) as (embedder, _):
        with pytest.raises(EmbeddingsUnavailable, match="full up") as refused:
            await embedder.embed(["text"])
        assert refused.value.retry_after_s == 60


async def test_a_refused_text_is_not_tried_again():
    async with embeddings(failure(400, "too long")) as (embedder, asked):
        with pytest.raises(InvalidRequest, match="too long"):
            await embedder.embed(["text"])
        assert len(asked) == 1


async def test_a_wrong_key_names_the_variable():
    async with embeddings(failure(401)) as (embedder, _):
        with pytest.raises(EmbeddingsUnavailable, match="RAG_EMBEDDINGS_KEY"):
            await embedder.embed(["text"])


async def test_vectors_of_another_size_are_refused():
    async with embeddings(vectors((1, 0, 0))) as (embedder, _):
        with pytest.raises(EmbeddingsUnavailable, match="3 numbers"):
            await embedder.embed(["text"])


async def test_dimensions_that_nobody_says_are_measured():
    async with embeddings(vectors((1, 0, 0)), about={}) as (embedder, _):
        assert (await embedder.model()).dimensions == 3


async def test_a_model_that_is_not_there_is_named_with_those_that_are():
    async with embeddings(model="large") as (embedder, _):
        with pytest.raises(EmbeddingsUnavailable, match="has small, not large"):
            await embedder.model()


async def test_a_service_that_is_not_there_says_where_it_was_looked_for():
    port = free_port()
    embedder = HttpEmbedder(f"http://127.0.0.1:{port}")
    await embedder.open()
    try:
        with pytest.raises(EmbeddingsUnavailable, match=str(port)):
            await embedder.model()
        assert str(port) in await embedder.answers()
    finally:
        await embedder.close()

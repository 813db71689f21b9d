import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from services.kit.errors import EngineInvalidResponse
from services.rag.errors import EmbeddingsUnavailable
from services.rag.ports import Caller
from services.rag.reranker import HttpReranker
from tests.testkit.ports import free_port
from tests.testkit.server import running

_MODELS = {
    "data": [
        {"id": "vectors", "sparkstack": {"capabilities": ["embeddings"], "default": True}},
        {"id": "other", "sparkstack": {"capabilities": ["rerank"], "default": False}},
        {"id": "standard", "sparkstack": {"capabilities": ["rerank"], "default": True}},
    ]
}


class Embeddings:
    """The embeddings service, as far as reranking needs it: longer documents are better."""

    def __init__(self):
        self.app = FastAPI()
        self.models = _MODELS
        self.answer = None
        self.asked = []

        @self.app.get("/v1/models")
        async def models():
            return self.models

        @self.app.post("/v1/rerank")
        async def rerank(request: Request):
            body = await request.json()
            self.asked.append((body, dict(request.headers)))
            if self.answer is not None:
                return self.answer
            scored = [{"index": at, "relevance_score": len(text)} for at, text in enumerate(body["documents"])]
            return {"results": sorted(scored, key=lambda each: -each["relevance_score"])}


@pytest.fixture
async def embeddings():
    embeddings = Embeddings()
    async with running(embeddings.app) as embeddings.url:
        yield embeddings


@pytest.fixture
async def reranker(embeddings):
    reranker = HttpReranker(embeddings.url, "inner")
    yield reranker
    await reranker.close()


async def test_scores_come_in_the_documents_order_from_the_default_model(embeddings, reranker):
    caller = Caller("alice", {"x-request-id": "r1"})
    assert await reranker.scores("why?", ["aaa", "a", "aa"], caller) == [3.0, 1.0, 2.0]
    [(body, headers)] = embeddings.asked
    assert body["model"] == "standard"
    assert headers["authorization"] == "Bearer inner"
    assert headers["x-request-id"] == "r1"


async def test_no_documents_are_no_request(embeddings, reranker):
    assert await reranker.scores("why?", []) == []
    assert embeddings.asked == []


async def test_a_busy_service_is_named_with_its_own_words(embeddings, reranker):
    embeddings.answer = JSONResponse({"error": {"message": "262,144 tokens wait"}}, status_code=429)
    with pytest.raises(EmbeddingsUnavailable, match="answers 429: 262,144 tokens wait"):
        await reranker.scores("why?", ["a"])


@pytest.mark.parametrize(
    "answer", [{"results": [{"index": 0, "relevance_score": 1}]}, {"results": [{"index": 7}]}, {}, [1]]
)
async def test_an_answer_that_leaves_something_out_is_refused(embeddings, reranker, answer):
    embeddings.answer = JSONResponse(answer)
    with pytest.raises(EngineInvalidResponse):
        await reranker.scores("why?", ["a", "b"])


async def test_a_service_without_a_reranking_model_says_so(embeddings, reranker):
    embeddings.models = {"data": _MODELS["data"][:1]}
    with pytest.raises(EmbeddingsUnavailable, match="no model that reranks"):
        await reranker.scores("why?", ["a"])


async def test_a_service_that_is_not_there_is_named_with_its_setting():
    reranker = HttpReranker(f"http://127.0.0.1:{free_port()}", "", "any")
    with pytest.raises(EmbeddingsUnavailable, match="RAG_EMBEDDINGS_URL"):
        await reranker.scores("why?", ["a"])
    await reranker.close()

"""The API over real sockets, with models of no weights behind it."""

import asyncio
import base64
import contextlib
import json

import httpx
import numpy as np
import openai
import pytest

from services.embeddings.app import create_app
from services.embeddings.backends.dummy import DummyBackend
from services.embeddings.catalogue import HubFiles
from services.embeddings.tests.dummies import RERANKER, Gate, Openings, card, settings
from tests.testkit.server import eventually, running

KEY = {"authorization": "Bearer sk-embeddings-tests"}
CARDS = (card(), card("whole", shortest_dimensions=0), RERANKER)


class Service:
    """A running service and a client of it."""

    def __init__(self, app, url, client, openings) -> None:
        self.app = app
        self.url = url
        self.client = client
        self.openings = openings
        self.models = app.state.models

    async def post(self, path, **body):
        return await self.client.post(path, json=body)

    async def refusal(self, status, path="/v1/embeddings", **body):
        answer = await self.post(path, **body)
        assert answer.status_code == status, answer.text
        return answer.json()["error"]


@contextlib.asynccontextmanager
async def serving(tmp_path, cards=CARDS, gate=None, **given):
    openings = Openings(gate or Gate())
    # Looking for files takes a moment; a service does that before its event loop starts.
    app = await asyncio.to_thread(create_app, settings(tmp_path, **given), list(cards), openings)
    async with running(app) as url, httpx.AsyncClient(base_url=url, headers=KEY) as client:
        yield Service(app, url, client, openings)


@pytest.fixture
async def service(tmp_path):
    async with serving(tmp_path) as made:
        yield made


@pytest.fixture
async def client(service):
    async with openai.AsyncOpenAI(
        base_url=f"{service.url}/v1", api_key="sk-embeddings-tests", max_retries=0, timeout=10
    ) as made:
        yield made


# --- OpenAI's client ----------------------------------------------------------------------------------------------


async def test_the_openai_client_gets_vectors_and_usage(client):
    texts = ["the cat sat", "on the mat and slept"]
    answer = await client.embeddings.create(model="dummy", input=texts)
    expected = DummyBackend(dimensions=8).embed(texts)
    assert [each.index for each in answer.data] == [0, 1]
    np.testing.assert_allclose([each.embedding for each in answer.data], expected, atol=1e-7)
    assert (answer.model, answer.object) == ("dummy", "list")
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (12, 12)


async def test_numbers_and_base64_are_the_same_vectors(client):
    numbers = await client.embeddings.create(model="dummy", input="a text", encoding_format="float")
    packed = await client.embeddings.create(model="dummy", input="a text", encoding_format="base64")
    raw = np.frombuffer(base64.b64decode(packed.data[0].embedding), dtype="<f4")
    assert raw.tolist() == numbers.data[0].embedding


async def test_fewer_dimensions_are_the_first_ones_with_norm_1(client):
    whole = (await client.embeddings.create(model="dummy", input="a text")).data[0].embedding
    short = (await client.embeddings.create(model="dummy", input="a text", dimensions=3)).data[0].embedding
    assert len(short) == 3
    np.testing.assert_allclose(short, np.array(whole[:3]) / np.linalg.norm(whole[:3]), rtol=1e-6)


async def test_the_openai_client_lists_and_describes_models(client):
    listed = await client.models.list()
    assert [each.id for each in listed.data] == ["dummy", "whole", "ranker"]
    assert (await client.models.retrieve("ranker")).owned_by == "sparkstack"


async def test_many_floats_are_written_beside_the_event_loop(tmp_path):
    async with serving(tmp_path, [card(dimensions=512)]) as service:
        texts = [f"text {number}" for number in range(64)]
        answer = await service.post("/v1/embeddings", model="dummy", input=texts)
        rows = np.array([each["embedding"] for each in answer.json()["data"]], dtype=np.float32)
        np.testing.assert_array_equal(rows, DummyBackend(dimensions=512).embed(texts))


# --- what is refused ----------------------------------------------------------------------------------------------


WRONG = [
    ({"input": "a"}, "model", "required field `model`"),
    ({"model": "dummy"}, "input", "required field `input`"),
    ({"model": "dummy", "input": {"a": 1}}, "input", "Expected `str | array`"),
    ({"model": "dummy", "input": []}, "input", "input is an empty list"),
    ({"model": "dummy", "input": ""}, "input", "input[0] is an empty text"),
    ({"model": "dummy", "input": ["a", ""]}, "input", "input[1] is an empty text"),
    ({"model": "dummy", "input": ["a", 1]}, "input", "input mixes"),
    ({"model": "dummy", "input": [1, "a"]}, "input", "input mixes"),
    ({"model": "dummy", "input": [[1], "a"]}, "input", "input mixes"),
    ({"model": "dummy", "input": [[5, 6], [40000]]}, "input", "input[1]: token 40000 is not in the vocabulary"),
    ({"model": "dummy", "input": ["a"] * 11}, "input", "input has 11 texts, the limit is 10"),
    ({"model": "dummy", "input": "a", "encoding_format": "hex"}, "encoding_format", "Invalid enum value 'hex'"),
    ({"model": "dummy", "input": "a", "dimensions": 1}, "dimensions", "dummy has 2 to 8"),
    ({"model": "dummy", "input": "a", "dimensions": 9}, "dimensions", "dummy has 2 to 8"),
    ({"model": "whole", "input": "a", "dimensions": 4}, "dimensions", "vectors of whole have 8"),
    ({"model": "dummy", "input": "a", "truncate_prompt_tokens": 65}, "truncate_prompt_tokens", "it may be 3 to 64"),
    ({"model": "ranker", "input": "a"}, "model", "ranker reranks documents: POST /v1/rerank"),
]


async def test_a_wrong_request_is_told_what_is_wrong(tmp_path):
    async with serving(tmp_path, max_texts=10) as service:
        for body, param, says in WRONG:
            error = await service.refusal(400, **body)
            assert (error["param"], error["type"]) == (param, "invalid_request_error")
            assert says in error["message"]


async def test_a_text_that_is_too_long_is_named_with_its_tokens_and_the_limit(service):
    texts = ["short", "word " * 63, "word " * 62, "word " * 70]
    error = await service.refusal(400, model="dummy", input=texts)
    assert error["code"] == "context_length_exceeded"
    assert "input[1] has 65 tokens (and 1 more); dummy reads 64" in error["message"]
    cut = await service.post("/v1/embeddings", model="dummy", input=texts, truncate=True)
    assert cut.json()["usage"]["total_tokens"] == 3 + 64 * 3
    shorter = await service.post("/v1/embeddings", model="dummy", input=texts, truncate_prompt_tokens=10)
    assert shorter.json()["usage"]["total_tokens"] == 3 + 10 * 3
    assert max(len(text.split()) for text in service.openings.before.texts[4:]) == 8


NO_JSON = [
    (b"", "the request body is no JSON: it is empty"),
    (b"{", "the request body is no JSON"),
    (b"[1]", "Expected `object`, got `array`"),
    (b'{"model": "dummy", "input": "\\ud800"}', "the request body is no JSON"),
    (b'{"model": "dummy", "input": "\xff"}', "the request body is no JSON"),
    (b'{"model": "dummy", "x": ' + b"[" * 5000 + b"]" * 5000 + b', "input": "a"}', "nested too deeply"),
]


async def test_a_body_that_is_no_json_is_told_so(service):
    for body, says in NO_JSON:
        answer = await service.client.post("/v1/embeddings", content=body)
        assert answer.status_code == 400
        assert says in answer.json()["error"]["message"]


async def test_a_body_above_the_limit_is_refused(tmp_path):
    async with serving(tmp_path, max_body_mb=1) as service:
        error = await service.refusal(413, model="dummy", input="x" * 1_000_001)
        assert "EMBEDDINGS_MAX_BODY_MB" in error["message"]


async def test_data_needs_the_key_and_health_does_not(service):
    data = [("GET", "/v1/models"), ("POST", "/v1/embeddings"), ("POST", "/v1/rerank"), ("POST", "/tokenize")]
    for given in ({}, {"authorization": "Bearer wrong"}, {"authorization": "sk-embeddings-tests"}):
        async with httpx.AsyncClient(base_url=service.url, headers=given) as stranger:
            for method, path in data:
                answer = await stranger.request(method, path)
                assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
            for path in ("/livez", "/metrics"):
                assert (await stranger.get(path)).status_code == 200


async def test_without_a_key_in_the_settings_all_may_ask(tmp_path):
    async with serving(tmp_path, api_key="") as service, httpx.AsyncClient(base_url=service.url) as anyone:
        assert (await anyone.get("/v1/models")).status_code == 200


async def test_a_model_that_is_not_here_is_not_listed_and_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    away = card("away", backend="torch", aliases=("far",), hub=HubFiles("some/one", "abc123"))
    async with serving(tmp_path, [card(), away]) as service:
        listed = (await service.client.get("/v1/models")).json()["data"]
        assert [each["id"] for each in listed] == ["dummy"]
        error = await service.refusal(404, model="far", input="a")
        assert error["code"] == "model_not_pulled"
        assert "`hf download some/one --revision abc123`" in error["message"]
        error = await service.refusal(404, model="nobody", input="a")
        assert (error["code"], error["message"]) == (
            "model_not_found",
            "there is no model 'nobody' here; there are: dummy",
        )


async def test_a_full_queue_answers_429_with_a_time(tmp_path):
    gate = Gate(is_open=False)
    async with serving(tmp_path, gate=gate, queue_tokens=1024) as service:
        waits = [
            asyncio.create_task(service.post("/v1/embeddings", model="dummy", input=["w " * 60] * 4)) for _ in range(4)
        ]
        await eventually(lambda: service.models.all[0].capacity.used == 4 * 4 * 62)
        answer = await service.post("/v1/embeddings", model="dummy", input="w " * 60)
        assert (answer.status_code, answer.json()["error"]["type"]) == (429, "rate_limit_error")
        assert int(answer.headers["retry-after"]) >= 1
        gate.open()
        assert {each.status_code for each in await asyncio.gather(*waits)} == {200}
        assert (await service.post("/v1/embeddings", model="dummy", input="w " * 60)).status_code == 200


async def test_texts_are_dropped_when_their_client_leaves(tmp_path):
    gate = Gate(is_open=False)
    async with serving(tmp_path, gate=gate) as service:
        stays = asyncio.create_task(service.post("/v1/embeddings", model="dummy", input="computed"))
        await eventually(lambda: gate.seen)
        host, port = service.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        body = json.dumps({"model": "dummy", "input": ["never computed"] * 5}).encode()
        head = f"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\n{'authorization'}: {KEY['authorization']}\r\n"
        writer.write(head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body)
        queue = service.models.all[0].queue
        await eventually(lambda: queue.waiting.jobs())
        writer.close()
        await eventually(lambda: not queue.waiting.jobs())
        gate.open()
        assert (await stays).status_code == 200
        assert gate.texts == ["computed"]
        assert service.models.all[0].capacity.used == 0
        assert 'embeddings_dropped_total{model="dummy"} 5.0' in (await service.client.get("/metrics")).text
        assert await reader.read() == b""


# --- reranking, tokens, health ------------------------------------------------------------------------------------


async def test_rerank_orders_documents_and_answers_in_the_form_of_cohere_and_jina(service):
    body = {
        "model": "ranker",
        "query": "red apple pie",
        "documents": ["red car", {"text": "red apple pie", "x": 1}, "sky"],
    }
    answer = (await service.post("/v1/rerank", **body, return_documents=True)).json()
    assert (answer["object"], answer["model"]) == ("rerank", "ranker")
    assert answer["id"].startswith("rerank-")
    assert answer["usage"] == {"total_tokens": 5 + 4 + 5 + 3}
    assert answer["results"] == [
        {"index": 1, "relevance_score": 1.0, "document": {"text": "red apple pie"}},
        {"index": 0, "relevance_score": pytest.approx(1 / 3), "document": {"text": "red car"}},
        {"index": 2, "relevance_score": 0.0, "document": {"text": "sky"}},
    ]
    best = (await service.post("/v1/rerank", **body, top_n=1)).json()["results"]
    assert best == [{"index": 1, "relevance_score": 1.0}]


async def test_long_documents_are_cut_with_a_warning_or_refused(service):
    body = {"model": "ranker", "query": "a", "documents": ["a", "a " * 100]}
    answer = (await service.post("/v1/rerank", **body)).json()
    assert answer["meta"]["warnings"] == ["1 documents are too long, their ends were not read: 1"]
    assert answer["usage"]["total_tokens"] == 3 + 3 + 64
    error = await service.refusal(400, "/v1/rerank", **body, truncate=False)
    assert "documents[1] has 102 tokens; ranker reads 64" in error["message"]
    error = await service.refusal(400, "/v1/rerank", model="ranker", query="a " * 70, documents=["a"])
    assert "the query has 72 tokens, ranker reads 64" in error["message"]
    error = await service.refusal(400, "/v1/rerank", model="ranker", query="a", documents=["a"] * 1001)
    assert "1,001 documents, the limit is 1,000" in error["message"]
    error = await service.refusal(400, "/v1/rerank", model="dummy", query="a", documents=["a"])
    assert "dummy embeds: POST /v1/embeddings" in error["message"]


async def test_tokenize_lists_a_texts_tokens(service):
    whole = (await service.post("/tokenize", model="dummy", content="two words")).json()
    own = (await service.post("/tokenize", model="dummy", prompt="two words", add_special_tokens=False)).json()
    assert (whole["count"], own["count"], whole["max_model_len"]) == (4, 2, 64)
    assert whole["tokens"] == [0, *own["tokens"], 1]
    assert "content" in (await service.refusal(400, "/tokenize", model="dummy"))["message"]


async def test_the_list_says_what_a_model_can(service):
    ours = {each["id"]: each["sparkstack"] for each in (await service.client.get("/v1/models")).json()["data"]}
    assert ours["dummy"] == {
        "capabilities": ["embeddings"],
        "context_tokens": 64,
        "dimensions": 8,
        "family": "dummy",
        "aliases": [],
        "licence": "Apache-2.0",
        "default": True,
    }
    assert [each["default"] for each in ours.values()] == [True, False, True]
    assert ours["ranker"]["dimensions"] is None


async def test_ready_when_the_default_model_is_loaded(tmp_path):
    async with serving(tmp_path) as service:
        await eventually(lambda: service.models.all[0].worker.loaded)
        assert (await service.client.get("/readyz")).json()["checks"] == {"models": "ok"}
        assert not service.models.all[1].worker.loaded


async def test_ready_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    async with serving(tmp_path, [card("away", backend="torch", hub=HubFiles("some/one", "abc"))]) as service:
        answer = await service.client.get("/readyz")
        assert answer.status_code == 503
        assert "none is here: away has not been downloaded" in answer.json()["checks"]["models"]


async def test_without_preload_the_first_request_loads(tmp_path):
    async with serving(tmp_path, preload=False) as service:
        assert (await service.client.get("/readyz")).status_code == 200
        assert not service.openings.backends
        assert (await service.post("/v1/embeddings", model="DUMMY", input="a")).status_code == 200
        assert len(service.openings.backends) == 1

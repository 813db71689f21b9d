"""The stack's own services behind the gateway: their models have their names, and learn who asks; nobody else does."""

import asyncio
import contextlib
import json

import pytest

from services.kit.on_behalf import sign, verify
from tests.integration.gateways import CHAT, gateway
from tests.integration.own_services import KEY, stack
from tests.integration.raw_client import asked
from tests.testkit.fake_services import ANSWER, CITATIONS, fake_embeddings, fake_rag, model
from tests.testkit.server import eventually, fake_engine

USER = "sk-user-0123456789"
ON_BEHALF_OF = "x-sparkstack-on-behalf-of"
HOPS = "x-sparkstack-hops"


def question(model="rag/handbook", **fields):
    return {"model": model, "messages": [{"role": "user", "content": "Where is my key?"}], **fields}


# --- names and what they are for ----------------------------------------------------------------------------------


async def test_their_models_are_listed_with_what_they_can_do(tmp_path):
    async with stack(tmp_path) as run:
        listed = {each["id"]: each["sparkstack"] for each in (await run.front.client.get("/v1/models")).json()["data"]}
        one = (await run.front.client.get("/v1/models/rag/handbook")).json()
        alias = (await run.front.client.get("/v1/models/text-embedding")).json()
    assert list(listed) == ["rag/handbook", "mini", "mini-rank", "fake-chat"]
    assert listed["rag/handbook"]["capabilities"] == ["chat", "rag"]
    assert listed["mini-rank"]["capabilities"] == ["rerank"]
    mini = listed["mini"]
    assert mini == {
        "state": "ready",
        "backend": "embeddings",
        "aliases": ["embeddings/mini", "text-embedding"],
        "capabilities": ["embeddings"],
        "context_tokens": 256,
        "dimensions": 8,
        "family": "bert",
        "licence": "apache-2.0",
    }
    assert (one["id"], one["sparkstack"]) == ("rag/handbook", listed["rag/handbook"])
    assert alias["id"] == "mini"


async def test_another_server_gives_its_models_no_further_names():
    async with fake_embeddings(key="") as foreign:
        foreign.key = KEY
        foreign.models = [model("theirs", "embeddings", aliases=["default", "gpt-4o"])]
        async with gateway(backends={"far": foreign.url}, backend_keys={"far": KEY}) as front:
            (only,) = (await front.client.get("/v1/models")).json()["data"]
    assert only["sparkstack"]["aliases"] == ["far/theirs"]
    assert only["sparkstack"]["capabilities"] == ["embeddings"]


async def test_default_is_never_a_model_that_asks_default_itself(tmp_path):
    async with stack(tmp_path) as run:
        assert (await run.front.client.get("/v1/models/default")).json()["id"] == "fake-chat"
        assert (await run.front.status())["default_model"] == "fake-chat"


async def test_without_any_engine_there_is_no_default():
    async with fake_rag(key=KEY) as rag, gateway(backends={"rag": rag.url}, backend_keys={"rag": KEY}) as front:
        answer = await front.client.get("/v1/models/default")
        listed = [each["id"] for each in (await front.client.get("/v1/models")).json()["data"]]
    assert listed == ["rag/handbook"]
    assert answer.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("path", "body", "sentence"),
    [
        (CHAT, question("mini"), "mini does not chat, it is for: embeddings; models that do: rag/handbook"),
        (CHAT, question("mini-rank", stream=True), "mini-rank does not chat, it is for: rerank"),
        ("/v1/completions", {"model": "rag/handbook", "prompt": "a"}, "rag/handbook does not continue texts"),
        (
            "/v1/embeddings",
            {"model": "rag/handbook", "input": "a"},
            "rag/handbook does not make embeddings, it is for: chat, rag; models that do: mini",
        ),
        ("/v1/embeddings", {"model": "mini-rank", "input": "a"}, "models that do: mini"),
        (
            "/v1/rerank",
            {"model": "mini", "query": "a", "documents": ["b"]},
            "mini does not rerank, it is for: embeddings; models that do: mini-rank",
        ),
        ("/api/chat", question("mini:latest"), "mini does not chat"),
        ("/api/embed", {"model": "rag/handbook", "input": "a"}, "rag/handbook does not make embeddings"),
        ("/api/generate", {"model": "rag/handbook", "prompt": "a", "raw": True}, "does not continue texts"),
    ],
)
async def test_a_model_is_not_asked_what_it_is_not_for(tmp_path, path, body, sentence):
    async with stack(tmp_path) as run:
        response = await run.front.client.post(path, json=body)
        error = response.json()["error"]
        seen = [each.path for each in (*run.rag.seen, *run.embeddings.seen) if each.method == "POST"]
    assert response.status_code == 400
    assert sentence in (error if isinstance(error, str) else error["message"])
    assert path.startswith("/api") or (error["code"], error["param"]) == ("unsupported_parameter", "model")
    assert seen == []


async def test_where_nobody_said_what_a_model_can_do_the_engine_decides(tmp_path):
    async with stack(tmp_path) as run:
        response = await run.front.client.post("/v1/embeddings", json={"model": "fake-chat", "input": "a"})
    assert response.status_code == 400
    assert "This server does not support embeddings" in response.json()["error"]["message"]


# --- new collections, and deleted ones ----------------------------------------------------------------------------


async def test_a_new_collection_is_servable_at_once(tmp_path):
    """Discovery has just looked, and does not look again for a minute."""
    async with stack(tmp_path) as run:
        for name in ("first", "second"):
            run.rag.add_collection(name)
            response = await run.front.client.post(CHAT, json=question(f"rag/{name}"))
            assert response.status_code == 200, response.text
            assert (await run.front.client.get(f"/v1/models/rag/{name}")).status_code == 200


async def test_an_unknown_name_makes_only_the_service_that_it_names_look_at_once(tmp_path):
    async with stack(tmp_path) as run:
        before = len(run.embeddings.requests("/v1/models"))
        answers = [await run.front.client.post(CHAT, json=question("rag/none")) for _ in range(3)]
        looks = len(run.embeddings.requests("/v1/models")) - before
    assert [each.json()["error"]["code"] for each in answers] == ["model_not_found"] * 3
    assert looks == 0


async def test_a_deleted_collection_vanishes(tmp_path):
    async with stack(tmp_path) as run:
        run.rag.drop_collection("handbook")
        response = await run.front.client.post(CHAT, json=question())
        assert (response.status_code, response.json()["error"]["code"]) == (404, "collection_not_found")
        names = run.front.door.catalogue.entries
        await eventually(lambda: "rag/handbook" not in {entry.target.public_id for entry in names()})


# --- who asks -----------------------------------------------------------------------------------------------------


async def test_own_services_learn_who_asks_and_other_servers_do_not(tmp_path):
    async with stack(tmp_path, api_keys=(f"ann={USER}",)) as run:
        bearer = {"authorization": f"Bearer {USER}", ON_BEHALF_OF: "eve", HOPS: "1", "x-request-id": "r-1"}
        for name in ("rag/handbook", "fake-chat"):
            assert (await run.front.client.post(CHAT, json=question(name), headers=bearer)).status_code == 200
    (seen,) = run.rag.requests(CHAT)
    assert verify(seen.headers[ON_BEHALF_OF], KEY) == "ann"
    assert seen.headers["authorization"] == f"Bearer {KEY}"
    assert (seen.headers[HOPS], seen.headers["x-request-id"]) == ("2", "r-1")
    (other,) = run.engine.requests(CHAT)
    assert ON_BEHALF_OF not in other["headers"]
    assert "authorization" not in other["headers"]


@pytest.mark.parametrize("path", ["/api/chat", "/api/embed"])
async def test_so_do_they_of_ollamas_clients(tmp_path, path):
    async with stack(tmp_path) as run:
        body = question("rag/handbook:latest", stream=False) if "chat" in path else {"model": "mini", "input": "a"}
        response = await run.front.client.post(path, json=body)
        assert response.status_code == 200, response.text
        seen = [each for each in (*run.rag.seen, *run.embeddings.seen) if each.method == "POST"]
    assert [verify(each.headers[ON_BEHALF_OF], KEY) for each in seen] == ["loopback"]


@pytest.mark.parametrize(
    ("headers", "client"),
    [
        ({}, "internal"),
        ({ON_BEHALF_OF: sign("ann", KEY)}, "ann"),
        ({ON_BEHALF_OF: sign("ann", "another key")}, "internal"),
        ({ON_BEHALF_OF: "ann"}, "internal"),
        ({ON_BEHALF_OF: b"\xff\xfe"}, "internal"),
        ({ON_BEHALF_OF: sign("ann", KEY, now_s=1.0)}, "internal"),
    ],
    ids=["nobody", "signed", "another key's", "bare", "no text", "old"],
)
async def test_an_own_service_works_for_whom_it_says_in_a_signed_name_alone(tmp_path, logs, headers, client):
    async with stack(tmp_path, api_keys=(f"ann={USER}",), allow_loopback_without_key=False) as run:
        bearer = {"authorization": f"Bearer {KEY}"}
        response = await run.front.client.post(CHAT, json=question("fake-chat"), headers={**bearer, **headers})
        assert response.status_code == 200
    line = next(entry for entry in logs if entry.get("route") == CHAT)
    assert line["client"] == client


async def test_a_users_key_vouches_for_nobody(tmp_path, logs):
    async with stack(tmp_path, api_keys=(f"ann={USER}",)) as run:
        headers = {"authorization": f"Bearer {USER}", ON_BEHALF_OF: sign("bob", KEY)}
        await run.front.client.post(CHAT, json=question("fake-chat"), headers=headers)
    assert next(entry for entry in logs if entry.get("route") == CHAT)["client"] == "ann"


async def test_a_service_that_refuses_the_key_is_not_the_callers_fault(tmp_path):
    async with stack(tmp_path) as run:
        run.rag.key = "another"
        response = await run.front.client.post(CHAT, json=question())
    assert response.status_code == 502
    assert "GATEWAY_INTERNAL_KEY" in response.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_what_a_service_says_of_a_failure_is_told_as_it_says_it(tmp_path, stream):
    async with stack(tmp_path) as run:
        run.rag.refuse = (503, "vector_store_unavailable")
        response = await run.front.client.post(CHAT, json=question(stream=stream))
        other = await run.front.client.post(CHAT, json=question("fake-chat"))
    error = {"message": "vector_store_unavailable of the fake", "type": "overloaded_error", "param": None}
    assert (response.status_code, response.headers["retry-after"]) == (503, "3")
    assert response.json() == {"error": {**error, "code": "vector_store_unavailable"}}
    assert other.status_code == 200


# --- inner calls --------------------------------------------------------------------------------------------------


async def test_tokens_are_counted_once_on_the_inner_call(tmp_path, logs):
    async with stack(tmp_path, api_keys=(f"ann={USER}",)) as run:
        run.rag.gateway = run.front.url
        response = await run.front.client.post(CHAT, json=question(), headers={"authorization": f"Bearer {USER}"})
        totals = await run.front.totals()
        metrics = await run.front.metrics()
    usage = response.json()["usage"]
    assert response.status_code == 200
    assert totals["requests"] == 2
    assert totals["prompt_tokens"] == usage["prompt_tokens"] > 0
    assert totals["completion_tokens"] == usage["completion_tokens"] > 0
    counted = metrics.labels("gen_ai_client_token_usage_count", "gen_ai_request_model")
    assert metrics.value("gen_ai_client_token_usage_sum", gen_ai_request_model="rag/handbook") == 0
    assert "fake-chat" in counted
    assert metrics.value("gateway_exchanges_total", gen_ai_request_model="rag/handbook", outcome="ok") == 1
    lines = [entry for entry in logs if entry.get("route") == CHAT]
    assert [(line["client"], line["model"]) for line in lines] == [("ann", "fake-chat"), ("ann", "rag/handbook")]
    (inner,) = run.engine.requests(CHAT)
    assert inner["headers"][HOPS] == "2"


async def test_tokens_of_embeddings_and_reranking_count(tmp_path):
    async with stack(tmp_path) as run:
        await run.front.client.post("/v1/embeddings", json={"model": "mini", "input": "three words here"})
        rank = {"model": "mini-rank", "query": "one two", "documents": ["three", "four five"]}
        answer = (await run.front.client.post("/v1/rerank", json=rank)).json()
        metrics = await run.front.metrics()
    tokens = "gen_ai_client_token_usage_sum"
    assert answer["usage"] == {"total_tokens": 5}
    assert metrics.value(tokens, gen_ai_request_model="mini-rank", gen_ai_token_type="input") == 5
    assert metrics.value(tokens, gen_ai_request_model="mini-rank", gen_ai_token_type="output") == 0
    assert metrics.value(tokens, gen_ai_request_model="mini", gen_ai_token_type="input") > 0
    assert metrics.value("gateway_exchanges_total", gen_ai_operation_name="rerank") == 1


async def test_a_client_that_leaves_the_outer_stream_leaves_no_tokens_behind(tmp_path):
    async with stack(tmp_path) as run:
        run.rag.gate.clear()
        async with asked(run.front.url, CHAT, question(stream=True)) as client:
            await client.read_head()
            await client.read_piece()
            client.leave()
            await eventually(lambda: run.front.door.live.totals.cancelled == 1)
        metrics = await run.front.metrics()
        assert (await run.front.status())["rates"]["tokens_per_s"] == 0
    assert metrics.value("gen_ai_client_token_usage_count", gen_ai_request_model="rag/handbook") == 0


async def test_a_collection_that_is_answered_by_itself_ends(tmp_path):
    async with stack(tmp_path) as run:
        run.rag.gateway = run.front.url
        run.rag.answers_by = "rag/handbook"
        response = await run.front.client.post(CHAT, json=question())
        asked_times = len(run.rag.requests(CHAT))
    assert (response.status_code, response.json()["error"]["code"]) == (400, "too_many_hops")
    assert asked_times == 4


# --- streams ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("usage", [False, True])
async def test_annotations_and_unknown_fields_pass_through(tmp_path, usage):
    async with stack(tmp_path) as run:
        options = {"stream_options": {"include_usage": True}} if usage else {}
        streamed = await run.front.stream(**question(), **options)
    assert streamed.text == ANSWER
    assert streamed.done
    assert (streamed.usage is not None) is usage
    last = next(each for each in streamed.data if isinstance(each, dict) and each["choices"][0]["finish_reason"])
    assert last["choices"][0]["delta"] == {"annotations": CITATIONS, "of_its_own": {"kept": True}}
    assert last["sparkstack"] == {"x": 1}


async def test_a_whole_answer_has_them_too(tmp_path):
    async with stack(tmp_path) as run:
        message = (await run.front.client.post(CHAT, json=question())).json()["choices"][0]["message"]
    assert (message["content"], message["annotations"]) == (ANSWER, CITATIONS)


# --- Ollama -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rag/handbook", "rag/handbook:latest"])
async def test_ollamas_clients_use_a_name_with_a_slash(tmp_path, name):
    async with stack(tmp_path) as run:
        client = run.front.client
        lines = (await client.post("/api/chat", json=question(name))).text.splitlines()
        shown = (await client.post("/api/show", json={"model": name})).json()
        tags = [each["name"] for each in (await client.get("/api/tags")).json()["models"]]
        embedding = (await client.post("/api/show", json={"model": "mini"})).json()
        vectors = (await client.post("/api/embed", json={"model": "mini", "input": ["a", "b"]})).json()
    pieces = [json.loads(line) for line in lines]
    assert "".join(each["message"]["content"] for each in pieces) == ANSWER
    assert {each["model"] for each in pieces} == {name}
    assert shown["capabilities"] == ["completion", "rag"]
    assert {"rag/handbook", "mini", "mini-rank"} <= set(tags)
    assert embedding["capabilities"] == ["embedding"]
    assert embedding["model_info"]["bert.embedding_length"] == 8
    assert [len(vector) for vector in vectors["embeddings"]] == [8, 8]


# --- reranking ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
async def test_documents_are_put_in_order(tmp_path, path):
    body = {"model": "mini-rank", "query": "the key", "documents": ["no", {"text": "the key"}, "a key"], "top_n": 2}
    async with stack(tmp_path) as run:
        answer = await run.front.client.post(path, json={**body, "return_documents": True, "of_its_own": 1})
        (seen,) = run.embeddings.requests("/v1/rerank")
    assert [each["index"] for each in answer.json()["results"]] == [1, 2]
    assert answer.json()["results"][0]["document"] == {"text": "the key"}
    assert seen.body == {**body, "return_documents": True, "of_its_own": 1}


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"documents": []}, "documents"),
        ({"documents": None}, "documents"),
        ({"documents": ["a", 7]}, "documents[...]"),
        ({"documents": [{"title": "no text"}]}, "documents[...]"),
        ({"query": ""}, "query"),
        ({"top_n": 0}, "top_n"),
    ],
)
async def test_a_malformed_request_names_its_field(tmp_path, wrong, param):
    body = {"model": "mini-rank", "query": "a", "documents": ["b"], **wrong}
    async with stack(tmp_path) as run:
        response = await run.front.client.post("/v1/rerank", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith(param.partition("[")[0])


# --- readiness ----------------------------------------------------------------------------------------------------


async def test_own_services_alone_do_not_make_a_gateway_of_engines_ready(tmp_path):
    async with stack(tmp_path, discovery_interval_s=0.05) as run:
        assert (await run.front.client.get("/readyz")).json()["checks"] == {"engine": "ok"}
        await run.engine.stop()
        await eventually(lambda: run.front.door.backends["engine"].state == "unreachable")
        response = await run.front.client.get("/readyz")
        status = await run.front.status()
        vectors = await run.front.client.post("/v1/embeddings", json={"model": "mini", "input": "a"})
    assert response.status_code == 503
    assert list(response.json()["checks"]) == ["engine"]
    assert status["ready"] is False
    assert vectors.status_code == 200, "what is there serves all the same"


async def test_a_gateway_of_own_services_alone_is_ready_when_one_is(tmp_path):
    async with fake_embeddings(key=KEY) as embeddings:
        path = tmp_path / "catalogue.json"
        path.write_text(json.dumps({"backends": [embeddings.listed()]}))
        async with gateway(catalogue=path, internal_key=KEY) as front:
            assert (await front.client.get("/readyz")).json()["checks"] == {"embeddings": "ok"}


async def test_status_says_what_each_backend_is_for(tmp_path):
    async with stack(tmp_path) as run:
        status = await run.front.status()
    shown = {each["name"]: (each["state"], each["engine"], each["capabilities"]) for each in status["backends"]}
    assert shown == {
        "rag": ("ready", "sparkstack", ["chat", "rag"]),
        "embeddings": ("ready", "sparkstack", ["embeddings", "rerank"]),
        "engine": ("ready", "llamacpp", []),
    }


async def test_a_dead_service_leaves_other_models_unharmed():
    async with fake_engine() as engine, contextlib.AsyncExitStack() as services:
        rag = await services.enter_async_context(fake_rag(key=KEY))
        names = {"rag": rag.url, "engine": engine.url}
        async with gateway(backends=names, backend_keys={"rag": KEY}, discovery_interval_s=0.05) as front:
            assert (await front.client.post(CHAT, json=question())).status_code == 200
            await services.aclose()
            gone = await front.client.post(CHAT, json=question())
            others = await asyncio.gather(*(front.chat() for _ in range(5)))
            await eventually(lambda: front.door.backends["rag"].state == "unreachable")
            listed = (await front.client.get("/v1/models/rag/handbook")).json()
    assert (gone.status_code, gone.json()["error"]["code"]) == (502, "engine_unreachable")
    assert gone.json()["error"]["message"].startswith("rag at http")
    assert [each.status_code for each in others] == [200] * 5
    assert listed["sparkstack"]["state"] == "unreachable"

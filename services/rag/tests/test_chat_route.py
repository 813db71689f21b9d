import asyncio
import json
import time
from contextlib import asynccontextmanager

import aiohttp
import openai
import pytest

from services.kit.app import create_app
from services.kit.metrics import new_registry
from services.kit.on_behalf import HEADER, sign
from services.rag.answering.deciding import NOT_FOUND
from services.rag.answering.routes import router
from services.rag.answering.service import make_answering
from services.rag.errors import ModelRefused
from services.rag.generator import ModelFacts
from services.rag.metrics import RagMetrics
from services.rag.settings import RagSettings
from services.rag.tests.scripted import MemoryStore, OneShelf, ScriptedModel, ShoutingReranker, WordEmbedder, WordTerms
from tests.testkit.server import eventually, running

_QUESTION = "Which port does the gateway listen on?"
_BIG = ModelFacts("big-8b", 8192, 8_000_000_000)


class Stack:
    """The service on a socket, its stand-ins, and clients of it."""

    def __init__(self, tmp_path, model, **settings):
        self.store, self.model, self.shelf = MemoryStore(), model, OneShelf()
        self.embedder = WordEmbedder()
        registry = new_registry()
        self.metrics = RagMetrics(registry)
        self.settings = RagSettings(state=tmp_path, **settings)

        @asynccontextmanager
        async def lifespan(app):
            app.state.settings = self.settings
            app.state.answering = self.answering = make_answering(
                self.settings, self.shelf, self.store, self.embedder, ShoutingReranker(), self.model,
                terms=WordTerms(), metrics=self.metrics,
            )  # fmt: skip
            yield

        async def readiness():
            return {}

        self.app = create_app(service="rag", title="rag", registry=registry, lifespan=lifespan, readiness=readiness)
        self.app.include_router(router)
        self.store.add(
            "The gateway listens on port 8000. It speaks OpenAI's protocol.",
            document="gateway",
            title="Gateway",
            page=3,
            attributes={"year": 2026},
        )
        self.store.add("A lease lasts fifteen seconds.", document="leases", attributes={"year": 2025})

    async def post(self, body, **headers):
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self.url}/v1/chat/completions", json=body, headers=headers) as response,
        ):
            return response.status, response.headers, await response.text()

    async def ask(self, question=_QUESTION, **fields):
        messages = [{"role": "user", "content": question}]
        status, _, text = await self.post({"model": "rag/handbook", "messages": messages, **fields})
        assert status == 200, text
        return json.loads(text)

    def answers(self, outcome):
        return self.metrics.answers.labels(outcome)._value.get()


@pytest.fixture
async def start(tmp_path):
    stacks = []

    async def begin(*says, facts=None, **settings):
        stack = Stack(tmp_path, ScriptedModel(*(says or (["It listens on", " port 8000."],)), facts=facts), **settings)
        server = running(stack.app)
        stack.url = await server.__aenter__()
        stacks.append(server)
        return stack

    yield begin
    for server in stacks:
        await server.__aexit__(None, None, None)


def read_events(text):
    events = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
    return [event if event == "[DONE]" else json.loads(event) for event in events]


async def test_the_openai_client_reads_answer_and_citations(start):
    stack = await start()
    client = openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key="any")
    answer = await client.chat.completions.create(
        model="rag/handbook", messages=[{"role": "user", "content": _QUESTION}], temperature=0.5, seed=7, stop=["\n\n"]
    )
    await client.close()
    message = answer.choices[0].message
    assert message.content == "It listens on port 8000. [1]"
    assert answer.choices[0].finish_reason == "stop"
    [annotation] = message.model_extra.get("annotations") or [each.model_dump() for each in message.annotations]
    assert annotation["filename"] == "gateway.md"
    assert annotation["sparkstack"]["quote"] == "The gateway listens on port 8000."
    assert annotation["sparkstack"]["page"] == 3
    assert answer.usage.prompt_tokens == 100
    assert stack.model.options[0] == {
        "max_tokens": 128,
        "temperature": 0.5,
        "seed": 7,
        "stop": ["\n\n"],
        "model": "default",
    }


async def test_the_openai_client_streams_and_finds_the_citations_on_the_last_delta(start):
    stack = await start()
    client = openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key="any")
    stream = await client.chat.completions.create(
        model="rag/handbook",
        messages=[{"role": "user", "content": _QUESTION}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    await client.close()
    *_, last, usage = chunks
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "It listens on port 8000. [1]"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert last.choices[0].finish_reason == "stop"
    [annotation] = last.choices[0].delta.model_extra["annotations"]
    assert annotation["sparkstack"]["number"] == 1
    assert last.model_extra["event"]["data"]["document"] == [annotation["sparkstack"]["quote"]]
    assert last.model_extra["sparkstack"]["answerable"] is True
    assert (usage.choices, usage.usage.total_tokens) == ([], 102)


async def test_usage_comes_on_request_alone_and_done_is_last(start):
    stack = await start()
    status, headers, text = await stack.post(
        {"model": "rag/handbook", "messages": [{"role": "user", "content": _QUESTION}], "stream": True}
    )
    events = read_events(text)
    assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert events[-1] == "[DONE]"
    assert not any("usage" in event for event in events[:-1])
    assert len({event["id"] for event in events[:-1]}) == 1


async def test_the_first_words_go_out_while_the_model_still_speaks(start):
    stack = await start(["It listens", " on port 8000."], facts=_BIG)
    stack.model.stall_after = 0
    body = {"model": "rag/handbook", "messages": [{"role": "user", "content": _QUESTION}], "stream": True}
    async with aiohttp.ClientSession() as session, session.post(f"{stack.url}/v1/chat/completions", json=body) as head:
        event = json.loads((await head.content.readline()).removeprefix(b"data: "))
        assert event["choices"][0]["delta"] == {"role": "assistant", "content": "It listens"}
        assert not stack.model.closed.is_set()


@pytest.mark.parametrize("streamed", [True, False])
async def test_a_client_that_leaves_ends_the_models_answer_within_100_ms(start, streamed):
    stack = await start(["It listens", " on port 8000."], facts=_BIG)
    stack.model.stall_after = 0
    body = {"model": "rag/handbook", "messages": [{"role": "user", "content": _QUESTION}], "stream": streamed}
    session = aiohttp.ClientSession()
    asking = asyncio.ensure_future(session.post(f"{stack.url}/v1/chat/completions", json=body))
    await asyncio.wait_for(stack.model.stalled.wait(), 5)
    left_at = time.monotonic()
    if streamed:
        (await asking).close()
    else:
        asking.cancel()
    await asyncio.wait_for(stack.model.closed.wait(), 5)
    assert time.monotonic() - left_at < 0.1
    await session.close()
    await eventually(lambda: stack.answers("cancelled") == 1)


async def test_a_failure_before_the_first_word_has_the_gateways_own_status(start):
    refused = ModelRefused("too many", retry_after_s=7).told(429, "rate_limit_error", "tokens_per_minute")
    stack = await start([refused])
    for streamed in (True, False):
        status, headers, text = await stack.post(
            {"model": "rag/handbook", "messages": [{"role": "user", "content": _QUESTION}], "stream": streamed}
        )
        assert (status, headers["retry-after"]) == (429, "7")
        assert json.loads(text)["error"]["code"] == "tokens_per_minute"
    assert stack.answers("failed") == 2


async def test_a_failure_after_the_head_is_an_event_and_there_is_no_done(start):
    stack = await start(["It listens", ModelRefused("it died").told(502, code="engine_unreachable")], facts=_BIG)
    status, _, text = await stack.post(
        {"model": "rag/handbook", "messages": [{"role": "user", "content": _QUESTION}], "stream": True}
    )
    events = read_events(text)
    assert status == 200
    assert events[-1]["error"]["code"] == "engine_unreachable"
    assert "[DONE]" not in events
    assert len(stack.answering.cache) == 0


async def test_what_the_documents_do_not_say_is_told_without_a_model(start):
    stack = await start()
    answer = await stack.ask("Who won the world cup in 1966?")
    assert answer["choices"][0]["message"] == {"role": "assistant", "content": NOT_FOUND, "annotations": []}
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["sparkstack"]["answerable"] is False
    assert answer["usage"]["total_tokens"] == 0
    assert stack.model.prompts == []
    status, _, text = await stack.post(
        {
            "model": "rag/handbook",
            "messages": [{"role": "user", "content": "Who won the world cup in 1966?"}],
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    )
    *pieces, last, usage, done = read_events(text)
    assert (status, done) == (200, "[DONE]")
    assert "".join(each["choices"][0]["delta"]["content"] for each in pieces) == NOT_FOUND
    assert last["sparkstack"]["answerable"] is False
    assert usage["usage"]["total_tokens"] == 0


async def test_a_model_that_finds_no_answer_itself_is_believed(start):
    stack = await start([NOT_FOUND])
    answer = await stack.ask()
    assert answer["sparkstack"]["answerable"] is False
    assert answer["choices"][0]["message"]["annotations"] == []


async def test_the_same_question_is_answered_from_the_cache_until_the_collection_changes(start):
    stack = await start()
    first, second = await stack.ask(), await stack.ask()
    assert len(stack.model.prompts) == 1
    assert second["choices"][0]["message"] == first["choices"][0]["message"]
    assert (first["sparkstack"]["cached"], second["sparkstack"]["cached"]) == (None, "exact")
    assert second["usage"]["total_tokens"] == 0
    assert (await stack.ask(rag={"limit": 1}))["sparkstack"]["cached"] is None
    assert (await stack.ask(temperature=0.9))["sparkstack"]["cached"] is None
    stack.shelf.change("handbook", revision=2)
    assert (await stack.ask())["sparkstack"]["cached"] is None
    assert stack.metrics.cache.labels("exact", "hit")._value.get() == 1


async def test_a_streamed_answer_of_the_cache_is_the_same_answer(start):
    stack = await start()
    plain = await stack.ask()
    _, _, text = await stack.post(
        {"model": "rag/handbook", "messages": [{"role": "user", "content": _QUESTION}], "stream": True}
    )
    *pieces, last, _ = read_events(text)
    assert (
        "".join(each["choices"][0]["delta"]["content"] for each in pieces) == plain["choices"][0]["message"]["content"]
    )
    assert last["choices"][0]["delta"]["annotations"] == plain["choices"][0]["message"]["annotations"]
    assert last["event"]["data"]["document"] == [
        each["sparkstack"]["quote"] for each in plain["choices"][0]["message"]["annotations"]
    ]
    assert last["sparkstack"]["cached"] == "exact"


async def test_a_very_similar_question_is_answered_from_the_cache_where_that_is_on(start):
    stack = await start(semantic_cache=True)
    await stack.ask("Which port does the gateway listen on?")
    answer = await stack.ask("On which port does the gateway listen, please?")
    assert answer["sparkstack"]["cached"] == "semantic"
    assert answer["sparkstack"]["cached_similarity"] > 0.99
    assert len(stack.model.prompts) == 1
    assert stack.metrics.cache.labels("semantic", "hit")._value.get() == 1
    off = await start()
    await off.ask("Which port does the gateway listen on?")
    assert (await off.ask("On which port does the gateway listen, please?"))["sparkstack"]["cached"] is None


async def test_callers_of_a_private_collection_share_neither_documents_nor_answers(start):
    stack = await start(["Port 8000."], ["Port 9."], api_key="inner", gateway_key="inner")
    stack.shelf.change("handbook", visibility="private")
    stack.store.add("The gateway of alice listens on port 8000.", document="hers", tenant="alice")
    stack.store.add("The gateway of bob listens on port 9.", document="his", tenant="bob")
    body = {"model": "rag/handbook", "messages": [{"role": "user", "content": _QUESTION}]}
    found = {}
    for name in ("alice", "bob"):
        signed = {HEADER: sign(name, "inner"), "Authorization": "Bearer inner", "x-sparkstack-hops": "2"}
        status, _, text = await stack.post(body, **signed)
        assert status == 200
        found[name] = [each["file_id"] for each in json.loads(text)["choices"][0]["message"]["annotations"]]
    assert found == {"alice": ["hers"], "bob": ["his"]}
    assert [caller.name for caller in stack.model.callers] == ["alice", "bob"]
    assert stack.model.callers[0].headers["x-sparkstack-hops"] == "2"
    status, _, _ = await stack.post(body)
    assert status == 401


async def test_a_follow_up_is_looked_for_with_what_came_before_it(start):
    stack = await start(["A lease lasts fifteen seconds."])
    messages = [
        {"role": "user", "content": "What is a lease?"},
        {"role": "assistant", "content": "A lease is a right to a model. [1]"},
        {"role": "user", "content": "How long does it last?"},
    ]
    status, _, text = await stack.post({"model": "rag/handbook", "messages": messages, "rag": {"trace": True}})
    answer = json.loads(text)
    assert status == 200
    assert answer["sparkstack"]["question"] == "How long does it last? (lease)"
    assert answer["sparkstack"]["retrieval"]["steps"][0]["name"] == "rewrite"
    assert answer["choices"][0]["message"]["annotations"][0]["file_id"] == "leases"
    prompt = stack.model.prompts[0]
    assert [message["role"] for message in prompt] == ["system", "user", "assistant", "user"]
    assert prompt[2]["content"] == "A lease is a right to a model."


async def test_a_trace_shows_steps_and_passages_and_only_on_request(start):
    stack = await start()
    answer = await stack.ask(rag={"trace": True, "preset": "fast", "limit": 1})
    retrieval = answer["sparkstack"]["retrieval"]
    assert [step["name"] for step in retrieval["steps"]] == ["embed", "hybrid", "dedupe", "top"]
    assert retrieval["ms"] == pytest.approx(sum(step["ms"] for step in retrieval["steps"]), abs=0.1)
    assert [each["filename"] for each in retrieval["passages"]] == ["gateway.md"]
    assert "retrieval" not in (await stack.ask())["sparkstack"]


async def test_passages_alone_need_no_model(start):
    stack = await start()
    answer = await stack.ask(rag={"retrieve_only": True, "filters": {"type": "eq", "key": "year", "value": 2025}})
    message = answer["choices"][0]["message"]
    assert message["content"] == "A lease lasts fifteen seconds. [1]"
    [annotation] = message["annotations"]
    assert message["content"][annotation["index"] :] == "[1]"
    assert stack.model.prompts == []


async def test_a_prompt_that_is_too_long_after_all_is_tried_once_with_half_of_the_room(start):
    too_long = ModelRefused("over 4096").told(400, code="context_length_exceeded")
    stack = await start([too_long], ["It listens on port 8000."])
    stack.store.add("The gateway listens on port 8000. " + "It has much to say of ports. " * 100, document="long")
    answer = await stack.ask()
    first, second = (len(prompt[-1]["content"]) for prompt in stack.model.prompts)
    assert second < first
    assert answer["choices"][0]["message"]["content"].startswith("It listens on port 8000.")
    status, _, _ = await (await start([too_long])).post(
        {"model": "rag/handbook", "messages": [{"role": "user", "content": _QUESTION}]}
    )
    assert status == 400


async def test_a_capable_model_is_told_to_cite_and_keeps_its_own_temperature(start):
    stack = await start(["It listens on port 8000 [1]."], facts=_BIG)
    answer = await stack.ask()
    assert answer["choices"][0]["message"]["content"] == "It listens on port 8000. [1]"
    assert "number of its passage" in stack.model.prompts[0][0]["content"]
    assert "temperature" not in stack.model.options[0]


@pytest.mark.parametrize(
    ("fields", "status", "param", "said"),
    [
        ({"model": "rag/nothing"}, 404, None, "there are handbook"),
        ({"n": 2}, 400, "n", "can't be honoured"),
        ({"tools": [{"type": "function"}]}, 400, "tools", "can't be honoured"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format", "can't be honoured"),
        ({"logprobs": True}, 400, "logprobs", "can't be honoured"),
        ({"rag": {"preset": "magic"}}, 400, "preset", "there are accurate, balanced, fast"),
        ({"rag": {"speed": 1}}, 400, "rag.speed", "Extra inputs"),
        ({"rag": {"filters": {"type": "eq"}}}, 400, "rag.filters", "needs `key`"),
        ({"rag": {"limit": 0}}, 400, "rag.limit", "greater than or equal to 1"),
        ({"messages": []}, 400, "messages", "at least 1"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "messages", "must be the user's question"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "messages", "role is 'tool'"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "messages", "not text"),
        ({"messages": [{"role": "user", "content": " "}]}, 400, "messages", "the question is empty"),
        ({"max_tokens": 0}, 400, "max_tokens", "greater than or equal to 1"),
    ],
)
async def test_what_can_not_be_answered_is_refused_with_the_field(start, fields, status, param, said):
    stack = await start()
    body = {"model": "rag/handbook", "messages": [{"role": "user", "content": _QUESTION}], **fields}
    got, _, text = await stack.post(body)
    error = json.loads(text)["error"]
    assert (got, error["param"]) == (status, param)
    assert said in error["message"]


async def test_a_store_that_is_down_is_a_503_before_any_head(start):
    stack = await start()
    stack.store.down = True
    status, headers, text = await stack.post(
        {"model": "rag/handbook", "messages": [{"role": "user", "content": _QUESTION}], "stream": True}
    )
    assert (status, headers["retry-after"]) == (503, "2")
    assert json.loads(text)["error"]["code"] == "vector_store_unavailable"


async def test_the_models_are_the_collections_that_have_something_to_find(start):
    stack = await start()
    client = openai.AsyncOpenAI(base_url=f"{stack.url}/v1", api_key="any")
    [model] = [each async for each in client.models.list()]
    await client.close()
    assert (model.id, model.owned_by) == ("rag/handbook", "sparkstack")
    assert model.model_extra["sparkstack"]["capabilities"] == ["chat", "rag"]
    assert model.model_extra["sparkstack"]["context_tokens"] == 4096


async def test_a_users_own_preset_is_used_at_once(start, tmp_path):
    stack = await start()
    (tmp_path / "rag" / "presets").mkdir(parents=True)
    (tmp_path / "rag" / "presets" / "words.yaml").write_text("steps: [sparse]")
    answer = await stack.ask(rag={"preset": "words", "trace": True})
    assert [step["name"] for step in answer["sparkstack"]["retrieval"]["steps"]] == ["sparse"]

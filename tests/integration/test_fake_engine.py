"""What the fake engine says, over real sockets: deterministic, in OpenAI's format, with usage that adds up."""

import base64
import json
import math
import struct
import time

import httpx
import jsonschema_rs
import pytest

from services.kit.sse import EventSplitter, event_data
from tests.testkit.server import fake_engine as engine_with

CHAT = "/v1/chat/completions"
MAGIC = {"type": "object", "properties": {"input": {"type": "integer"}}, "required": ["input"]}
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [
    {"type": "function", "function": {"name": "magic_function", "parameters": MAGIC}},
    {"type": "function", "function": {"name": "get_weather", "parameters": WEATHER}},
]


@pytest.fixture
async def client(fake_engine):
    async with httpx.AsyncClient(base_url=fake_engine.url, trust_env=False, timeout=10) as client:
        yield client


def asking(text, **fields):
    return {"model": "fake-chat", "messages": [{"role": "user", "content": text}], **fields}


async def answer(client, text, path=CHAT, headers=None, **fields):
    response = await client.post(path, json=asking(text, **fields), headers=headers)
    assert response.status_code == 200, response.text
    return response.json()


async def said(client, text, **fields):
    return (await answer(client, text, **fields))["choices"][0]["message"]


async def streamed(client, text, path=CHAT, headers=None, **fields):
    """Return the data of each event; the last of a whole stream is `[DONE]`."""
    response = await client.post(path, json={**asking(text), "stream": True, **fields}, headers=headers)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/event-stream"
    splitter = EventSplitter()
    data = [event_data(event) for event in splitter.feed(response.content)]
    assert splitter.pending == b""
    return [each if each == b"[DONE]" else json.loads(each) for each in data if each is not None]


def deltas(events):
    return [event["choices"][0]["delta"] for event in events[:-1] if event["choices"]]


# --- words ------------------------------------------------------------------------------------------------------


async def test_models_are_listed_in_llama_cpps_form(client):
    models = (await client.get("/v1/models")).json()["data"]
    assert [model["id"] for model in models] == ["fake-chat", "fake-embed"]
    assert {"n_ctx", "n_ctx_train", "n_params", "size", "ftype"} <= set(models[0]["meta"])
    assert (await client.get("/health")).json() == {"status": "ok"}


async def test_the_same_seed_and_prompt_give_the_same_words_and_others_give_others(client):
    first = await said(client, "hello")
    assert len(first["content"].split()) == 24
    assert await said(client, "hello") == first
    assert await said(client, "hello", seed=7) != first
    assert await said(client, "hello!") != first
    async with engine_with(seed=2) as other, httpx.AsyncClient(base_url=other.url, trust_env=False) as stranger:
        assert await said(stranger, "hello") != first


async def test_a_stream_says_what_the_plain_answer_says_one_token_at_a_time(client):
    events = await streamed(client, "hello")
    said_in_pieces = [delta["content"] for delta in deltas(events) if delta.get("content")]
    assert "".join(said_in_pieces) == (await said(client, "hello"))["content"]
    assert len(said_in_pieces) == 24
    assert deltas(events)[0] == {"role": "assistant", "content": None}
    assert events[-2]["choices"][0]["finish_reason"] == "stop"
    assert events[-1] == b"[DONE]"


async def test_usage_comes_in_a_stream_only_when_asked_for_and_last(client):
    assert not any("usage" in event for event in (await streamed(client, "hello"))[:-1])
    events = await streamed(client, "hello", stream_options={"include_usage": True})
    assert events[-2]["choices"] == []
    assert events[-2]["usage"] == (await answer(client, "hello"))["usage"]


@pytest.mark.parametrize("text", ["hello", "unicode please", "echo: internationally  known \n words", "reason"])
async def test_usage_agrees_with_apply_template_and_tokenize(client, text):
    fields = {"reasoning_effort": "low"} if text == "reason" else {}
    whole = await answer(client, text, **fields)
    message = whole["choices"][0]["message"]
    prompt = (await client.post("/apply-template", json=asking(text))).json()["prompt"]
    counts = [
        len((await client.post("/tokenize", json={"content": each})).json()["tokens"])
        for each in (prompt, message["content"], message.get("reasoning_content", ""))
    ]
    usage = whole["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (counts[0], counts[1] + counts[2])
    assert usage["total_tokens"] == sum(counts)


async def test_pieces_of_the_tokenizer_join_to_the_text(client):
    text = " Hello  internationally known wörld 你好\n"
    tokens = (await client.post("/tokenize", json={"content": text, "with_pieces": True})).json()["tokens"]
    assert "".join(token["piece"] for token in tokens) == text
    assert [token["piece"] for token in tokens][1:3] == ["  internat", "ionally"]


async def test_an_engine_without_usage_never_reports_it():
    async with engine_with(usage=False) as engine, httpx.AsyncClient(base_url=engine.url, trust_env=False) as client:
        assert "usage" not in await answer(client, "hello")
        events = await streamed(client, "hello", stream_options={"include_usage": True})
        assert not any("usage" in event for event in events[:-1])


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
async def test_an_answer_is_cut_at_its_limit(client, limit):
    whole = await answer(client, "hello", **{limit: 3})
    assert whole["choices"][0]["finish_reason"] == "length"
    assert whole["usage"]["completion_tokens"] == 3
    assert len(deltas(await streamed(client, "hello", **{limit: 3}))) == 1 + 3 + 1


async def test_ignore_eos_makes_the_answer_as_long_as_allowed(client):
    assert (await answer(client, "hello", max_tokens=100, ignore_eos=True))["usage"]["completion_tokens"] == 100
    assert (await answer(client, "hello", max_tokens=100))["usage"]["completion_tokens"] == 24


@pytest.mark.parametrize("stop", ["three", ["never", "three"]])
async def test_an_answer_ends_before_a_stop_text(client, stop):
    whole = await answer(client, "echo: one two three four", stop=stop)
    assert whole["choices"][0]["message"]["content"] == "one two "
    assert whole["choices"][0]["finish_reason"] == "stop"


async def test_n_gives_different_choices_streamed_in_turns(client):
    whole = await answer(client, "hello", n=3, max_tokens=4)
    texts = [choice["message"]["content"] for choice in whole["choices"]]
    assert len(set(texts)) == 3
    assert whole["usage"]["completion_tokens"] == 12
    events = await streamed(client, "hello", n=3, max_tokens=4)
    assert [event["choices"][0]["index"] for event in events[:9]] == [0, 1, 2] * 3
    for index, text in enumerate(texts):
        own = [each["choices"][0]["delta"] for each in events[:-1] if each["choices"][0]["index"] == index]
        assert "".join(delta.get("content") or "" for delta in own) == text


async def test_echo_says_the_rest_of_the_message_images_or_not(client):
    parts = [
        {"type": "text", "text": "echo: two  words"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    ]
    assert (await said(client, "echo: a b  c"))["content"] == "a b  c"
    assert (await said(client, parts))["content"] == "two  words\n<image_url>"


async def test_unicode_survives_every_split_of_its_bytes(client):
    whole = (await said(client, "unicode"))["content"]
    assert any(ord(letter) > 0xFFFF for letter in whole)
    events = await streamed(client, "unicode", headers={"x-fake-split": "1"})
    assert "".join(delta.get("content") or "" for delta in deltas(events)) == whole


async def test_reasoning_comes_before_the_content_and_is_counted(client):
    events = await streamed(client, "hello", reasoning_effort="low")
    kinds = [next(iter(delta)) for delta in deltas(events)[1:-1]]
    assert kinds == ["reasoning_content"] * 8 + ["content"] * 24
    usage = (await answer(client, "hello", reasoning_effort="low"))["usage"]
    assert usage["completion_tokens"] == 32
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 8}


async def test_logprobs_of_a_chat_are_openais(client):
    whole = await answer(client, "echo: hé you", logprobs=True, top_logprobs=3)
    content = whole["choices"][0]["logprobs"]["content"]
    assert [each["token"] for each in content] == ["hé", " you"]
    for each in content:
        assert bytes(each["bytes"]).decode() == each["token"]
        ranked = [rival["logprob"] for rival in each["top_logprobs"]]
        assert ranked == sorted(ranked, reverse=True)
        assert ranked[0] == each["logprob"] < 0
        assert sum(map(math.exp, ranked)) <= 1
    events = await streamed(client, "echo: hé you", logprobs=True, top_logprobs=3)
    in_pieces = [each for event in events[:-1] for each in event["choices"][0].get("logprobs", {}).get("content", [])]
    assert in_pieces == content


# --- structure --------------------------------------------------------------------------------------------------


async def test_a_json_schema_is_answered_with_a_valid_instance(client):
    schema = {"type": "object", "properties": {"city": {"type": "string"}, "age": {"type": "integer", "minimum": 3}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}
    whole = await said(client, "who?", response_format=wanted)
    jsonschema_rs.validator_for(schema).validate(json.loads(whole["content"]))
    in_pieces = deltas(await streamed(client, "who?", response_format=wanted))
    assert "".join(delta.get("content") or "" for delta in in_pieces) == whole["content"]
    assert len(in_pieces) > 5


async def test_json_mode_has_the_keys_that_the_message_quotes(client):
    wanted = {"type": "json_object"}
    content = (await said(client, "JSON with 'setup' and 'punchline'", response_format=wanted))["content"]
    assert list(json.loads(content)) == ["setup", "punchline"]
    assert list(json.loads((await said(client, "JSON", response_format=wanted))["content"])) == ["answer"]


@pytest.mark.parametrize(
    ("text", "choice", "called"),
    [
        ("What is magic_function(3)?", "auto", [("magic_function", {"input": 3})]),
        ("How is the weather in 'São Paulo'?", "auto", [("get_weather", {"city": "São Paulo"})]),
        (
            "get_weather of 'Rom', magic_function 4",
            "auto",
            [("get_weather", {"city": "Rom"}), ("magic_function", {"input": 4})],
        ),
        ("Use a tool on 5.", "auto", [("magic_function", {"input": 5})]),
        ("Hello 6", "required", [("magic_function", {"input": 6})]),
        ("magic_function", {"type": "function", "function": {"name": "get_weather"}}, [("get_weather", None)]),
        ("What is magic_function(3)?", "none", []),
        ("Hello", "auto", []),
        ("echo: magic_function", "auto", []),
    ],
)
async def test_tools_are_called_when_asked_for(client, text, choice, called):
    fields = {"tools": TOOLS, "tool_choice": choice}
    whole = (await answer(client, text, **fields))["choices"][0]
    calls = whole["message"].get("tool_calls", [])
    assert whole["finish_reason"] == ("tool_calls" if called else "stop")
    assert [call["function"]["name"] for call in calls] == [name for name, _ in called]
    for call, (_, arguments) in zip(calls, called, strict=True):
        assert arguments in (None, json.loads(call["function"]["arguments"]))
    assert len({call["id"] for call in calls}) == len(called)
    assert joined_calls(await streamed(client, text, **fields)) == calls


def joined_calls(events):
    """Put the calls of a stream together as a client does, by index."""
    calls = []
    for delta in deltas(events):
        for piece in delta.get("tool_calls", []):
            if "id" in piece:
                assert piece["index"] == len(calls)
                calls.append({"id": piece["id"], "type": piece["type"], "function": dict(piece["function"])})
            else:
                calls[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]
    return calls


async def test_arguments_come_in_several_deltas_the_first_with_id_and_name(client):
    pieces = [
        delta["tool_calls"][0] for delta in deltas(await streamed(client, "magic_function(3)", tools=TOOLS))[1:-1]
    ]
    assert len(pieces) >= 3
    assert pieces[0]["id"]
    assert pieces[0]["function"] == {"name": "magic_function", "arguments": ""}
    assert all("id" not in piece and "name" not in piece["function"] for piece in pieces[1:])


async def test_parallel_calls_can_be_forbidden(client):
    text = "magic_function and get_weather"
    assert len((await said(client, text, tools=TOOLS))["tool_calls"]) == 2
    assert len((await said(client, text, tools=TOOLS, parallel_tool_calls=False))["tool_calls"]) == 1


async def test_a_tools_result_is_answered_in_words(client):
    call = (await said(client, "magic_function(3)", tools=TOOLS))["tool_calls"][0]
    messages = [
        {"role": "user", "content": "magic_function(3)"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": "5 apples"},
    ]
    body = {"model": "fake-chat", "messages": messages, "tools": TOOLS}
    message = (await client.post(CHAT, json=body)).json()["choices"][0]["message"]
    assert message == {"role": "assistant", "content": "The tool answered: 5 apples"}


# --- the other endpoints ----------------------------------------------------------------------------------------


async def test_completions_take_several_prompts_and_give_openais_logprobs(client):
    body = {"model": "fake-chat", "prompt": ["echo: one two", "hello"], "logprobs": 2}
    whole = (await client.post("/v1/completions", json=body)).json()
    assert whole["choices"][0]["text"] == "one two"
    assert len(whole["choices"][1]["text"].split()) == 24
    logprobs = whole["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["one", " two"]
    assert logprobs["text_offset"] == [0, 3]
    assert [len(each) for each in logprobs["top_logprobs"]] == [2, 2]
    fields = {"prompt": "hello", "stream_options": {"include_usage": True}}
    events = await streamed(client, "", path="/v1/completions", **fields)
    text = "".join(event["choices"][0]["text"] for event in events[:-1] if event["choices"])
    assert text == whole["choices"][1]["text"]
    assert events[-2]["usage"]["completion_tokens"] == 24


async def test_embeddings_are_normalised_stable_and_the_same_in_both_encodings(client):
    body = {"model": "fake-embed", "input": ["one", "two", "one"], "dimensions": 32}
    floats = (await client.post("/v1/embeddings", json=body)).json()
    vectors = [each["embedding"] for each in floats["data"]]
    assert vectors[0] == vectors[2] != vectors[1]
    assert [math.isclose(math.hypot(*vector), 1, rel_tol=1e-9) for vector in vectors] == [True] * 3
    assert floats["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    encoded = (await client.post("/v1/embeddings", json={**body, "encoding_format": "base64"})).json()
    decoded = struct.unpack("<32f", base64.b64decode(encoded["data"][1]["embedding"]))
    assert decoded == pytest.approx(vectors[1], abs=1e-6)


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        (CHAT, asking("hi") | {"model": "nope"}, 404, "model 'nope' not found"),
        (CHAT, asking("hi") | {"model": "fake-embed"}, 501, "only makes embeddings"),
        (CHAT, {"model": "fake-chat"}, 400, "'messages' is required"),
        (CHAT, asking({"no": "list"}), 400, "content must be"),
        (CHAT, asking("hi", max_tokens="many"), 400, "max_tokens must be"),
        (CHAT, asking("hi", n=0.5), 400, "n must be"),
        (CHAT, asking("hi", tools=[{"name": "x"}]), 400, "each of 'tools'"),
        (CHAT, asking("hi", response_format={"type": "yaml"}), 400, "response_format.type"),
        (CHAT, asking("word " * 8200), 400, "exceeds the available context size"),
        (CHAT, [1], 400, "must be a JSON object"),
        ("/v1/completions", {"model": "fake-chat"}, 400, "'prompt' is required"),
        ("/v1/embeddings", {"model": "fake-chat", "input": "a"}, 501, "does not support embeddings"),
        ("/v1/embeddings", {"model": "fake-embed", "input": ""}, 400, "empty"),
        ("/nope", {}, 404, "File Not Found"),
    ],
)
async def test_errors_have_llama_cpps_envelope(client, path, body, status, message):
    response = await client.post(path, json=body)
    assert response.status_code == status
    error = response.json()["error"]
    assert error["code"] == status
    assert message in error["message"]
    assert error["type"]


async def test_an_engine_can_answer_every_model_name():
    async with (
        engine_with(models=["one", "two"], any_model=True) as engine,
        httpx.AsyncClient(base_url=engine.url, trust_env=False) as client,
    ):
        whole = (await client.post(CHAT, json=asking("hi") | {"model": "nope"})).json()
        assert whole["model"] == "one"


# --- time -------------------------------------------------------------------------------------------------------


async def test_chunks_come_one_by_one_at_the_pace():
    async with (
        engine_with(ttft_ms=60, tokens_per_s=100) as engine,
        httpx.AsyncClient(base_url=engine.url, trust_env=False) as client,
    ):
        begin = time.monotonic()
        came = []
        async with client.stream("POST", CHAT, json=asking("hello", stream=True, max_tokens=10)) as response:
            head_at = time.monotonic()
            came = [time.monotonic() async for chunk in response.aiter_raw() if b'"content":"' in chunk]
        assert head_at < came[0]
        assert came[0] - begin >= 0.060
        assert len(came) >= 5, "several chunks came in one piece"
        assert came[-1] - begin >= 0.060 + 9 * 0.010


async def test_a_plain_answer_takes_as_long_as_its_tokens(client):
    begin = time.monotonic()
    await answer(client, "hello", max_tokens=5, headers={"x-fake-ttft-ms": "50", "x-fake-tokens-per-s": "100"})
    assert time.monotonic() - begin >= 0.1

import json
from typing import Any

import msgspec
import pytest

from services.gateway.catalogue import ModelFacts, Target
from services.gateway.exchange import Exchange
from services.gateway.ollama.answers import EmbedFormat, OllamaFormat
from services.gateway.ollama.models import capabilities, details
from services.gateway.ollama.requests import ChatRequest, GenerateRequest, chat_body, generate_body
from services.kit.errors import InvalidRequest, UnsupportedParameter
from services.kit.openai import Timings, Usage, read_answer
from services.kit.sse import encode_event


def chat(**fields: Any) -> dict[str, Any]:
    document = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}
    return chat_body(msgspec.convert(document, ChatRequest))


def exchange() -> Exchange:
    return Exchange("id", "me", Target("b", "m", "m", ModelFacts("m")), "chat", True, {})


def test_ollama_streams_unless_told_not_to() -> None:
    assert chat()["stream"] is True
    assert chat(stream=False)["stream"] is False
    assert "stream_options" not in chat(stream=False)


def test_options_that_engines_read_are_passed_and_those_about_loading_are_not() -> None:
    body = chat(options={"temperature": 0, "num_predict": 5, "num_ctx": 4096, "stop": ["x"], "num_gpu": 1})
    assert (body["temperature"], body["max_tokens"], body["stop"]) == (0, 5, ["x"])
    assert "num_ctx" not in body
    assert "max_tokens" not in chat(options={"num_predict": -1})


def test_a_format_is_a_schema_or_the_word_json() -> None:
    schema = {"type": "object"}
    assert chat(format=schema)["response_format"]["json_schema"]["schema"] == schema
    assert chat(format="json")["response_format"] == {"type": "json_object"}
    with pytest.raises(InvalidRequest, match="'xml'"):
        chat(format="xml")


def test_tool_calls_and_their_results_find_each_other() -> None:
    calls = [{"function": {"name": n, "arguments": {"x": 1}}} for n in ("f", "g")]
    body = chat(
        messages=[
            {"role": "assistant", "content": "", "tool_calls": calls},
            {"role": "tool", "content": "2", "tool_name": "g"},
            {"role": "tool", "content": "1", "tool_name": "f"},
        ]
    )
    made = body["messages"][0]["tool_calls"]
    assert made[0]["function"]["arguments"] == '{"x":1}'
    assert [m["tool_call_id"] for m in body["messages"][1:]] == [made[1]["id"], made[0]["id"]]


def test_images_become_data_urls() -> None:
    body = chat(messages=[{"role": "user", "content": "what?", "images": ["/9j/abc", "iVBOR"]}])
    urls = [part["image_url"]["url"] for part in body["messages"][0]["content"][1:]]
    assert urls == ["data:image/jpeg;base64,/9j/abc", "data:image/png;base64,iVBOR"]


def test_generate_is_a_chat_unless_it_is_raw_or_has_a_suffix() -> None:
    path, body = generate_body(GenerateRequest(model="m", prompt="p", system="s"))
    assert path == "/v1/chat/completions"
    assert [m["role"] for m in body["messages"]] == ["system", "user"]
    assert generate_body(GenerateRequest(model="m", prompt="p", raw=True))[0] == "/v1/completions"
    assert generate_body(GenerateRequest(model="m", prompt="p", suffix="q"))[1]["suffix"] == "q"
    with pytest.raises(UnsupportedParameter, match="template"):
        generate_body(GenerateRequest(model="m", prompt="p", template="{{ .Prompt }}"))


def lines(answer_format: OllamaFormat, *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    out = b""
    for delta in deltas:
        data = json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode()
        out += answer_format.event(encode_event(data), read_answer(data))
    ended = exchange()
    ended.usage, ended.timings, ended.finish_reason = Usage(7, 3, 10), Timings(20.0, 30.0), "length"
    out += answer_format.finish(ended)
    return [json.loads(line) for line in out.splitlines()]


def test_a_stream_ends_with_counts_and_times_in_nanoseconds() -> None:
    first, last = lines(OllamaFormat("m", chat=True), {"content": "a"})
    assert first["message"]["content"] == "a"
    assert (last["done"], last["done_reason"]) == (True, "length")
    assert (last["prompt_eval_count"], last["eval_count"]) == (7, 3)
    assert (last["prompt_eval_duration"], last["eval_duration"]) == (20_000_000, 30_000_000)


def test_tool_calls_are_put_together_from_their_pieces() -> None:
    made = lines(
        OllamaFormat("m", chat=True),
        {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"x":'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]},
        {"tool_calls": [{"id": "b", "function": {"name": "g", "arguments": "not json"}}]},
    )
    assert [call["function"] for call in made[0]["message"]["tool_calls"]] == [
        {"name": "f", "arguments": {"x": 1}},
        {"name": "g", "arguments": {"_raw": "not json"}},
    ]


def test_thinking_has_its_own_field() -> None:
    first = lines(OllamaFormat("m", chat=True), {"reasoning_content": "hm"})[0]
    assert first["message"] == {"role": "assistant", "content": "", "thinking": "hm"}


def test_vectors_come_in_the_order_of_their_texts() -> None:
    body = json.dumps({"data": [{"index": 1, "embedding": [2]}, {"index": 0, "embedding": [1]}]}).encode()
    assert json.loads(EmbedFormat("m", legacy=False).plain(body, exchange()))["embeddings"] == [[1], [2]]
    assert json.loads(EmbedFormat("m", legacy=True).plain(body, exchange())) == {"embedding": [1]}


def test_facts_are_told_in_ollamas_words() -> None:
    facts = ModelFacts("m", parameters=134515008, quantization="Q4_1", capabilities=("chat", "completion", "tools"))
    assert details(facts)["parameter_size"] == "134.5M"
    assert capabilities(facts) == ["completion", "tools"]
    assert capabilities(ModelFacts("x")) == ["completion"]

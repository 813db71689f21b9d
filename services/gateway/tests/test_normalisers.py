"""What is changed of each engine's answers: on chunks that the engines have sent (`recorded/`), whole and in pieces.

`tool-call*`: llama.cpp and vLLM with SmolLM2, whose template has no tools, asked by the schema that the gateway sends.
`vllm-reasoning*`: vLLM with a parser of thoughts and a regular expression that makes the model think.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from services.gateway.adapters.normaliser import Normaliser, normaliser_for
from services.gateway.adapters.tool_text import CallReader
from services.gateway.catalogue import ModelFacts, Target
from services.gateway.exchange import Exchange
from services.kit.errors import EngineInvalidResponse, InvalidRequest, UnsupportedParameter
from services.kit.openai import read_answer
from services.kit.sse import EventSplitter, event_data

RECORDED = Path(__file__).with_name("recorded")
ENGINES = ("llamacpp", "vllm")
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"$ref": "#/$defs/Unit"}},
            "$defs": {"Unit": {"enum": ["C", "F"]}},
        },
    },
}
TIME = {"type": "function", "function": {"name": "time_in"}}


def normaliser(engine: str, *, tools: bool = True, capabilities: tuple[str, ...] = ("chat",)) -> Normaliser | None:
    target = Target("backend", "small", "small", ModelFacts("small", capabilities=capabilities))
    fields = {"messages": b"[]", **({"tools": b"[]"} if tools else {})}
    return normaliser_for(engine, Exchange("id", "client", target, "chat", True, fields))


def forced(engine: str, choice: Any = "required") -> tuple[Normaliser, dict[str, Any]]:
    """A normaliser that has seen a request, and what the engine is asked."""
    found = normaliser(engine)
    assert found is not None
    body = {"model": "small", "messages": [], "tools": [WEATHER, TIME], "tool_choice": choice, "seed": 1}
    sent: dict[str, Any] = json.loads(found.request(json.dumps(body).encode()))
    return found, sent


def events(name: str) -> list[bytes]:
    return EventSplitter().feed((RECORDED / name).read_bytes())


def play(found: Normaliser, sent: list[bytes]) -> list[dict[str, Any]]:
    """The JSON of what a client gets; `[DONE]` is the relay's."""
    out = []
    for event in sent:
        data = event_data(event)
        answer = None if data in (None, b"[DONE]") else read_answer(data or b"")
        if answer is not None:
            changed, _ = found.event(event, answer)
            out += [json.loads(event_data(each) or b"") for each in EventSplitter().feed(changed) if each]
    return out


def put_together(chunks: list[dict[str, Any]], choice: int = 0) -> tuple[list[dict[str, Any]], list[Any]]:
    """The tool calls and finish reasons of a choice, as clients put them together: by the deltas' `index`."""
    calls: list[dict[str, Any]] = []
    reasons = []
    for chunk in chunks:
        for each in chunk["choices"]:
            if each["index"] != choice:
                continue
            reasons += [each["finish_reason"]] if each["finish_reason"] else []
            for delta in each["delta"].get("tool_calls", ()):
                if delta["index"] == len(calls):
                    calls.append(
                        {"id": delta["id"], "type": delta["type"], "name": delta["function"]["name"], "text": ""}
                    )
                calls[delta["index"]]["text"] += delta["function"]["arguments"]
    return calls, reasons


# --- nothing to do


def test_a_conversation_with_llamacpp_has_no_normaliser_at_all() -> None:
    assert normaliser("llamacpp", tools=False) is None


@pytest.mark.parametrize("engine", ENGINES)
def test_a_model_with_tools_of_its_own_is_left_to_its_engine(engine: str) -> None:
    found = normaliser(engine, capabilities=("chat", "tools"))
    body = json.dumps({"tools": [WEATHER]}).encode()
    assert found is None or found.request(body) is body


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("body", [b'{"tools": [], "messages": []}', b'{"tools": [{}], "tool_choice": "none"}'])
def test_tools_that_nobody_wants_called_go_on_as_they_came(engine: str, body: bytes) -> None:
    found = normaliser(engine)
    assert found is not None
    assert found.request(body) is body
    for event in events(f"{engine}-text.sse")[:-1]:
        answer = read_answer(event_data(event) or b"")
        assert answer is not None
        assert found.event(event, answer) == (event, answer)


def test_events_without_thoughts_are_the_same_objects() -> None:
    found = normaliser("vllm", tools=False)
    assert found is not None
    for event in events("vllm-text.sse")[:-1]:
        answer = read_answer(event_data(event) or b"")
        assert answer is not None
        assert found.event(event, answer)[0] is event


def test_embeddings_and_completions_have_none() -> None:
    target = Target("backend", "small", "small", ModelFacts("small"))
    for operation in ("embeddings", "text_completion"):
        assert normaliser_for("vllm", Exchange("id", "client", target, operation, True, {})) is None


# --- reasoning


def test_thoughts_have_both_spellings_in_a_stream() -> None:
    found = normaliser("vllm", tools=False)
    assert found is not None
    chunks = play(found, events("vllm-reasoning.sse"))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("reasoning_content") or "" for delta in deltas).startswith(" a greeting")
    assert all(delta["reasoning_content"] == delta["reasoning"] for delta in deltas if delta.get("reasoning"))
    assert "".join(delta.get("content") or "" for delta in deltas).strip() == "Hello there"


def test_thoughts_have_both_spellings_in_a_whole_answer() -> None:
    found = normaliser("vllm", tools=False)
    body = (RECORDED / "vllm-reasoning.json").read_bytes()
    answer = read_answer(body)
    assert found is not None
    assert answer is not None
    message = json.loads(found.plain(body, answer))["choices"][0]["message"]
    assert message["reasoning_content"] == message["reasoning"] == " a greeting "


def test_thoughts_of_an_engine_that_nobody_has_named_are_spelt_so_too() -> None:
    found = normaliser("openai", tools=False)
    assert found is not None
    event = b'data: {"choices":[{"index":0,"delta":{"reasoning":"hm"}}]}\n\n'
    answer = read_answer(event_data(event) or b"")
    assert answer is not None
    assert found.event(event, answer)[0] == (
        b'data: {"choices":[{"index":0,"delta":{"reasoning":"hm","reasoning_content":"hm"}}]}\n\n'
    )


# --- what the engine is asked


@pytest.mark.parametrize("engine", ENGINES)
def test_a_demanded_call_becomes_a_schema_of_all_tools(engine: str) -> None:
    _, sent = forced(engine)
    assert sent.keys() == {"model", "messages", "seed", "response_format"}
    schema = sent["response_format"]["json_schema"]["schema"]
    assert [each["properties"]["name"] for each in schema["anyOf"]] == [{"const": "weather"}, {"const": "time_in"}]
    weather, time = (each["properties"]["arguments"] for each in schema["anyOf"])
    assert weather["properties"]["unit"] == {"$ref": "#/$defs/0.Unit"}
    assert schema["$defs"] == {"0.Unit": {"enum": ["C", "F"]}}
    assert time == {"type": "object", "properties": {}, "additionalProperties": False}


def test_a_named_function_alone_is_in_the_schema() -> None:
    _, sent = forced("llamacpp", {"type": "function", "function": {"name": "time_in"}})
    schema = sent["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["name"] == {"const": "time_in"}
    assert schema["required"] == ["name", "arguments"]


@pytest.mark.parametrize("engine", [*ENGINES, "sglang"])
@pytest.mark.parametrize("choice", ["auto", None, {"type": "allowed_tools"}])
def test_a_choice_that_the_model_can_not_make_is_refused_and_not_ignored(engine: str, choice: Any) -> None:
    with pytest.raises(UnsupportedParameter, match="small has no tools in its chat template") as raised:
        forced(engine, choice)
    assert raised.value.param in ("tools", "tool_choice")


def test_a_function_that_is_not_offered_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="no tool 'launch'"):
        forced("llamacpp", {"type": "function", "function": {"name": "launch"}})


@pytest.mark.parametrize("tools", [[{"type": "custom"}], [WEATHER, WEATHER], [WEATHER, {"function": {}}]])
def test_a_tool_that_is_no_function_is_refused(tools: list[Any]) -> None:
    found = normaliser("llamacpp")
    assert found is not None
    with pytest.raises(InvalidRequest):
        found.request(json.dumps({"tools": tools, "tool_choice": "required"}).encode())


# --- what the client gets


@pytest.mark.parametrize("engine", ENGINES)
def test_a_call_is_streamed_in_pieces_that_make_valid_arguments(engine: str) -> None:
    found, _ = forced(engine)
    chunks = play(found, events(f"{engine}-tool-call.sse"))
    (call,), reasons = put_together(chunks)
    assert call["name"] == "time_in"
    assert call["id"].startswith("call_")
    assert call["type"] == "function"
    assert isinstance(json.loads(call["text"])["city"], str)
    assert reasons == ["tool_calls"]
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert not any(each["delta"].get("content") for chunk in chunks for each in chunk["choices"])
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks if chunk.get("usage")] != []
    assert len([1 for chunk in chunks for each in chunk["choices"] if each["delta"].get("tool_calls")]) > 3


@pytest.mark.parametrize("engine", ENGINES)
def test_each_of_several_answers_has_a_call_of_its_own(engine: str) -> None:
    found, _ = forced(engine)
    chunks = play(found, events(f"{engine}-two-tool-calls.sse"))
    first, second = (put_together(chunks, choice) for choice in (0, 1))
    for calls, reasons in (first, second):
        assert calls[0]["name"] in ("weather", "time_in")
        if reasons == ["tool_calls"]:
            json.loads(calls[0]["text"])
        else:
            assert reasons == ["length"]
    assert first[0][0]["id"] != second[0][0]["id"]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_whole_answer_is_a_message_with_the_call(engine: str) -> None:
    found, _ = forced(engine, {"type": "function", "function": {"name": "time_in"}})
    body = (RECORDED / f"{engine}-tool-call.json").read_bytes()
    answer = read_answer(body)
    assert answer is not None
    (choice,) = json.loads(found.plain(body, answer))["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert choice["message"]["content"] is None
    assert call["function"]["name"] == "time_in"
    assert json.loads(call["function"]["arguments"]).keys() == {"city"}
    assert "index" not in call
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize("engine", ENGINES)
def test_a_call_that_is_cut_short_says_so(engine: str) -> None:
    found, _ = forced(engine)
    calls, reasons = put_together(play(found, events(f"{engine}-tool-call-cut.sse")))
    assert reasons == ["length"]
    assert all(not _is_json(call["text"]) for call in calls)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_that_does_not_keep_to_the_schema_fails_the_answer(engine: str) -> None:
    found, _ = forced(engine)
    sent = [
        event.replace(b'"finish_reason":"length"', b'"finish_reason":"stop"') for event in events(f"{engine}-text.sse")
    ]
    with pytest.raises(EngineInvalidResponse, match="was to call a tool"):
        play(found, sent)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


# --- the text of a call


CALL = ' {\n "name" : "we\\"ather",\n"arguments":\n {"a": "}\\"{", "b": [1, {"c": "\\\\"}]} }\n\n'


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_a_call_is_read_from_pieces_of_any_size(size: int) -> None:
    reader = CallReader()
    arguments = "".join(reader.feed(CALL[start : start + size]) for start in range(0, len(CALL), size))
    assert reader.name == 'we"ather'
    assert reader.complete
    assert json.loads(arguments) == {"a": '}"{', "b": [1, {"c": "\\"}]}


@pytest.mark.parametrize(
    "text", ["Hello!", '{"city": "Paris"}', '{"name": "weather"', '{"arguments": {}, "name": "x"}', ""]
)
def test_what_is_no_call_gives_nothing(text: str) -> None:
    reader = CallReader()
    assert reader.feed(text) == ""
    assert reader.name is None
    assert not reader.complete


@pytest.mark.parametrize("spoil", [lambda each: each, lambda each: msgspec.json.encode(msgspec.json.decode(each))])
def test_the_answer_that_goes_with_an_event_says_what_the_event_says(spoil: Callable[[bytes], bytes]) -> None:
    """The Ollama side writes its own lines from it."""
    found, _ = forced("llamacpp")
    names = []
    for event in events("llamacpp-tool-call.sse")[:-1]:
        answer = read_answer(spoil(event_data(event) or b""))
        assert answer is not None
        _, changed = found.event(event, answer)
        for choice in changed.choices if changed is not None else ():
            names += [call.function.name for call in (choice.delta and choice.delta.tool_calls) or () if call.function]
    assert names[0] == "time_in"
    assert set(names[1:]) == {None}

import json
from typing import Any

from services.gateway.tool_index import ToolIndex
from services.kit.openai import read_answer
from services.kit.sse import encode_event, event_data


def event(*calls: dict[str, Any]) -> bytes:
    return encode_event(
        json.dumps({"id": "x", "choices": [{"index": 0, "delta": {"tool_calls": list(calls)}}]}).encode()
    )


def indexes(fixer: ToolIndex, sent: bytes) -> list[int]:
    data = event_data(sent)
    assert data is not None
    answer = read_answer(data)
    assert answer is not None
    fixed = event_data(fixer.event(sent, answer)[0])
    assert fixed is not None
    return [call["index"] for call in json.loads(fixed)["choices"][0]["delta"]["tool_calls"]]


def test_calls_without_an_index_are_numbered_by_their_ids() -> None:
    fixer = ToolIndex()
    assert indexes(fixer, event({"id": "a", "function": {"name": "f"}})) == [0]
    assert indexes(fixer, event({"function": {"arguments": "{"}})) == [0]
    assert indexes(fixer, event({"id": "b", "function": {"name": "g"}})) == [1]
    assert indexes(fixer, event({"function": {"arguments": "}"}})) == [1]


def test_an_event_with_its_index_is_not_touched() -> None:
    sent = event({"index": 3, "id": "a"})
    answer = read_answer(event_data(sent) or b"")
    assert answer is not None
    assert ToolIndex().event(sent, answer) == (sent, answer)
    assert ToolIndex().event(sent, answer)[0] is sent

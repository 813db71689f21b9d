"""Give tool-call deltas the `index` that clients need to put the pieces together."""

from typing import Any

import msgspec
from msgspec import UNSET

from services.kit.openai import Answer, read_answer
from services.kit.sse import encode_event, event_data


class ToolIndex:
    """Numbers the tool calls of one stream: a delta with an id begins the next call, others continue the last.

    Without an index Open WebUI shows a blank reply and openai's accumulators fail.
    """

    def __init__(self) -> None:
        self._last: dict[int, int] = {}

    def request(self, body: bytes) -> bytes:
        return body

    def plain(self, body: bytes, answer: Answer) -> bytes:
        return body

    def event(self, event: bytes, answer: Answer) -> tuple[bytes, Answer | None]:
        """Return the event, rewritten only where an index is missing."""
        if all(call.index is not UNSET for choice in answer.choices for call in self._calls(choice)):
            return event, answer
        document = msgspec.json.decode(event_data(event) or b"{}")
        for choice in document["choices"]:
            number = choice.get("index", 0)
            for call in (choice.get("delta") or {}).get("tool_calls") or ():
                self._number(number, call)
        data = msgspec.json.encode(document)
        return encode_event(data), read_answer(data)

    def _number(self, choice: int, call: dict[str, Any]) -> None:
        last = self._last.get(choice, -1)
        if not isinstance(call.get("index"), int):
            call["index"] = last + 1 if call.get("id") or last < 0 else last
        self._last[choice] = call["index"]

    @staticmethod
    def _calls(choice: Any) -> Any:
        return (choice.delta.tool_calls if choice.delta is not None else None) or ()

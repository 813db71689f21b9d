"""A model's thoughts under the name that clients read: `reasoning_content`, beside an engine's `reasoning`."""

from typing import Any

import msgspec

from services.kit.openai import Answer, Delta
from services.kit.sse import encode_event, event_data


class ReasoningSpelling:
    """Adds `reasoning_content` where an engine says `reasoning` alone."""

    def request(self, body: bytes) -> bytes:
        return body

    def event(self, event: bytes, answer: Answer) -> tuple[bytes, Answer | None]:
        for choice in answer.choices:
            if _has_one_spelling(choice.delta):
                return encode_event(_with_both(event_data(event) or b"{}", "delta")), answer
        return event, answer

    def plain(self, body: bytes, answer: Answer) -> bytes:
        return _with_both(body, "message") if any(_has_one_spelling(each.message) for each in answer.choices) else body


def _has_one_spelling(part: Delta | None) -> bool:
    return part is not None and part.reasoning is not None and part.reasoning_content is None


def _with_both(data: bytes, part: str) -> bytes:
    document: dict[str, Any] = msgspec.json.decode(data)
    for choice in document["choices"]:
        found = choice.get(part) or {}
        if isinstance(found.get("reasoning"), str):
            found.setdefault("reasoning_content", None)
            found["reasoning_content"] = found["reasoning_content"] or found["reasoning"]
    return msgspec.json.encode(document)

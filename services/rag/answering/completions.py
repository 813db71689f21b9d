"""OpenAI's chat completions, whole and in pieces, as this service writes them."""

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from services.kit.sse import encode_event
from services.rag.answering.sources import source_event


@dataclass
class Usage:
    """Tokens of the model that answered; none where no model was asked."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    def document(self) -> dict[str, int]:
        """Return OpenAI's form."""
        total = self.prompt_tokens + self.completion_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": total,
        }


@dataclass(frozen=True)
class Envelope:
    """What all pieces of one answer have in common."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(
        self,
        text: str,
        annotations: Sequence[Mapping[str, Any]],
        *,
        finish_reason: str,
        usage: Usage,
        own: Mapping[str, Any],
        reasoning: str = "",
    ) -> dict[str, Any]:
        """Return a plain answer; `own` is what OpenAI's form has no field for."""
        message: dict[str, Any] = {"role": "assistant", "content": text, "annotations": list(annotations)}
        if reasoning:
            message["reasoning_content"] = reasoning
        choice = {"index": 0, "message": message, "finish_reason": finish_reason, "logprobs": None}
        return {
            **self._head("chat.completion"),
            "choices": [choice],
            "usage": usage.document(),
            "sparkstack": dict(own),
        }

    def piece(self, delta: Mapping[str, Any]) -> bytes:
        """Return an event with more of the answer."""
        return self._event([{"index": 0, "delta": delta, "finish_reason": None}])

    def last(
        self,
        annotations: Sequence[Mapping[str, Any]],
        finish_reason: str,
        own: Mapping[str, Any],
        shown: Sequence[Mapping[str, Any]],
    ) -> bytes:
        """Return the event that ends the answer, with its citations, `shown` once more for Open WebUI."""
        choice = {"index": 0, "delta": {"annotations": list(annotations)}, "finish_reason": finish_reason}
        return self._event([choice], sparkstack=dict(own), **source_event(shown))

    def usage(self, usage: Usage) -> bytes:
        """Return the event with the tokens used."""
        return self._event([], usage=usage.document())

    def _event(self, choices: list[Any], **more: Any) -> bytes:
        return encode_event(msgspec.json.encode({**self._head("chat.completion.chunk"), "choices": choices, **more}))

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

"""What travels between clients and engine stub: one request form, events as llama.cpp's server sends them."""

import json
import re
from typing import Any

MODEL = "stub-model"
PLAIN_TOKENS = 32
PROMPT_TOKENS = 58
LAST_WORD = "end-of-answer"
"""The last word of a plain answer: an answer without it is a short one."""

_ID = "chatcmpl-Yt0sAeWcXnRrKLpm9vQ2uFb4HdGjZi1o"
_FINGERPRINT = "b6999-1a2b3c4d"
_CREATED = 1763700000

_MESSAGES = [
    {
        "role": "system",
        "content": "You are the assistant of a hardware shop. Answer in two sentences, name the part.",
    },
    {
        "role": "user",
        "content": "My cordless drill stops after a minute although its battery shows three bars. What should "
        "I check first, what would a new battery cost me, and can I keep on working meanwhile?",
    },
]


def _dumps(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def request_body(model: str, *, stream: bool, max_tokens: int = PLAIN_TOKENS) -> bytes:
    """Return the JSON body of a chat completion; `max_tokens` is the count of content events of a stream."""
    body: dict[str, Any] = {
        "model": model,
        "messages": _MESSAGES,
        "max_tokens": max_tokens,
        "temperature": 0.7,
    }
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return _dumps(body)


_MAX_TOKENS = re.compile(rb'"max_tokens": ?(\d+)')
_STREAM = re.compile(rb'"stream": ?true')
_USAGE = re.compile(rb'"include_usage": ?true')


def read_request(body: bytes) -> tuple[bool, bool, int]:
    """Return whether a stream is wanted, whether its usage is, and of how many tokens."""
    found = _MAX_TOKENS.search(body)
    tokens = int(found[1]) if found else PLAIN_TOKENS
    return _STREAM.search(body) is not None, _USAGE.search(body) is not None, tokens


def _usage(tokens: int) -> dict[str, int]:
    return {
        "completion_tokens": tokens,
        "prompt_tokens": PROMPT_TOKENS,
        "total_tokens": PROMPT_TOKENS + tokens,
    }


def _timings(tokens: int) -> dict[str, float]:
    return {
        "prompt_n": PROMPT_TOKENS,
        "prompt_ms": 40.215,
        "prompt_per_token_ms": 0.693,
        "prompt_per_second": 1442.25,
        "predicted_n": tokens,
        "predicted_ms": 40.0 * tokens,
        "predicted_per_token_ms": 40.0,
        "predicted_per_second": 25.0,
    }


def plain_answer(tokens: int) -> bytes:
    """Return the JSON body of a whole chat completion."""
    words = " ".join(["battery"] * (tokens - 1) + [LAST_WORD])
    choice = {"finish_reason": "stop", "index": 0, "message": {"role": "assistant", "content": words}}
    return _dumps(
        {
            "choices": [choice],
            "created": _CREATED,
            "model": MODEL,
            "system_fingerprint": _FINGERPRINT,
            "object": "chat.completion",
            "usage": _usage(tokens),
            "id": _ID,
            "timings": _timings(tokens),
        }
    )


def _event(choices: list[Any], more: dict[str, Any] | None = None) -> bytes:
    document = {
        "choices": choices,
        "created": _CREATED,
        "id": _ID,
        "model": MODEL,
        "system_fingerprint": _FINGERPRINT,
        "object": "chat.completion.chunk",
        **(more or {}),
    }
    return b"data: " + _dumps(document) + b"\n\n"


def _delta(delta: dict[str, Any], finish_reason: str | None = None) -> list[Any]:
    return [{"finish_reason": finish_reason, "index": 0, "delta": delta}]


ROLE_EVENT = _event(_delta({"role": "assistant", "content": None}))
FINISH_EVENT = _event(_delta({}, "stop"))
DONE_EVENT = b"data: [DONE]\n\n"
STAMP_DIGITS = 16
_BEFORE_STAMP, _AFTER_STAMP = _event(_delta({"content": "#"})).split(b"#")


def usage_event(tokens: int) -> bytes:
    """Return the event that closes a stream whose client asked for usage."""
    return _event([], {"usage": _usage(tokens), "timings": _timings(tokens)})


def content_event(stamp_ns: int) -> bytes:
    """Return one token's event; its text is the time of sending, from which the client reads the delay."""
    return _BEFORE_STAMP + b"%016d" % stamp_ns + _AFTER_STAMP


CONTENT = re.compile(rb'"content": ?"(\d{16})"')
COMPLETION_TOKENS = re.compile(rb'"completion_tokens": ?(\d+)')
FINISHED = re.compile(rb'"finish_reason": ?"stop"')

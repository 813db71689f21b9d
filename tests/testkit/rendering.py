"""Answers in OpenAI's wire format: whole documents, and events of a stream."""

import math
import time
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from tests.testkit.answers import Choice, ToolCall
from tests.testkit.tokens import split_tokens, token_id

encode = msgspec.json.encode
DONE = b"data: [DONE]\n\n"

Event = tuple[bool, bytes]
"""An event of a stream, and whether it carries something that the model generated."""


@dataclass(frozen=True, slots=True)
class Style:
    """How one request's answer is written."""

    id: str
    model: str
    chat: bool
    usage: dict[str, Any] | None
    stream_usage: bool
    logprobs: int | None
    """None: not asked for. Otherwise the number of alternatives at each token."""
    tool_index: bool = True
    done: bool = True


def count_usage(prompt_tokens: int, choices: Iterable[Choice]) -> dict[str, Any]:
    """Return OpenAI's usage object."""
    choices = list(choices)
    completion = sum(choice.count_tokens() for choice in choices)
    usage: dict[str, Any] = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion,
        "total_tokens": prompt_tokens + completion,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    if reasoning := sum(len(choice.reasoning) for choice in choices):
        usage["completion_tokens_details"] = {"reasoning_tokens": reasoning}
    return usage


# --- whole documents --------------------------------------------------------------------------------------------


def document(style: Style, choices: list[Choice]) -> bytes:
    """Return the answer of a request that does not stream."""
    write = _chat_choice if style.chat else _text_choice
    body: dict[str, Any] = {
        "id": style.id,
        "object": "chat.completion" if style.chat else "text_completion",
        "created": int(time.time()),
        "model": style.model,
        "system_fingerprint": "fake",
        "choices": [write(style, index, choice) for index, choice in enumerate(choices)],
    }
    if style.usage is not None:
        body["usage"] = style.usage
    return encode(body)


def _chat_choice(style: Style, index: int, choice: Choice) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": choice.text or None}
    if choice.reasoning:
        message["reasoning_content"] = "".join(choice.reasoning)
    if choice.tool_calls:
        message["tool_calls"] = [_call(call) for call in choice.tool_calls]
    elif message["content"] is None:
        message["content"] = ""
    written = {"index": index, "message": message, "finish_reason": choice.finish_reason}
    if style.logprobs is not None:
        written["logprobs"] = _chat_logprobs(choice.tokens, style.logprobs)
    return written


def _text_choice(style: Style, index: int, choice: Choice) -> dict[str, Any]:
    logprobs = None if style.logprobs is None else _text_logprobs(choice.tokens, 0, style.logprobs)
    return {"index": index, "text": choice.text, "logprobs": logprobs, "finish_reason": choice.finish_reason}


def _call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


# --- streams ----------------------------------------------------------------------------------------------------


def events(style: Style, choices: list[Choice]) -> Iterator[Event]:
    """Return the events of a stream, the choices in turns."""
    kind = "chat.completion.chunk" if style.chat else "text_completion"
    named = encode({"id": style.id, "object": kind, "created": int(time.time()), "model": style.model})
    start = b"data: " + named[:-1] + b',"system_fingerprint":"fake","choices":['
    write = _chat_events if style.chat else _text_events
    running = [write(style, start, index, choice) for index, choice in enumerate(choices)]
    while running:
        for each in list(running):
            event = next(each, None)
            if event is None:
                running.remove(each)
            else:
                yield event
    if style.stream_usage and style.usage is not None:
        yield False, start + b'],"usage":' + encode(style.usage) + b"}\n\n"
    if style.done:
        yield False, DONE


def error_event(code: int, message: str) -> bytes:
    """Return the event that tells of a failure in the middle of a stream."""
    return b"data: " + encode({"error": {"code": code, "message": message, "type": "server_error"}}) + b"\n\n"


def _chat_events(style: Style, start: bytes, index: int, choice: Choice) -> Iterator[Event]:
    before = start + b'{"index":%d,"delta":' % index
    after = b',"finish_reason":null}]}\n\n'
    yield False, before + b'{"role":"assistant","content":null}' + after
    for token in choice.reasoning:
        yield True, before + b'{"reasoning_content":' + encode(token) + b"}" + after
    if style.logprobs is None:
        # Nearly all events of a load test are made here.
        before_content, after_content = before + b'{"content":', b"}" + after
        for token in choice.tokens:
            yield True, before_content + encode(token) + after_content
    else:
        for token in choice.tokens:
            logprobs = b',"logprobs":' + encode(_chat_logprobs([token], style.logprobs))
            yield True, before + encode({"content": token}) + logprobs + after
    for position, call in enumerate(choice.tool_calls):
        for delta in _call_deltas(call):
            numbered = {"index": position, **delta} if style.tool_index else delta
            yield True, before + encode({"tool_calls": [numbered]}) + after
    yield False, before + b'{},"finish_reason":' + encode(choice.finish_reason) + b"}]}\n\n"


def _call_deltas(call: ToolCall) -> Iterator[dict[str, Any]]:
    function = {"name": call.name, "arguments": ""}
    yield {"id": call.id, "type": "function", "function": function}
    for piece in split_tokens(call.arguments):
        yield {"function": {"arguments": piece}}


def _text_events(style: Style, start: bytes, index: int, choice: Choice) -> Iterator[Event]:
    before = start + b'{"index":%d,"text":' % index
    offset = 0
    for token in choice.tokens:
        logprobs = None if style.logprobs is None else _text_logprobs([token], offset, style.logprobs)
        offset += len(token)
        yield True, before + encode(token) + b',"logprobs":' + encode(logprobs) + b',"finish_reason":null}]}\n\n'
    reason = encode(choice.finish_reason)
    yield False, before + b'"","logprobs":null,"finish_reason":' + reason + b"}]}\n\n"


# --- logprobs ---------------------------------------------------------------------------------------------------


def _alternatives(token: str, count: int) -> list[tuple[str, float]]:
    """Return the token first, with a stable probability of 0.5 to 1, then invented rivals that share the rest."""
    chance = 0.5 + (zlib.crc32(token.encode()) % 1000) / 2001
    rivals = [(f"{token}~{rank}", math.log((1 - chance) / 2**rank)) for rank in range(1, count)]
    return [(token, math.log(chance)), *rivals]


def _chat_logprobs(tokens: list[str], top: int) -> dict[str, Any]:
    content = []
    for token in tokens:
        ranked = [_logprob(*each) for each in _alternatives(token, max(top, 1))]
        content.append({**ranked[0], "top_logprobs": ranked[:top]})
    return {"content": content, "refusal": None}


def _logprob(token: str, logprob: float) -> dict[str, Any]:
    return {"id": token_id(token), "token": token, "logprob": logprob, "bytes": list(token.encode())}


def _text_logprobs(tokens: list[str], offset: int, top: int) -> dict[str, Any]:
    ranked = [_alternatives(token, max(top, 1)) for token in tokens]
    starts = [offset + sum(map(len, tokens[:position])) for position in range(len(tokens))]
    return {
        "tokens": tokens,
        "token_logprobs": [each[0][1] for each in ranked],
        "top_logprobs": [dict(each[:top]) for each in ranked],
        "text_offset": starts,
    }

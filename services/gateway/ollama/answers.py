"""OpenAI's answers and stream events as Ollama's JSON and NDJSON."""

import datetime
import time
from typing import Any

import msgspec

from services.gateway.exchange import Exchange
from services.kit.errors import AppError
from services.kit.openai import Answer, Choice, Delta, ToolCallDelta


class OllamaFormat:
    """One line of JSON an event; the last one carries the reason and the timings in nanoseconds.

    Args:
        name: the model's name as the client wrote it.
        chat: `message` objects (`/api/chat`) or `response` texts (`/api/generate`).
    """

    content_type = b"application/x-ndjson"
    keep_alive = b""  # a blank line would break clients, which parse each line
    ends_with_usage = True

    def __init__(self, name: str, *, chat: bool) -> None:
        self._name = name
        self._chat = chat
        self._calls: dict[int, tuple[str, list[str]]] = {}

    def event(self, event: bytes, answer: Answer | None) -> bytes:
        if answer is None:
            return b""
        lines = b""
        for choice in answer.choices[:1]:
            part = choice.delta or Delta(content=choice.text)
            self._collect(part.tool_calls or ())
            thinking = part.reasoning_content or part.reasoning or ""
            if part.content or thinking:
                lines += _line({**self._piece(part.content or "", thinking), "done": False, **_logprobs(choice)})
        return lines

    def finish(self, exchange: Exchange) -> bytes:
        lines = b""
        calls = [
            {"function": {"name": name, "arguments": _arguments("".join(pieces))}}
            for name, pieces in self._calls.values()
        ]
        if calls:
            lines = _line({**self._piece("", "", calls), "done": False})
        return lines + _line({**self._piece("", ""), **_ending(exchange)})

    def error(self, error: AppError) -> bytes:
        return _line({"error": error.message})

    def plain(self, body: bytes, exchange: Exchange) -> bytes:
        document = msgspec.json.decode(body)
        choice = (document.get("choices") or [{}])[0]
        message = choice.get("message") or {"content": choice.get("text")}
        calls = [_whole_call(call) for call in message.get("tool_calls") or ()]
        thinking = message.get("reasoning_content") or message.get("reasoning") or ""
        piece = self._piece(message.get("content") or "", thinking, calls)
        return msgspec.json.encode({**piece, **_ending(exchange), **_logprobs(Choice(logprobs=choice.get("logprobs")))})

    def _piece(self, text: str, thinking: str, calls: list[dict[str, Any]] | None = None) -> dict[str, Any]:
        head = {"model": self._name, "created_at": now()}
        if not self._chat:
            return {**head, "response": text, **({"thinking": thinking} if thinking else {})}
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if thinking:
            message["thinking"] = thinking
        if calls:
            message["tool_calls"] = calls
        return {**head, "message": message}

    def _collect(self, calls: "list[ToolCallDelta] | tuple[()]") -> None:
        """Put tool calls together: Ollama's clients get them whole."""
        for call in calls:
            index = call.index if isinstance(call.index, int) else len(self._calls) - (0 if call.id else 1)
            name, pieces = self._calls.get(index, ("", []))
            if call.function is not None:
                name = call.function.name or name
                pieces.append(call.function.arguments or "")
            self._calls[index] = (name, pieces)


class EmbedFormat:
    """`/api/embed` (a list of vectors) or the older `/api/embeddings` (one vector). Never a stream."""

    content_type = b"application/json"
    keep_alive = b""
    ends_with_usage = False

    def __init__(self, name: str, *, legacy: bool) -> None:
        self._name = name
        self._legacy = legacy

    def plain(self, body: bytes, exchange: Exchange) -> bytes:
        document = msgspec.json.decode(body)
        items = sorted(document.get("data", ()), key=lambda item: item.get("index", 0))
        vectors = [item["embedding"] for item in items]
        if self._legacy:
            return msgspec.json.encode({"embedding": vectors[0] if vectors else []})
        return msgspec.json.encode(
            {
                "model": self._name,
                "embeddings": vectors,
                "total_duration": _ns(time.monotonic() - exchange.started),
                "load_duration": 0,
                "prompt_eval_count": exchange.usage.prompt_tokens if exchange.usage else 0,
            }
        )

    def event(self, event: bytes, answer: Answer | None) -> bytes:
        raise AssertionError("embeddings are not streamed")

    def finish(self, exchange: Exchange) -> bytes:
        raise AssertionError("embeddings are not streamed")

    def error(self, error: AppError) -> bytes:
        return msgspec.json.encode({"error": error.message})


def loaded(name: str, *, chat: bool, reason: str) -> dict[str, Any]:
    """Return the answer to a request without a prompt, which only asks that the model be there (or let go)."""
    piece = {"message": {"role": "assistant", "content": ""}} if chat else {"response": ""}
    return {"model": name, "created_at": now(), **piece, "done_reason": reason, "done": True}


def now() -> str:
    """Return the time as Ollama writes it: RFC 3339, UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z")


def _ending(exchange: Exchange) -> dict[str, Any]:
    """Return the last fields: why it ended, and timings by the engine's own clock where it has one."""
    total = time.monotonic() - exchange.started
    usage, timings = exchange.usage, exchange.timings
    if timings is not None:
        prompt_s, answer_s = timings.prompt_ms / 1000, timings.predicted_ms / 1000
    else:
        prompt_s = exchange.first_token_s or 0.0
        answer_s = total - prompt_s
    return {
        "done": True,
        "done_reason": "length" if exchange.finish_reason == "length" else "stop",
        "total_duration": _ns(total),
        "load_duration": 0,
        "prompt_eval_count": usage.prompt_tokens if usage else 0,
        "prompt_eval_duration": _ns(prompt_s),
        "eval_count": usage.completion_tokens if usage else exchange.deltas,
        "eval_duration": _ns(answer_s),
    }


def _logprobs(choice: Choice) -> dict[str, Any]:
    found = choice.logprobs
    if not isinstance(found, dict):
        return {}
    content = found.get("content") or _from_lists(found)
    return {"logprobs": content} if content else {}


def _from_lists(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a completion's logprobs, which are lists side by side, with one object a token."""
    tokens, logprobs = found.get("tokens") or (), found.get("token_logprobs") or ()
    ranked = found.get("top_logprobs") or [{}] * len(tokens)
    return [
        {
            "token": token,
            "logprob": logprob,
            "top_logprobs": [{"token": other, "logprob": value} for other, value in (top or {}).items()],
        }
        for token, logprob, top in zip(tokens, logprobs, ranked, strict=False)
    ]


def _whole_call(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function") or {}
    return {
        "function": {
            "name": function.get("name", ""),
            "arguments": _arguments(function.get("arguments") or ""),
        }
    }


def _arguments(text: str) -> dict[str, Any]:
    """Return a call's arguments as an object; what a model wrote wrongly is kept under `_raw`, not lost."""
    try:
        value = msgspec.json.decode(text or "{}")
    except (msgspec.DecodeError, RecursionError):
        return {"_raw": text}
    return value if isinstance(value, dict) else {"_raw": text}


def _ns(seconds: float) -> int:
    return max(0, round(seconds * 1e9))


def _line(document: dict[str, Any]) -> bytes:
    return msgspec.json.encode(document) + b"\n"

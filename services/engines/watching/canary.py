"""One tiny request that only an engine which really works can answer: a token, an embedding, a score.

When it runs: at the end of a load (ready means that a token came back), when nothing has moved for a while though a
request is open, and rarely when an engine is idle. Never beside requests that make progress.
"""

import asyncio
import io
import json
import time
import wave
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import httpx

from services.engines.watching.health import EngineTarget

Outcome = Literal["ok", "busy", "refused", "timeout", "unreachable"]
_PROMPT = "Hi"
_TRY_LATER = (408, 429, 502, 503, 504)
_SILENCE_S = 0.5
_SAMPLE_RATE = 16_000


@dataclass(frozen=True)
class CanaryResult:
    """How it went.

    Args:
        outcome: `busy`: the engine says to try later; `refused`: it answered, with anything but what was asked for.
        ms: until the answer, or until we gave up.
        status: of HTTP; None where no answer came.
        tokens: that came back; 0 for what has none (embeddings).
    """

    outcome: Outcome
    ms: float
    status: int | None = None
    reason: str = ""
    tokens: int = 0

    @property
    def ok(self) -> bool:
        """Say whether it worked."""
        return self.outcome == "ok"

    @property
    def refused(self) -> bool:
        """Say whether the engine refuses for good: another try would end the same."""
        return self.outcome == "refused"

    @property
    def unauthorized(self) -> bool:
        """Say whether our key is the trouble, which restarting an engine never mends."""
        return self.status in (401, 403)


@dataclass(frozen=True)
class _Question:
    """A request, and how its answer is told from anything else: returns the tokens in it, None for no answer."""

    path: str
    read: Callable[[dict[str, Any]], int | None]
    body: dict[str, Any] | None = None
    form: dict[str, str] | None = None


async def canary(
    client: httpx.AsyncClient,
    target: EngineTarget,
    capabilities: Iterable[str],
    timeout_s: float,
    *,
    max_tokens: int = 1,
) -> CanaryResult:
    """Ask an engine for the least it can do; it takes `timeout_s` at most, and never raises.

    Args:
        capabilities: of the model (`chat`, `completion`, `embeddings`, `rerank`, `transcription`): what to ask for.
        max_tokens: of a generated answer.
    """
    question = _question(target, frozenset(capabilities), max_tokens)
    headers = {"connection": "close"}
    if target.api_key:
        headers["authorization"] = f"Bearer {target.api_key}"
    began = time.monotonic()

    def elapsed_ms() -> float:
        return (time.monotonic() - began) * 1000

    try:
        async with asyncio.timeout(timeout_s):
            response = await client.post(
                target.url + question.path,
                headers=headers,
                json=question.body,
                data=question.form,
                files={"file": ("silence.wav", _silence(), "audio/wav")} if question.form else None,
                timeout=timeout_s,
            )
    except (TimeoutError, httpx.TimeoutException):
        return CanaryResult("timeout", elapsed_ms(), reason=f"no answer to one token within {timeout_s:.0f} s")
    except Exception as error:  # refused, reset, or whatever an engine that lies makes a client raise
        return CanaryResult("unreachable", elapsed_ms(), reason=f"no answer: {type(error).__name__} {error}".strip())
    return _judge(response, question, elapsed_ms())


def _judge(response: httpx.Response, question: _Question, ms: float) -> CanaryResult:
    status = response.status_code
    said = " ".join(response.text[:200].split())
    if status in _TRY_LATER:
        return CanaryResult("busy", ms, status, f"{question.path} answered {status}: {said}")
    if status != 200:
        return CanaryResult("refused", ms, status, f"{question.path} answered {status}: {said}")
    try:
        tokens = question.read(json.loads(response.content))
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        tokens = None
    if tokens is None:
        return CanaryResult("refused", ms, status, f"{question.path} answered 200, but not what was asked for: {said}")
    return CanaryResult("ok", ms, status, tokens=tokens)


def _question(target: EngineTarget, capabilities: frozenset[str], max_tokens: int) -> _Question:
    model = {"model": target.upstream_id}
    limits = {"max_tokens": max_tokens, "temperature": 0}
    if capabilities & {"chat", "moderation"} or not capabilities:
        messages = [{"role": "user", "content": _PROMPT}]
        return _Question("/v1/chat/completions", _generated, {**model, "messages": messages, **limits})
    if "completion" in capabilities:
        return _Question("/v1/completions", _generated, {**model, "prompt": _PROMPT, **limits})
    if "embeddings" in capabilities:
        return _Question("/v1/embeddings", _embedded, {**model, "input": _PROMPT})
    if "rerank" in capabilities:
        return _Question("/v1/rerank", _ranked, {**model, "query": _PROMPT, "documents": [_PROMPT]})
    return _Question("/v1/audio/transcriptions", _transcribed, form=model)


def _generated(document: dict[str, Any]) -> int | None:
    if not document["choices"][0].get("finish_reason"):
        return None
    usage = document.get("usage") or {}
    return int(usage.get("completion_tokens") or 1)


def _embedded(document: dict[str, Any]) -> int | None:
    return 0 if document["data"][0]["embedding"] else None


def _ranked(document: dict[str, Any]) -> int | None:
    return 0 if "relevance_score" in document["results"][0] else None


def _transcribed(document: dict[str, Any]) -> int | None:
    return 0 if isinstance(document["text"], str) else None


def _silence() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as audio:
        audio.setnchannels(1)
        audio.setsampwidth(2)
        audio.setframerate(_SAMPLE_RATE)
        audio.writeframes(bytes(2 * int(_SAMPLE_RATE * _SILENCE_S)))
    return file.getvalue()

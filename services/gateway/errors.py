"""The gateway's own errors, and what an engine's failure becomes for the client."""

import math
from collections.abc import Mapping
from typing import Any

import msgspec

from services.kit.errors import (
    AppError,
    ContextLengthExceeded,
    EngineError,
    EngineTimeout,
    Internal,
    InvalidRequest,
    ModelLoading,
    ModelNotFound,
    Overloaded,
    RateLimited,
    UnsupportedParameter,
    all_errors,
)

RETRY_AFTER_S = 1.0
_MAX_MESSAGE = 2000
_CONTEXT_WORDS = ("exceed_context_size", "context_length_exceeded", "maximum context length", "context size")


class TooManyHops(InvalidRequest):
    """The request went through the gateway more often than allowed: a model calls itself. Break the circle."""

    code = "too_many_hops"


class InvalidUserToken(AppError):
    """The key is good, the signed name of Open WebUI's user is not: share one secret, and set the clocks right."""

    status = 401
    type = "authentication_error"
    code = "invalid_user_token"


class ServiceRefusal(AppError):
    """A service of the stack refused, for a reason of its own: its status, type, code and sentence replace these."""

    status = 502
    type = "upstream_error"
    code = "service_refused"

    def told(self, status: int, kind: str, code: str) -> "ServiceRefusal":
        """Return this error as the service told it."""
        vars(self).update(status=status, type=kind, code=code)  # in this one object, before the class's own
        return self


def from_engine(status: int, body: bytes, retry_after: str | None, backend: str) -> AppError:
    """Return our error for an engine's answer of status 400 or above.

    What the client can correct keeps its status. A refusal of the gateway's own credentials is not the client's
    fault and becomes 502, as does every crash of the engine.
    """
    message, param, hint = _read(body)
    said = message or f"status {status} without a message"
    if any(word in f"{hint} {message}" for word in _CONTEXT_WORDS) and status < 500:
        return ContextLengthExceeded(said, param=param)
    if status == 404:
        return ModelNotFound(f"{backend} says: {said}", param="model")
    if status == 429:
        return RateLimited(said, param=param, retry_after_s=_seconds(retry_after))
    if status == 503:
        if "loading" in said.lower():
            return ModelLoading(said, retry_after_s=_seconds(retry_after))
        return Overloaded(said, retry_after_s=_seconds(retry_after))
    if status == 501:
        return UnsupportedParameter(f"{backend} can't do that: {said}", param=param)
    if status in (408, 504):
        return EngineTimeout(f"{backend}: {said}")
    if status in (401, 403, 407):
        return EngineError(
            f"{backend} refused the gateway's own credentials ({status}): {said}; set GATEWAY_BACKEND_KEYS"
        )
    if status < 500:
        return InvalidRequest(said, param=param)
    return EngineError(f"{backend} failed with {status}: {said}")


def from_envelope(status: int, body: bytes, headers: Mapping[str, str], service: str) -> AppError:
    """Return the error that another service of ours has answered with: its own class, sentence and waiting time."""
    if status in (401, 403):
        message = _read(body)[0]
        return EngineError(f"{service} refused the gateway's own key: {message}; set GATEWAY_ENGINES_KEY")
    return _ours(status, body, headers) or from_engine(status, body, headers.get("Retry-After"), service)


def from_own(status: int, body: bytes, headers: Mapping[str, str], service: str) -> AppError:
    """Return the error of one of the stack's services behind the gateway, with codes that the gateway doesn't know.

    Such a service refuses our key with 401; a 403 is about the caller, whom it knows by name.
    """
    message, param, _ = _read(body)
    if status == 401:
        return EngineError(f"{service} refused the gateway's own key: {message}; set GATEWAY_INTERNAL_KEY")
    known = _ours(status, body, headers)
    if known is not None:
        return known
    kind, code = _word(body, "type"), _word(body, "code")
    retry = headers.get("Retry-After")
    if not kind or not code or code == Internal.code:
        return from_engine(status, body, retry, service)
    retry_after_s = _seconds(retry) if retry is not None else None
    return ServiceRefusal(message, param=param, retry_after_s=retry_after_s).told(status, kind, code)


def _ours(status: int, body: bytes, headers: Mapping[str, str]) -> AppError | None:
    """Return an error whose code and status are known here; a crash there is not one here."""
    message, param, _ = _read(body)
    kind = _by_code().get(_word(body, "code"))
    if kind is None or kind.status != status or kind is Internal:
        return None
    retry = headers.get("Retry-After")
    retry_after_s = _seconds(retry) if retry is not None else None
    if issubclass(kind, ModelLoading):
        position, eta = headers.get("x-sparkstack-queue-position", ""), headers.get("x-sparkstack-eta-s")
        return kind(
            message,
            param=param,
            retry_after_s=retry_after_s,
            queue_position=int(position) if position.isdecimal() else None,
            eta_s=_seconds(eta) if eta is not None else None,
        )
    return kind(message, param=param, retry_after_s=retry_after_s)


def _by_code() -> dict[str, type[AppError]]:
    return {kind.code: kind for kind in all_errors() if kind.__module__.startswith("services.")}


def _word(body: bytes, name: str) -> str:
    """Return a field of the envelope; empty where there is none."""
    try:
        return str(msgspec.json.decode(body)["error"][name] or "")
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, KeyError, TypeError):
        return ""


def from_error_event(payload: bytes, backend: str) -> AppError:
    """Return our error for an `error` event that the engine put into a stream."""
    message, _, hint = _read(b'{"error":' + payload + b"}")
    said = message or "an error event without a message"
    if any(word in f"{hint} {message}" for word in _CONTEXT_WORDS):
        return ContextLengthExceeded(said)
    return EngineError(f"{backend} ended the stream with an error: {said}")


def _seconds(retry_after: str | None) -> float:
    try:
        seconds = float(retry_after or RETRY_AFTER_S)
    except ValueError:  # an HTTP date
        return RETRY_AFTER_S
    return RETRY_AFTER_S if math.isnan(seconds) else min(max(seconds, 0.0), 3600.0)


def _read(body: bytes) -> tuple[str, str | None, str]:
    """Return message, param and every other word of an error body of any engine's form."""
    try:
        document: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        text = body.decode("utf-8", "replace").strip()
        return ("" if text.startswith("<") else text[:_MAX_MESSAGE]), None, ""
    error = document.get("error", document) if isinstance(document, dict) else document
    if isinstance(error, str):
        return error[:_MAX_MESSAGE], None, ""
    if not isinstance(error, dict):
        return "", None, ""
    message = error.get("message") or error.get("detail") or document.get("message") or ""
    param = error.get("param")
    hint = f"{error.get('type', '')} {error.get('code', '')}"
    text = message if isinstance(message, str) else msgspec.json.encode(message).decode()
    return text[:_MAX_MESSAGE], param if isinstance(param, str) else None, hint

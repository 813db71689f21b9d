"""The one error envelope of every service.

AppError
├── InvalidRequest            400  invalid_request_error
│   ├── ContextLengthExceeded 400
│   └── UnsupportedParameter  400
├── InvalidApiKey             401  authentication_error
├── PermissionDenied          403  permission_error
├── NotFound                  404  not_found_error
│   ├── ModelNotFound         404
│   ├── ModelNotPulled        404
│   └── LeaseNotFound         404
├── MethodNotAllowed          405  invalid_request_error
├── RequestTimeout            408  timeout_error
├── BodyTooLarge              413  invalid_request_error
├── RateLimited               429  rate_limit_error
├── Internal                  500  api_error
├── EngineError               502  upstream_error
│   ├── EngineUnreachable     502
│   └── EngineInvalidResponse 502
├── Overloaded                503  overloaded_error
│   ├── ModelLoading          503
│   ├── InsufficientMemory    503
│   ├── ModelFailed           503
│   └── NotReady              503
└── EngineTimeout             504  timeout_error

A status of 500 means a crash; everything expected has a class here. `docs/errors.md` is generated from
this tree and a test keeps the two together.
"""

import math
from typing import Any, ClassVar

import msgspec


class AppError(Exception):
    """A failure that a client is told about: `{"error": {"message", "type", "param", "code"}}`.

    The message names the value, the limit and the next step. The docstring of each subclass says what the
    client should do; it is printed in the error reference.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "api_error"
    code: ClassVar[str] = "internal"
    ends_connection: ClassVar[bool] = False
    """The rest of the request may still be on its way, so that no other can follow it."""

    def __init__(self, message: str, *, param: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    def envelope(self) -> dict[str, Any]:
        """Return the JSON document that the client parses."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def body(self) -> bytes:
        """Return the envelope as UTF-8 JSON."""
        return msgspec.json.encode(self.envelope())

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the headers that belong to the error: `Retry-After` in whole seconds where it is known."""
        headers = [(b"content-type", b"application/json")]
        if self.ends_connection:
            headers.append((b"connection", b"close"))
        if self.retry_after_s is not None:
            headers.append((b"retry-after", str(max(0, math.ceil(self.retry_after_s))).encode()))
        return headers


class InvalidRequest(AppError):
    """The request is malformed or a field has a wrong value; `param` names the field. Correct it."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_request"


class ContextLengthExceeded(InvalidRequest):
    """Prompt and answer do not fit the model's context. Shorten the prompt or pick another model."""

    code = "context_length_exceeded"


class UnsupportedParameter(InvalidRequest):
    """The model's engine cannot do what a field or the endpoint asks for. Leave it out or pick another model."""

    code = "unsupported_parameter"


class InvalidApiKey(AppError):
    """No key, or a key that is not known here. Send `Authorization: Bearer <key>`."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"


class PermissionDenied(AppError):
    """The caller is known (or local) but may not do this, or not from there."""

    status = 403
    type = "permission_error"
    code = "permission_denied"


class NotFound(AppError):
    """There is no such path. The message lists where to look."""

    status = 404
    type = "not_found_error"
    code = "not_found"


class ModelNotFound(NotFound):
    """No backend serves a model or alias of this name. `GET /v1/models` lists what there is."""

    code = "model_not_found"


class ModelNotPulled(NotFound):
    """There is a recipe for this model, but its files are not on this machine. `sparkstack pull MODEL` gets them."""

    code = "model_not_pulled"


class LeaseNotFound(NotFound):
    """Of the engines service alone: the lease has lapsed, or its engine has ended. Ask for a new one."""

    code = "lease_not_found"


class MethodNotAllowed(AppError):
    """The path exists but not with this method."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_allowed"


class RequestTimeout(AppError):
    """The client stopped sending its own request body."""

    status = 408
    type = "timeout_error"
    code = "request_timeout"
    ends_connection = True


class BodyTooLarge(AppError):
    """The request body is above the limit that the message names."""

    status = 413
    type = "invalid_request_error"
    code = "body_too_large"
    ends_connection = True


class RateLimited(AppError):
    """Too many requests or tokens. Wait for `Retry-After` seconds."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limited"


class Internal(AppError):
    """A crash in this service: a bug. The log has it under the request id of the response's header."""


class EngineError(AppError):
    """The engine answered with a failure of its own."""

    status = 502
    type = "upstream_error"
    code = "engine_error"


class EngineUnreachable(EngineError):
    """No connection to the engine, or it was lost. See `sparkstack status`."""

    code = "engine_unreachable"


class EngineInvalidResponse(EngineError):
    """The engine's answer is not what the protocol says: HTML, broken JSON, a truncated stream."""

    code = "engine_invalid_response"


class Overloaded(AppError):
    """The engine refuses more work for now. Wait for `Retry-After` seconds."""

    status = 503
    type = "overloaded_error"
    code = "queue_full"


class ModelLoading(Overloaded):
    """The model is being loaded, or waits for its turn. Wait for `Retry-After` seconds: the load goes on meanwhile.

    `x-sparkstack-queue-position` and `x-sparkstack-eta-s` say what is known of it.
    """

    code = "model_loading"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        queue_position: int | None = None,
        eta_s: float | None = None,
    ) -> None:
        super().__init__(message, param=param, retry_after_s=retry_after_s)
        self.queue_position = queue_position
        self.eta_s = eta_s

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the usual headers, and the place in the queue and the seconds left where they are known."""
        return [*super().headers(), *waiting_headers(self.queue_position, self.eta_s)]


class InsufficientMemory(Overloaded):
    """The model does not fit beside what must stay in memory. The message has the sum, and what to unload."""

    code = "insufficient_memory"


class ModelFailed(Overloaded):
    """The model's engine does not start. The message says why; `sparkstack logs engines` has its last words."""

    code = "model_failed"


class NotReady(Overloaded):
    """Of `/readyz` alone: what this service needs is missing; `checks` says what."""

    code = "not_ready"


class EngineTimeout(AppError):
    """The engine did not answer, or stopped in the middle, for longer than the bound that the message names."""

    status = 504
    type = "timeout_error"
    code = "engine_timeout"


def waiting_headers(queue_position: int | None, eta_s: float | None) -> list[tuple[bytes, bytes]]:
    """Return the headers of an answer that has to wait for a model; 0 is the model that is being loaded."""
    headers = []
    if queue_position is not None:
        headers.append((b"x-sparkstack-queue-position", str(queue_position).encode()))
    if eta_s is not None:
        headers.append((b"x-sparkstack-eta-s", f"{eta_s:.1f}".encode()))
    return headers


def all_errors() -> list[type[AppError]]:
    """Return every concrete error class, in the order of the tree above."""
    found: list[type[AppError]] = []

    def walk(cls: type[AppError]) -> None:
        for child in cls.__subclasses__():
            found.append(child)
            walk(child)

    walk(AppError)
    return found

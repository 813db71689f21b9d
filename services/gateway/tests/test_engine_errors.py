import json

import pytest

from services.gateway.errors import ServiceRefusal, from_engine, from_error_event, from_own
from services.kit.errors import AppError


def llama(message: str, **more: object) -> bytes:
    return json.dumps({"error": {"code": 400, "message": message, "type": "invalid_request_error", **more}}).encode()


@pytest.mark.parametrize(
    ("status", "body", "code", "ours"),
    [
        (400, llama("bad top_k"), "invalid_request", 400),
        (400, llama("too long", type="exceed_context_size_error"), "context_length_exceeded", 400),
        (400, b'{"message": "maximum context length is 4096"}', "context_length_exceeded", 400),
        (401, b"", "engine_error", 502),
        (404, llama("gone"), "model_not_found", 404),
        (422, b'{"detail": [{"loc": ["body"]}]}', "invalid_request", 400),
        (429, b"slow down", "rate_limited", 429),
        (500, b"<html>oops</html>", "engine_error", 502),
        (501, llama("no embeddings"), "unsupported_parameter", 400),
        (503, llama("Loading model"), "model_loading", 503),
        (503, llama("no slot"), "queue_full", 503),
        (504, b"", "engine_timeout", 504),
        (418, b"[]", "invalid_request", 400),
    ],
)
def test_an_engines_refusal_becomes_ours(status: int, body: bytes, code: str, ours: int) -> None:
    error = from_engine(status, body, None, "llama")
    assert (error.code, error.status) == (code, ours)
    assert "<html>" not in error.message


@pytest.mark.parametrize(("header", "seconds"), [("7", 7), (None, 1), ("Wed, 21 Oct", 1), ("-3", 0), ("1e9", 3600)])
def test_retry_after_is_passed_on_within_reason(header: str | None, seconds: float) -> None:
    assert from_engine(429, b"", header, "llama").retry_after_s == seconds


@pytest.mark.parametrize("payload", [b'{"message":"boom"}', b'"boom"', b'{"message":{"x":"boom"}}'])
def test_an_error_event_of_any_form_keeps_its_message(payload: bytes) -> None:
    error = from_error_event(payload, "llama")
    assert isinstance(error, AppError)
    assert "boom" in error.message


def own(code: str, kind: str = "overloaded_error") -> bytes:
    return json.dumps({"error": {"message": "why", "type": kind, "param": "p", "code": code}}).encode()


@pytest.mark.parametrize(
    ("status", "body", "code", "ours"),
    [
        (400, own("too_many_hops"), "too_many_hops", 400),
        (403, own("permission_denied"), "permission_denied", 403),
        (404, own("collection_none", "not_found_error"), "collection_none", 404),
        (429, own("rate_limited"), "rate_limited", 429),
        (503, own("store_gone"), "store_gone", 503),
        (401, own("invalid_api_key"), "engine_error", 502),
        (500, own("internal", "api_error"), "engine_error", 502),
        (502, b"<html>", "engine_error", 502),
        (503, b"{}", "queue_full", 503),
    ],
)
def test_an_own_services_refusal_stays_its_own(status: int, body: bytes, code: str, ours: int) -> None:
    error = from_own(status, body, {"Retry-After": "7"}, "rag")
    assert (error.code, error.status) == (code, ours)
    assert error.envelope()["error"]["code"] == code
    if isinstance(error, ServiceRefusal):
        assert (error.message, error.param, error.retry_after_s) == ("why", "p", 7)
        assert ServiceRefusal("another").code == "service_refused", "it is this one alone that was told otherwise"

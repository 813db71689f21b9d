"""Failures: one envelope, one set of codes, whatever the engine says."""

from typing import Any

import httpx

from tests.conformance.checks.registry import check
from tests.conformance.subject import Subject


def _check_error(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    document = answer.json()
    assert document.keys() == {"error"}
    error: dict[str, Any] = document["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["code"] == code
    assert error["message"]
    return error


@check
async def context_overflow(subject: Subject) -> None:
    """a prompt above the context is refused with 400 `context_length_exceeded` and the limit, streamed or not"""
    text = "word " * (2 * subject.place.context_tokens)
    for stream in (False, True):
        answer = await subject.http.post("/v1/chat/completions", json=subject.ask(text, stream=stream))
        error = _check_error(answer, 400, "context_length_exceeded")
        assert str(subject.place.context_tokens) in error["message"]


@check
async def unknown_model(subject: Subject) -> None:
    """a model that is not there is 404 `model_not_found`, though the engine may answer to any name"""
    for stream in (False, True):
        body = {**subject.ask(stream=stream), "model": "gpt-99"}
        _check_error(await subject.http.post("/v1/chat/completions", json=body), 404, "model_not_found")


@check
async def empty_messages(subject: Subject) -> None:
    """a conversation without messages is 400 `invalid_request`"""
    answer = await subject.http.post("/v1/chat/completions", json={**subject.ask(), "messages": []})
    assert _check_error(answer, 400, "invalid_request")["param"] == "messages"


@check
async def engines_own_refusal(subject: Subject) -> None:
    """what only the engine can refuse comes as the same envelope, with a code that is a word and no number"""
    body = subject.ask(response_format={"type": "poem"})
    _check_error(await subject.http.post("/v1/chat/completions", json=body), 400, "invalid_request")

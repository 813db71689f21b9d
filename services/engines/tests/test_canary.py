"""One tiny request, and what each kind of answer means."""

import asyncio
import json

import httpx
import pytest

from services.engines.watching.canary import canary
from services.engines.watching.health import EngineTarget

TARGET = EngineTarget("public", "vllm", "http://engine.invalid", "a-key", "upstream")
CHAT = {"choices": [{"message": {"content": "Hello"}, "finish_reason": "length"}], "usage": {"completion_tokens": 1}}


async def ask(answer, capabilities=("chat",), timeout_s=5.0, **options):
    async def handler(request):
        seen.append(request)
        return answer if isinstance(answer, httpx.Response) else await answer(request)

    seen = []
    async with httpx.AsyncClient(transport=httpx.MockTransport(handler)) as client:
        return await canary(client, TARGET, capabilities, timeout_s, **options), seen[0]


async def test_a_token_is_ok_and_it_was_asked_for_with_the_key_and_the_engines_own_name():
    result, request = await ask(httpx.Response(200, json=CHAT))
    assert (result.outcome, result.ok, result.refused, result.tokens) == ("ok", True, False, 1)
    assert result.ms >= 0
    assert request.headers["authorization"] == "Bearer a-key"
    assert request.url.path == "/v1/chat/completions"
    body = json.loads(request.content)
    assert (body["model"], body["max_tokens"]) == ("upstream", 1)


@pytest.mark.parametrize(
    ("capabilities", "path", "answer"),
    [
        (("vision", "chat"), "/v1/chat/completions", CHAT),
        (("moderation",), "/v1/chat/completions", CHAT),
        (("completion",), "/v1/completions", {"choices": [{"text": "a", "finish_reason": "length"}]}),
        (("embeddings",), "/v1/embeddings", {"data": [{"embedding": [0.5]}]}),
        (("rerank",), "/v1/rerank", {"results": [{"index": 0, "relevance_score": 0.0}]}),
        (("transcription",), "/v1/audio/transcriptions", {"text": ""}),
    ],
)
async def test_each_kind_of_model_is_asked_for_what_it_can(capabilities, path, answer):
    result, request = await ask(httpx.Response(200, json=answer), capabilities)
    assert result.ok, result
    assert request.url.path == path


async def test_a_transcription_is_asked_for_with_a_sound():
    _, request = await ask(httpx.Response(200, json={"text": ""}), ("transcription",))
    assert request.headers["content-type"].startswith("multipart/form-data")
    assert b"RIFF" in request.content
    assert b"upstream" in request.content


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, json={"choices": []}),
        httpx.Response(200, json={"error": "wedged"}),
        httpx.Response(200, json=["?"]),
        httpx.Response(200, json={"choices": [{"message": {}, "finish_reason": None}]}),
        httpx.Response(200, text="<html>It works!</html>"),
        httpx.Response(200, content=b"\xff\x00" * 50),
        httpx.Response(200, text="[" * 100_000),
    ],
)
async def test_200_with_anything_but_a_token_is_a_refusal(answer):
    result, _ = await ask(answer)
    assert (result.ok, result.refused, result.status) == (False, True, 200)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500])
async def test_other_statuses_are_refusals_and_say_which(status):
    result, _ = await ask(httpx.Response(status, json={"error": {"message": "no"}}))
    assert result.refused
    assert str(status) in result.reason
    assert result.unauthorized == (status in (401, 403))


@pytest.mark.parametrize("status", [429, 503])
async def test_try_later_is_no_refusal(status):
    result, _ = await ask(httpx.Response(status))
    assert (result.outcome, result.ok, result.refused) == ("busy", False, False)


async def test_an_engine_that_never_answers_is_a_timeout():
    async def silence(_request):
        await asyncio.Event().wait()

    result, _ = await ask(silence, timeout_s=0.05)
    assert (result.outcome, result.ok, result.refused) == ("timeout", False, False)
    assert result.ms >= 50


@pytest.mark.parametrize("error", [httpx.ConnectError("refused"), httpx.RemoteProtocolError("cut"), OSError(5, "io")])
async def test_an_engine_that_is_not_there_is_unreachable(error):
    async def fail(_request):
        raise error

    result, _ = await ask(fail)
    assert (result.outcome, result.refused) == ("unreachable", False)


async def test_being_cancelled_is_passed_on():
    async def silence(_request):
        await asyncio.Event().wait()

    task = asyncio.create_task(ask(silence, timeout_s=60))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

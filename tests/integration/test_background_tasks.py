"""Titles and tags that a chat page asks for beside the conversation let people go first."""

import asyncio
import contextlib

import httpx
import pytest

from tests.integration.gateways import CHAT, MODEL, chat_body, gateway
from tests.testkit.server import eventually, fake_engine

TITLE = {"x-openwebui-task": "title_generation"}


def contents(engine):
    return [request["body"]["messages"][-1]["content"] for request in engine.requests(CHAT)]


def said(text):
    return [{"role": "user", "content": text}]


async def ask(front, text, headers=None):
    """Ask for something that is answered with one token."""
    return await front.client.post(CHAT, json=chat_body(messages=said(text), max_tokens=1), headers=headers)


@contextlib.asynccontextmanager
async def answering(engine, front):
    """A stream that is under way; it takes a second or so."""
    answer = asyncio.create_task(front.stream(messages=said("a long one")))
    await eventually(lambda: engine.state().open_streams)
    yield answer
    assert (await answer).done


async def test_a_title_waits_until_the_answer_is_whole():
    async with fake_engine(tokens_per_s=40) as engine, gateway(engine) as front:
        async with answering(engine, front) as answer:
            title = asyncio.create_task(ask(front, "a title, please", TITLE))
            await ask(front, "a second question")
            assert not answer.done()
            assert contents(engine) == ["a long one", "a second question"]
        assert (await title).status_code == 200
        assert contents(engine)[-1] == "a title, please"
        metrics = await front.metrics()
    assert metrics.value("gateway_background_wait_seconds_count", gen_ai_request_model=MODEL) == 1
    assert metrics.value("gateway_background_wait_seconds_sum", gen_ai_request_model=MODEL) > 0.1


@pytest.mark.parametrize("task", ["query_generation", ""])
async def test_what_stands_before_an_answer_does_not_wait(task):
    async with (
        fake_engine(tokens_per_s=40) as engine,
        gateway(engine) as front,
        answering(engine, front) as answer,
    ):
        await ask(front, "which words to search for?", {"x-openwebui-task": task})
        assert not answer.done()


async def test_on_a_model_that_is_never_quiet_a_title_comes_late(logs):
    async with (
        fake_engine(tokens_per_s=40) as engine,
        gateway(engine, background_wait_s=0.1) as front,
        answering(engine, front) as answer,
    ):
        assert (await ask(front, "a title, please", TITLE)).status_code == 200
        assert not answer.done()
    [waited_ms] = [line["yielded_ms"] for line in logs if "yielded_ms" in line]
    assert waited_ms >= 100


async def test_a_page_that_is_closed_takes_its_title_along():
    async with fake_engine(tokens_per_s=40) as engine, gateway(engine) as front:
        async with answering(engine, front):
            for given_up in (TITLE, {"x-openwebui-task": "tags_generation"}):
                with pytest.raises(httpx.ReadTimeout):
                    await front.client.post(CHAT, json=chat_body(), headers=given_up, timeout=0.1)
        assert (await ask(front, "another title", TITLE)).status_code == 200
        await front.settled()
        assert engine.state().open_streams == 0
        assert contents(engine)[-1] == "another title"

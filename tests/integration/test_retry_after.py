"""An engine that is full says so to the client at once, with the time to wait; the gateway adds no storm of tries."""

import asyncio
import time

import pytest

from tests.integration.gateways import CHAT, gateway


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
@pytest.mark.parametrize(("status", "kind"), [(429, "rate_limit_error"), (503, "overloaded_error")])
async def test_a_refusal_is_passed_on_within_a_second_and_tried_once(fake_engine, status, kind, stream):
    headers = {"x-fake-status": str(status), "x-fake-retry-after": "7"}
    async with gateway(fake_engine) as front:
        began = time.monotonic()
        response = await front.chat(stream=stream, headers=headers)
        assert time.monotonic() - began < 1
    assert response.status_code == status
    assert response.headers["retry-after"] == "7"
    assert response.json()["error"]["type"] == kind
    assert len(fake_engine.requests(CHAT)) == 1


@pytest.mark.parametrize(
    ("given", "passed_on"),
    [("", "1"), ("0", "0"), ("0.2", "1"), ("90", "90"), ("Wed, 21 Oct 2026 07:28:00 GMT", "1"), ("1e9", "3600")],
)
async def test_the_time_to_wait_is_in_whole_seconds(fake_engine, given, passed_on):
    async with gateway(fake_engine) as front:
        response = await front.chat(headers={"x-fake-status": "429", "x-fake-retry-after": given})
    assert response.headers["retry-after"] == passed_on


@pytest.mark.parametrize("given", ["nan", "inf", "-inf", "-5"])
async def test_a_time_that_is_none_does_no_harm(fake_engine, given):
    async with gateway(fake_engine) as front:
        response = await front.chat(headers={"x-fake-status": "503", "x-fake-retry-after": given})
    assert response.status_code == 503
    assert 0 <= int(response.headers["retry-after"]) <= 3600


async def test_thirty_refused_clients_are_thirty_tries(fake_engine):
    async with gateway(fake_engine) as front:
        answers = await asyncio.gather(*(front.chat(headers={"x-fake-status": "503"}) for _ in range(30)))
        totals = await front.totals()
    assert {answer.status_code for answer in answers} == {503}
    assert len(fake_engine.requests(CHAT)) == 30
    assert totals["failed"] == 30
    assert totals["prompt_tokens"] == totals["completion_tokens"] == 0, "nothing was used"

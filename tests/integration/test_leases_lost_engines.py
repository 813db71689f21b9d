"""An engine that dies under a lease: the service is told, and who has no byte of an answer gets one from the next."""

import asyncio
import json

import pytest

from tests.integration.gateways import CHAT
from tests.integration.on_demand import OnDemand, on_demand
from tests.integration.raw_engine import raw_engine, say
from tests.testkit.server import eventually
from tests.testkit.tokens import apply_template, split_tokens

pytestmark = pytest.mark.slow

PROMPT_TOKENS = len(split_tokens(apply_template([{"role": "user", "content": "Tell me something."}])))
ANSWER_TOKENS = 24
LOADING = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n"
    b"content-length: 45\r\nconnection: close\r\n\r\n"
    b'{"error":{"code":503,"message":"Loading it"}}'
)
WAYS = pytest.mark.parametrize("stream", [True, False], ids=["stream", "plain"])
DEATHS = pytest.mark.parametrize("die_with", ["rst", "fin"])


def losses(run: OnDemand) -> list[str]:
    """Return the reasons that were given."""
    return [call.body["reason"] for call in run.engines.calls("POST", "/leases/") if call.path.endswith("/lost")]


async def ask(run: OnDemand, stream: bool) -> None:
    """Ask for a good answer."""
    if stream:
        streamed = await run.front.stream(model="small")
        assert streamed.done
        assert streamed.error is None
        assert len(streamed.text.split()) >= 10
    else:
        assert (await run.front.chat(model="small")).status_code == 200


async def assert_told_once(run: OnDemand) -> None:
    """The ledger has one good exchange, and its tokens once."""
    totals = await run.front.totals()
    metrics = await run.front.metrics()
    assert (totals["requests"], totals["failed"]) == (1, 0)
    assert (totals["prompt_tokens"], totals["completion_tokens"]) == (PROMPT_TOKENS, ANSWER_TOKENS)
    assert metrics.value("gateway_exchanges_total", outcome="ok") == 1
    assert metrics.value("gen_ai_client_token_usage_sum", gen_ai_token_type="output") == ANSWER_TOKENS


# --- before a byte of the answer ----------------------------------------------------------------------------------


@WAYS
async def test_an_engine_that_was_killed_is_reported_and_its_successor_waited_for(stream):
    async with on_demand({"first_token_timeout_s": 30}, state="ready", load_s=0.3) as run:
        await run.front.chat(model="small")
        await run.engines.kill("small", noticed=False)
        task = asyncio.create_task(ask(run, stream))
        await eventually(lambda: losses(run))
        run.engines.notice("small")
        await task
        totals = await run.front.totals()
        metrics = await run.front.metrics()
    assert run.model.loads == 2
    assert "can't be reached" in losses(run)[0]
    assert totals["failed"] == 0
    assert metrics.value("gateway_lease_events_total", event="lost") >= 1


@WAYS
@DEATHS
async def test_before_the_head_it_is_tried_once_more_with_the_next_lease(stream, die_with):
    """The engine cuts the connection twice, on a kept-alive and on a fresh socket, and is well after that."""
    async with on_demand(state="ready") as run:
        run.model.engine.script(path=CHAT, times=2, die_head=True, die_with=die_with)
        await ask(run, stream)
        assert len(run.model.engine.requests(CHAT)) == 3
        assert len(losses(run)) == 1
        assert len([body for body in run.demands() if body["wait"]]) == 2
        await assert_told_once(run)


@DEATHS
async def test_after_the_head_but_before_the_first_event_too(die_with):
    """The client has our head, and none of the engine's words."""
    async with on_demand(state="ready") as run:
        run.model.engine.script(path=CHAT, times=1, die_after=0, die_with=die_with)
        await ask(run, stream=True)
        assert len(losses(run)) == 1
        await assert_told_once(run)


@DEATHS
async def test_in_the_middle_of_a_plain_answer_too(die_with):
    """Nothing of it was sent on yet."""
    async with on_demand(state="ready") as run:
        run.model.engine.script(path=CHAT, times=1, die_after=1, die_with=die_with)
        await ask(run, stream=False)
        assert len(losses(run)) == 1
        await assert_told_once(run)


@WAYS
@pytest.mark.parametrize("status", [401, 403])
async def test_a_process_with_another_key_is_not_the_engine_that_was_leased(stream, status):
    """It was started again, on the same port."""
    async with on_demand(state="ready") as run:
        run.model.engine.script(path=CHAT, times=1, status=status)
        await ask(run, stream)
        assert len(losses(run)) == 1
        await assert_told_once(run)


@WAYS
async def test_nor_is_one_that_is_still_reading_its_model(stream):
    """Whoever is named again must show that it answers before it gets the request a second time."""
    async with on_demand(state="ready") as run, raw_engine(say(LOADING), list_models=False) as restarting:
        well, run.model.engine.url = run.model.engine.url, restarting.url
        task = asyncio.create_task(ask(run, stream))
        await eventually(lambda: len(losses(run)) >= 2)
        run.model.engine.url = well
        await task
        await assert_told_once(run)
    assert restarting.posts == 1


async def test_one_that_is_full_is_well(fake_engine):
    async with on_demand(state="ready") as run:
        run.model.engine.script(path=CHAT, times=1, status=503)
        response = await run.front.chat(model="small")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "queue_full")
    assert losses(run) == []


@WAYS
async def test_the_second_loss_is_told_to_the_client(stream):
    async with on_demand(state="ready") as run:
        run.model.engine.script(path=CHAT, times=4, die_head=True)
        response = await run.front.chat(model="small", stream=stream)
        totals = await run.front.totals()
        await eventually(lambda: len(losses(run)) == 2)
    assert (response.status_code, response.json()["error"]["code"]) == (502, "engine_unreachable")
    assert len(run.model.engine.requests(CHAT)) == 4, "two tries on each of two leases"
    assert (totals["failed"], totals["prompt_tokens"]) == (1, 0)


async def test_twenty_that_lose_their_engine_report_it_once_and_are_all_served():
    async with on_demand(state="ready", engine={"ttft_ms": 60_000}, load_s=0.2) as run:
        run.model.engine.script(path=CHAT, times=20, stall_head=True)
        tasks = [asyncio.create_task(run.front.chat(model="small")) for _ in range(20)]
        await eventually(lambda: run.model.engine.state().open_streams == 20)
        run.model.engine.script(path=CHAT, ttft_ms=0)
        await run.engines.kill("small")
        answers = await asyncio.gather(*tasks)
        totals = await run.front.totals()
    assert {answer.status_code for answer in answers} == {200}
    assert len(losses(run)) <= 1, "the service knew it already, or was told once"
    assert (totals["requests"], totals["failed"]) == (20, 0)
    assert totals["completion_tokens"] == 20 * ANSWER_TOKENS


async def test_a_client_that_leaves_while_a_successor_is_waited_for():
    async with on_demand(state="ready", load_s=60) as run:
        await run.front.chat(model="small")
        await run.engines.kill("small")
        task = asyncio.create_task(run.front.stream(model="small"))
        await eventually(lambda: run.model.waiters == 1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await eventually(lambda: run.model.waiters == 0)
        assert (await run.front.totals())["cancelled"] == 1


# --- after a byte of it -------------------------------------------------------------------------------------------


@DEATHS
async def test_after_some_tokens_an_error_ends_the_stream_and_nothing_is_spliced(die_with):
    async with on_demand(state="ready") as run:
        run.model.engine.script(path=CHAT, times=1, die_after=5, die_with=die_with)
        streamed = await run.front.stream(model="small")
        totals = await run.front.totals()
        await eventually(lambda: len(losses(run)) == 1)
    assert streamed.error is not None
    assert streamed.error["code"] == "engine_unreachable"
    assert not streamed.done
    assert len(streamed.text.split()) >= 3
    assert len(run.model.engine.requests(CHAT)) == 1
    assert (totals["failed"], totals["completion_tokens"]) == (1, 5)


async def test_in_ollamas_form_the_error_is_the_last_line():
    async with on_demand(state="ready") as run:
        run.model.engine.script(path=CHAT, times=1, die_after=5)
        body = {"model": "small", "messages": [{"role": "user", "content": "Hello"}]}
        response = await run.front.client.post("/api/chat", json=body)
    *lines, last = [json.loads(line) for line in response.content.splitlines()]
    assert len(lines) >= 3
    assert last.keys() == {"error"}


async def test_the_lease_of_a_lost_engine_is_given_to_nobody():
    async with on_demand(state="ready", engine={"tokens_per_s": 20, "answer_tokens": 5000}) as run:
        streams = [asyncio.create_task(run.front.stream(model="small")) for _ in range(3)]
        await eventually(lambda: min((each.deltas for each in run.front.door.live), default=0) >= 2)
        await run.engines.kill("small")
        ended = await asyncio.gather(*streams)
        leases = run.front.door.leases
        await eventually(lambda: not leases.all())
        totals = await run.front.totals()
    assert all(streamed.error and streamed.error["code"] == "engine_unreachable" for streamed in ended)
    assert totals["failed"] == 3
    assert totals["completion_tokens"] >= 6

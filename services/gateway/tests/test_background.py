import asyncio
from typing import Any

import pytest

from services.gateway.background import Background, can_wait
from services.gateway.catalogue import ModelFacts, Target
from services.gateway.exchange import Exchange, Live
from services.gateway.metrics import GatewayMetrics
from services.kit.metrics import new_registry


def exchange(model: str = "small") -> Exchange:
    return Exchange("id", "ann", Target("b", model, model, ModelFacts(model)), "chat", True, {})


@pytest.fixture
def live() -> Live:
    return Live()


def background(live: Live, most_s: float = 60) -> Background:
    return Background(live, most_s, GatewayMetrics(new_registry()))


async def take(turns: Background, model: str, log: list[str], name: str, let_go: asyncio.Event) -> None:
    async with turns.turn(model):
        log.append(name)
        await let_go.wait()
    log.append(f"{name} over")


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.parametrize("task", ["title_generation", "tags_generation", "follow_up_generation", "emoji_generation"])
def test_what_nobody_waits_for_can_wait(task: str) -> None:
    assert can_wait({"headers": [(b"x-openwebui-task", task.encode())]})


@pytest.mark.parametrize("headers", [[], [("x-openwebui-task", "")], [("x-openwebui-task", "query_generation")]])
def test_what_stands_before_an_answer_can_not(headers: list[tuple[str, str]]) -> None:
    scope: dict[str, Any] = {"headers": [(name.encode(), value.encode()) for name, value in headers]}
    assert not can_wait(scope)


async def test_in_a_quiet_moment_it_goes_at_once(live: Live) -> None:
    async with background(live).turn("small") as waited_s:
        assert waited_s < 0.5


async def test_it_waits_until_the_last_request_of_its_model_has_ended(live: Live) -> None:
    turns, log, let_go = background(live), [], asyncio.Event()
    first, second, other = exchange(), exchange(), exchange("large")
    for each in (first, second, other):
        live.begin(each)
    task = asyncio.create_task(take(turns, "small", log, "title", let_go))
    await settle()
    live.end(first)
    await settle()
    assert log == []
    live.end(second)
    await settle()
    assert log == ["title"]
    let_go.set()
    await task


async def test_they_go_one_by_one_on_a_model_and_side_by_side_on_two(live: Live) -> None:
    turns, log, let_go = background(live), [], asyncio.Event()
    names = [("small", "title"), ("small", "tags"), ("large", "other")]
    tasks = [asyncio.create_task(take(turns, model, log, name, let_go)) for model, name in names]
    await settle()
    assert log == ["title", "other"]
    let_go.set()
    await asyncio.gather(*tasks)
    assert log.index("tags") > log.index("title over")


async def test_it_goes_all_the_same_when_it_has_waited_long_enough(live: Live) -> None:
    turns = background(live, most_s=0.05)
    live.begin(exchange())
    async with turns.turn("small") as waited_s, turns.turn("small") as other_s:
        assert waited_s >= 0.05
        assert other_s >= 0.05


async def test_one_that_is_given_up_leaves_the_turn_to_the_next(live: Live) -> None:
    turns, log, let_go = background(live), [], asyncio.Event()
    under_way = exchange()
    live.begin(under_way)
    given_up = asyncio.create_task(take(turns, "small", log, "title", let_go))
    following = asyncio.create_task(take(turns, "small", log, "tags", let_go))
    await settle()
    given_up.cancel()
    await settle()
    live.end(under_way)
    await settle()
    assert log == ["tags"]
    let_go.set()
    await following

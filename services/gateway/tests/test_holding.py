import asyncio

from services.gateway.control import Progress
from services.gateway.holding import BoundedPatience, TalkingPatience, comment


async def test_the_comment_says_what_is_known() -> None:
    assert comment("m", Progress("loading", 1, 12.4)) == b": loading m, position 1, about 12 s\n\n"
    assert comment("m", Progress("loading", 0, 3.0)) == b": loading m, about 3 s\n\n"
    assert comment("m", Progress("queued")) == b": queued m\n\n"


async def test_nothing_is_said_of_a_wait_that_is_over_soon() -> None:
    said: list[bytes] = []

    async def say(words: bytes, _progress: Progress) -> None:
        said.append(words)

    patience = TalkingPatience("m", say, every_s=0.05)
    assert await patience.wait_on(Progress("loading", 0, 3.0))
    assert await patience.wait_on(None)
    assert said == []
    assert patience.pause_s(None) > patience.pause_s(Progress()), "a service that is slow to answer is no queue"
    await asyncio.sleep(patience.pause_s(Progress()))
    await patience.wait_on(Progress("queued", 2))
    await patience.wait_on(Progress("queued", 2))
    await patience.wait_on(Progress("queued", 1))
    assert said == [b": queued m, position 2\n\n", b": queued m, position 1\n\n"]


async def test_a_bound_ends_patience_and_so_does_a_load_that_takes_longer() -> None:
    patience = BoundedPatience(10)
    assert 9 < patience.pause_s(None) <= 10
    assert await patience.wait_on(None)
    assert await patience.wait_on(Progress(eta_s=9))
    assert not await patience.wait_on(Progress(eta_s=11))
    assert not await BoundedPatience(0).wait_on(None)

import asyncio
from collections.abc import Callable

import msgspec
from structlog.testing import capture_logs

from services.gateway.catalogue import ModelFacts, Target
from services.gateway.exchange import Exchange
from services.gateway.metrics import GatewayMetrics
from services.gateway.records import Records
from services.gateway.sending import NeverTaken, NotTaken, Sender
from services.kit.metrics import new_registry
from services.kit.records import RecordBatch

_batch = msgspec.json.Decoder(RecordBatch)


class FakeTracking:
    """Takes batches; `answers` are raised first, one a call. Set `held` to answer nothing."""

    def __init__(self, *answers: Exception) -> None:
        self.answers = list(answers)
        self.held = False
        self.calls = 0
        self.taken: list[RecordBatch] = []

    async def take(self, batch: bytes) -> None:
        self.calls += 1
        if self.held:
            await asyncio.Event().wait()
        if self.answers:
            raise self.answers.pop(0)
        self.taken.append(_batch.decode(batch))

    @property
    def ids(self) -> list[str]:
        return [record.id for batch in self.taken for record in batch.records]


class Sending:
    def __init__(self, service: FakeTracking, most: int = 100, last_s: float = 2.0) -> None:
        self.registry = new_registry()
        self.records = Records(0.0, most, GatewayMetrics(self.registry))
        self.sender = Sender(self.records, service, every_s=0.005, last_s=last_s)

    def add(self, *ids: str) -> None:
        for each in ids:
            self.records.settled(Exchange(each, "ada", Target("b", "m", "m", ModelFacts("m")), "chat", False, {}))

    def value(self, what: str) -> float | None:
        return self.registry.get_sample_value(f"gateway_records_{what}_total")


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.002)


async def test_what_waits_is_sent_in_order() -> None:
    service = FakeTracking()
    sending = Sending(service)
    sending.sender.start()
    sending.add("a", "b")
    await until(lambda: service.ids == ["a", "b"])
    sending.add("c")
    await until(lambda: service.ids == ["a", "b", "c"])
    await sending.sender.stop()
    assert (sending.value("sent"), sending.value("dropped")) == (3, 0)


async def test_what_is_not_taken_is_sent_again_and_a_line_says_so_once() -> None:
    service = FakeTracking(NotTaken("away"), NotTaken("still away"))
    sending = Sending(service)
    with capture_logs() as lines:
        sending.sender.start()
        sending.add("a")
        await until(lambda: service.calls == 1)
        sending.add("b")
        await until(lambda: service.ids)
        await sending.sender.stop()
    assert service.ids == ["a", "b"]
    assert [line["event"] for line in lines] == ["records.wait", "records.taken_again"]


async def test_a_batch_that_is_wrong_does_not_hold_up_the_next() -> None:
    service = FakeTracking(NeverTaken("answers 400"))
    sending = Sending(service)
    sending.sender.start()
    sending.add("a")
    await until(lambda: service.calls == 1)
    sending.add("b")
    await until(lambda: service.ids == ["b"])
    await sending.sender.stop()
    assert service.taken[0].dropped == 1
    assert (sending.value("sent"), sending.value("dropped")) == (1, 1)


async def test_a_crash_costs_a_batch_and_no_more() -> None:
    service = FakeTracking(RuntimeError("a bug"))
    sending = Sending(service)
    with capture_logs() as lines:
        sending.sender.start()
        sending.add("a")
        await until(lambda: service.calls == 1)
        sending.add("b")
        await until(lambda: service.ids == ["b"])
        await sending.sender.stop()
    assert [line["event"] for line in lines] == ["records.crashed"]
    assert (sending.value("sent"), sending.value("dropped")) == (1, 1)


async def test_the_end_sends_what_waits() -> None:
    service = FakeTracking()
    sending = Sending(service)
    sending.sender.start()
    sending.add("a")
    await sending.sender.stop()
    assert service.ids == ["a"]


async def test_the_end_does_not_wait_out_a_pause() -> None:
    service = FakeTracking(NotTaken("busy", after_s=30))
    sending = Sending(service)
    sending.sender.start()
    sending.add("a")
    await until(lambda: service.calls == 1)
    async with asyncio.timeout(1):
        await sending.sender.stop()
    assert service.ids == ["a"]


async def test_the_end_is_bounded_and_what_was_not_taken_is_counted() -> None:
    service = FakeTracking()
    service.held = True
    sending = Sending(service, last_s=0.05)
    sending.sender.start()
    sending.add("a", "b")
    await until(lambda: service.calls)
    with capture_logs() as lines:
        async with asyncio.timeout(1):
            await sending.sender.stop()
    assert [(line["event"], line["records"]) for line in lines] == [("records.lost", 2)]
    assert (sending.value("sent"), sending.value("dropped")) == (0, 2)

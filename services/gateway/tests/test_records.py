import pytest

from services.gateway.catalogue import ModelFacts, Target
from services.gateway.exchange import Exchange
from services.gateway.metrics import GatewayMetrics
from services.gateway.records import BATCH_RECORDS, Records
from services.kit.metrics import new_registry
from services.kit.openai import Usage

TARGET = Target("engine", "m", "m", ModelFacts("m"))
HELLO = b'[{"role":"user","content":"hello"}]'


class Kept:
    def __init__(self, sample: float = 0.0, most: int = 10_000) -> None:
        self.registry = new_registry()
        self.records = Records(sample, most, GatewayMetrics(self.registry))

    def value(self, name: str) -> float | None:
        return self.registry.get_sample_value(name)

    def add(self, number: int = 1, **changes: object) -> None:
        for _ in range(number):
            self.records.settled(exchange(**changes))

    def counts(self) -> tuple[float | None, ...]:
        """Sent, dropped, waiting."""
        names = ("gateway_records_sent_total", "gateway_records_dropped_total", "gateway_records_waiting")
        return tuple(self.value(name) for name in names)


def exchange(request_id: str = "id", operation: str = "chat", **changes: object) -> Exchange:
    fields = changes.pop("fields", {"messages": HELLO})
    assert isinstance(fields, dict)
    made = Exchange(request_id, "ada", TARGET, operation, False, fields)
    answer = changes.pop("answer", "")
    assert isinstance(answer, str)
    made.keep_answer(answer)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_a_record_says_how_a_request_ended_and_not_what_was_in_it() -> None:
    kept = Kept()
    kept.add(
        status=200, usage=Usage(3, 5, 8), finish_reason="stop", trace_id="a" * 32, hops=1, billed=False, answer="hi"
    )
    batch = kept.records.batch()
    assert batch is not None
    (record,) = batch.records
    assert (record.id, record.key, record.model, record.backend) == ("id", "ada", "m", "engine")
    assert (record.status, record.outcome, record.finish_reason) == (200, "ok", "stop")
    assert (record.prompt_tokens, record.completion_tokens, record.billed, record.hops) == (3, 5, False, 1)
    assert record.trace_id == "a" * 32
    assert 0 <= record.seconds < 5
    assert (record.sampled, record.prompt, record.answer) == (False, None, None)


def test_a_sampled_record_has_the_text() -> None:
    kept = Kept()
    kept.add(sampled=True, answer="hi there")
    batch = kept.records.batch()
    assert batch is not None
    (record,) = batch.records
    assert (record.sampled, record.prompt, record.answer) == (True, "hello", "hi there")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_the_share_that_is_sampled_is_the_one_that_was_set(share: float) -> None:
    records = Kept(share).records
    taken = sum(records.samples(f"{number:032x}") for number in range(20_000))
    assert taken == pytest.approx(20_000 * share, abs=400)


def test_the_same_id_is_always_sampled_or_never() -> None:
    ids = [f"request-{number}" for number in range(200)]
    once = [each for each in ids if Kept(0.3).records.samples(each)]
    again = [each for each in ids if Kept(0.3).records.samples(each)]
    more = [each for each in ids if Kept(0.6).records.samples(each)]
    assert once == again
    assert 0 < len(once) < len(more) < len(ids)
    assert set(once) <= set(more), "who raises the share keeps what was sampled before"


def test_what_does_not_fit_is_dropped_counted_and_told_with_the_next_batch() -> None:
    kept = Kept(most=3)
    kept.add(5)
    assert kept.counts() == (0, 2, 3)
    batch = kept.records.batch()
    assert batch is not None
    assert (len(batch.records), batch.dropped) == (3, 2)
    kept.add()
    assert kept.counts() == (0, 3, 3), "what is being sent still waits: nobody has taken it"
    kept.records.sent()
    assert kept.counts() == (3, 3, 0)
    kept.add()
    after = kept.records.batch()
    assert after is not None
    assert (len(after.records), after.dropped) == (1, 1), "each drop is told once"
    kept.records.sent()
    assert kept.records.batch() is None


def test_a_batch_that_was_not_taken_is_the_same_the_next_time() -> None:
    kept = Kept()
    kept.add(3)
    first = kept.records.batch()
    assert first is not None
    kept.add(2)
    second = kept.records.batch()
    assert second is not None
    assert second.records[:3] == first.records[:3]


def test_batches_are_bounded_in_number_and_in_text() -> None:
    kept = Kept()
    kept.add(BATCH_RECORDS + 7)
    first = kept.records.batch()
    assert first is not None
    assert len(first.records) == BATCH_RECORDS
    kept.records.sent()
    second = kept.records.batch()
    assert second is not None
    assert len(second.records) == 7
    kept.records.sent()
    kept.add(100, sampled=True, answer="a" * 32_000)
    third = kept.records.batch()
    assert third is not None
    assert 30 <= len(third.records) <= 33


def test_too_much_text_goes_without_and_the_numbers_stay() -> None:
    kept = Kept()
    kept.add(600, sampled=True, answer="a" * 32_000)
    assert kept.counts() == (0, 0, 600)
    dropped = kept.value("gateway_record_texts_dropped_total")
    assert dropped is not None
    assert 90 <= dropped <= 110
    seen = []
    while (batch := kept.records.batch()) is not None:
        seen += batch.records
        kept.records.sent()
    assert sum(record.sampled for record in seen) == 600 - dropped
    kept.add(sampled=True, answer="b")
    last = kept.records.batch()
    assert last is not None
    assert last.records[0].answer == "b", "there is room again"


def test_what_is_lost_at_the_end_is_counted() -> None:
    kept = Kept()
    kept.add(3)
    kept.records.batch()
    kept.add(2)
    assert kept.records.drop_all() == 5
    assert kept.counts() == (0, 5, 0)


def test_a_refusal_has_a_record_too() -> None:
    kept = Kept(1.0)
    fields = {"user": b'"grace"', "stream": b"true"}
    kept.records.refused(
        request_id="id", key="ada", model="n" * 500, operation="chat", fields=fields, status=404, error="no_model"
    )
    batch = kept.records.batch()
    assert batch is not None
    (record,) = batch.records
    assert (record.status, record.error, record.outcome, record.backend) == (404, "no_model", "failed", "")
    assert (record.user, record.stream, record.model, record.prompt) == ("grace", True, "n" * 256, None)

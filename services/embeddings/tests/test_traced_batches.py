"""Batches in traces: each request sees its own waiting and computing, and whom it shared a batch with."""

import asyncio

import pytest

from services.embeddings.tests.dummies import Gate
from services.embeddings.tests.test_queue import Bench
from services.kit import tracing
from tests.testkit.server import eventually
from tests.testkit.spans import RecordedSpans


@pytest.fixture
def spans(monkeypatch):
    monkeypatch.delenv("OTEL_TRACES_SAMPLER", raising=False)
    return RecordedSpans()


async def test_requests_of_one_batch_are_linked_and_keep_their_own_traces(tmp_path, spans):
    bench = Bench(tmp_path)
    bench.gate = bench.openings.before = Gate(is_open=False)

    async def ask(name):
        with spans.tracer.root_span(name):
            await bench.embed([name])

    first = asyncio.create_task(ask("first"))
    await eventually(lambda: bench.gate.seen)
    others = [asyncio.create_task(ask(name)) for name in ("second", "third")]
    await eventually(lambda: len(bench.first.queue.waiting.jobs()) == 2)
    bench.gate.open()
    await asyncio.gather(first, *others)
    kept = spans.all
    by_id = {span.id: span.name for span in kept}
    computed = {by_id[span.parent]: span for span in kept if span.name == "embeddings.compute"}
    links = {name: [by_id[link] for link in span.links] for name, span in computed.items()}
    assert links == {"first": [], "second": ["third"], "third": ["second"]}
    assert computed["second"].attributes["embeddings.batch_requests"] == 2
    for name, span in computed.items():
        (root,) = [each for each in kept if each.name == name]
        (queued,) = [each for each in kept if each.name == "embeddings.queue" and by_id[each.parent] == name]
        assert root.began <= queued.began <= queued.ended <= span.ended <= root.ended
        assert span.trace == root.trace
    await bench.models.close()


async def test_what_nobody_traces_is_not_written_down(tmp_path, spans):
    bench = Bench(tmp_path)
    await bench.embed(["a text"])
    with spans.tracer.no_span():
        await bench.embed(["another"])
    assert spans.all == []
    assert tracing.current() is tracing.NOTHING
    await bench.models.close()

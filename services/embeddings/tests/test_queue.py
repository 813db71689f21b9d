"""The queue of one model: right rows to the right request, capacity given back, no work for those who left."""

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from services.embeddings.backends import BackendError
from services.embeddings.backends.dummy import DummyBackend
from services.embeddings.metrics import EmbeddingsMetrics
from services.embeddings.models import Asked, Models
from services.embeddings.tests.dummies import RERANKER, Gate, Openings, card, settings
from services.kit.errors import InvalidRequest, ModelFailed, RateLimited
from services.kit.settings import SettingsError
from tests.testkit.server import eventually


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """Models of dummy backends, and what a test needs to look at."""

    def __init__(self, tmp_path, **given) -> None:
        self.gate = Gate()
        self.openings = Openings(self.gate)
        self.clock = Clock()
        self.registry = CollectorRegistry()
        self.models = Models(
            [card(), card("second"), RERANKER],
            settings(tmp_path, **given),
            EmbeddingsMetrics(self.registry),
            self.openings,
            self.clock,
        )
        self.first, self.second, self.ranker = self.models.all

    async def embed(self, texts, model=None):
        model = model or self.first
        return (await model.embed(texts, await model.count(texts))).rows

    def sample(self, name, model="dummy"):
        return self.registry.get_sample_value(name, {"model": model})


@pytest.fixture
async def bench(tmp_path) -> AsyncIterator[Bench]:
    made = Bench(tmp_path, batch_tokens=100, queue_tokens=1024)
    yield made
    made.gate.open()
    await made.models.close()


async def test_each_request_gets_its_own_rows_in_its_own_order(bench):
    requests = [
        [f"text {number} of {other}" + " more" * (other % 7) for other in range(number)] for number in (1, 9, 5)
    ]
    answers = await asyncio.gather(*(bench.embed(texts) for texts in requests))
    alone = DummyBackend(dimensions=8)
    for texts, rows in zip(requests, answers, strict=True):
        np.testing.assert_array_equal(rows, alone.embed(texts))
    assert bench.first.capacity.used == 0
    assert bench.sample("embeddings_batch_size_count") > 1


async def test_rerank_requests_that_share_a_batch_keep_their_queries(bench):
    asked = [Asked("red apple", ["red apple", "red car", "sky"]), Asked("sky", ["red apple", "sky"])]
    lengths = [await bench.ranker.count(each.documents) for each in asked]
    answers = await asyncio.gather(*map(bench.ranker.score, asked, lengths))
    assert [answer.rows.tolist() for answer in answers] == [[1.0, 0.5, 0.0], [0.0, 1.0]]


async def test_a_request_that_waits_is_dropped_when_it_is_cancelled(tmp_path):
    bench = Bench(tmp_path, batch_tokens=64)
    bench.gate = bench.openings.before = Gate(is_open=False)
    first = asyncio.create_task(bench.embed(["computed now"]))
    await eventually(lambda: bench.gate.seen)
    leaves = asyncio.create_task(bench.embed(["never computed"] * 3))
    stays = asyncio.create_task(bench.embed(["computed later"]))
    await eventually(lambda: len(bench.first.queue.waiting.jobs()) == 2)
    held = bench.first.capacity.used
    leaves.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaves
    assert bench.first.capacity.used == held - 12
    bench.gate.open()
    await asyncio.gather(first, stays)
    assert bench.gate.texts == ["computed now", "computed later"]
    assert bench.sample("embeddings_dropped_total") == 3
    assert bench.first.capacity.used == 0
    await bench.models.close()


async def test_what_is_above_the_capacity_is_told_when_to_come_back(tmp_path):
    bench = Bench(tmp_path, queue_tokens=1024)
    bench.gate = bench.openings.before = Gate(is_open=False)
    waits = asyncio.create_task(bench.embed(["word " * 60] * 16))
    await eventually(lambda: bench.gate.seen)
    with pytest.raises(RateLimited, match="992 tokens waiting, and takes on 1,024: 62 more") as refused:
        await bench.embed(["word " * 60])
    assert refused.value.status == 429
    assert 1 <= refused.value.retry_after_s <= 60
    assert bench.sample("embeddings_rejected_total") == 1
    assert bench.sample("embeddings_queue_tokens") == 992
    bench.gate.open()
    await waits
    assert (await bench.embed(["word " * 60])).shape == (1, 8)
    await bench.models.close()


async def test_more_than_the_whole_capacity_is_refused_for_good(bench):
    with pytest.raises(InvalidRequest, match="1,054 tokens together, dummy takes on 1,024 at a time"):
        await bench.embed(["word " * 60] * 17)
    assert bench.first.capacity.used == 0


async def test_a_long_text_that_is_being_counted_takes_room_too(tmp_path):
    bench = Bench(tmp_path, queue_tokens=1024)
    with bench.first.capacity.held(1000), pytest.raises(RateLimited):
        await bench.first.count(["word " * 1000])
    assert await bench.first.count(["word " * 1000]) == [1002]
    assert bench.first.capacity.used == 0
    await bench.models.close()


async def test_a_text_that_can_not_be_computed_fails_alone(bench):
    def before(texts):
        if "poison" in texts:
            raise BackendError("no such luck")

    bench.openings.before = before
    fine, bad, also = await asyncio.gather(
        bench.embed(["one"]), bench.embed(["poison"]), bench.embed(["two"]), return_exceptions=True
    )
    assert fine.shape == also.shape == (1, 8)
    assert isinstance(bad, ModelFailed)
    assert "dummy could not compute this: no such luck" in bad.message
    assert bench.first.capacity.used == 0


async def test_a_crash_of_the_backend_reaches_the_request_and_the_queue_goes_on(bench):
    def before(texts):
        if "crash" in texts:
            raise ZeroDivisionError

    bench.openings.before = before
    with pytest.raises(ZeroDivisionError):
        await bench.embed(["crash"])
    assert (await bench.embed(["fine"])).shape == (1, 8)


async def test_a_model_is_loaded_once_however_many_ask(bench):
    assert not bench.second.worker.loaded
    await asyncio.gather(*(bench.embed([f"text {number}"], bench.second) for number in range(20)))
    assert len(bench.openings.backends) == 1
    assert bench.sample("embeddings_model_loaded", "second") == 1
    assert bench.sample("embeddings_model_loaded") == 0


async def test_a_failed_load_is_told_and_tried_again_after_a_while(bench):
    bench.openings.failure = BackendError("its file is damaged")
    answers = await asyncio.gather(*(bench.embed(["a"]) for _ in range(3)), return_exceptions=True)
    assert {str(answer) for answer in answers} == {"dummy can't be loaded: its file is damaged"}
    assert {answer.status for answer in answers} == {503}
    assert bench.models.checks()["models"] == "dummy can't be loaded: its file is damaged"
    bench.openings.failure = None
    with pytest.raises(ModelFailed):
        await bench.embed(["a"])
    bench.clock.now += 6
    assert (await bench.embed(["a"])).shape == (1, 8)
    assert bench.models.checks()["models"] == "ok"
    assert bench.first.capacity.used == 0


async def test_a_model_that_nobody_uses_goes_and_comes_back(tmp_path):
    bench = Bench(tmp_path, idle_ttl_s=60)
    await bench.embed(["a"])
    await bench.embed(["a"], bench.second)
    bench.clock.now += 59
    await bench.models.unload_idle()
    assert bench.second.worker.loaded
    bench.clock.now += 2
    await bench.models.unload_idle()
    assert bench.first.worker.loaded, "the default stays"
    assert not bench.second.worker.loaded
    assert bench.openings.backends[1].closed
    assert (await bench.embed(["a"], bench.second)).shape == (1, 8)
    assert len(bench.openings.backends) == 3
    await bench.models.close()


async def test_a_model_at_work_is_not_unloaded(tmp_path):
    bench = Bench(tmp_path, idle_ttl_s=60)
    bench.gate = bench.openings.before = Gate(is_open=False)
    works = asyncio.create_task(bench.embed(["a"], bench.second))
    await eventually(lambda: bench.gate.seen)
    bench.clock.now += 1000
    await bench.models.unload_idle()
    assert bench.second.worker.loaded
    bench.gate.open()
    await works
    await bench.models.unload_idle()
    assert bench.second.worker.loaded, "it was used just now"
    await bench.models.close()


def test_a_model_that_is_wanted_by_name_and_unknown_stops_the_start(tmp_path):
    with pytest.raises(SettingsError, match="EMBEDDINGS_MODELS=second,nobody: nobody is not known; known are dummy"):
        Bench(tmp_path, models="second,nobody")


def test_the_first_model_that_is_named_is_the_default(tmp_path):
    models = Models(
        [card(), card("second"), RERANKER],
        settings(tmp_path, models="ranker,second"),
        EmbeddingsMetrics(CollectorRegistry()),
        Openings(),
    )
    assert [model.card.id for model in models.all] == ["ranker", "second"]
    assert {kind: model.card.id for kind, model in models.defaults.items()} == {
        "rerank": "ranker",
        "embeddings": "second",
    }

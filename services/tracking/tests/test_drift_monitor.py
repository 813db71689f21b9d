"""The monitor on a real store: windows, the first reference, embeddings that fail, deletion."""

import asyncio
import hashlib

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from services.tracking.drift import references
from services.tracking.drift.embedder import EmbeddingsFailed
from services.tracking.drift.features import measure
from services.tracking.drift.metrics import DriftMetrics
from services.tracking.drift.monitor import Monitor
from services.tracking.erasing import erase_key
from services.tracking.settings import TrackingSettings
from services.tracking.store import Store
from services.tracking.tests.samples import AT, batch, opened_store, record, until

SIZE = 40
TOPICS = {"How do I make the dump of a database?": 0.0, "Which cake is it that you would bake for me?": 5.0}


class FakeEmbedder:
    """Vectors by the topic of a text; `fails` says so instead."""

    def __init__(self):
        self.fails = False
        self.asked = []

    async def embed(self, texts):
        if self.fails:
            raise EmbeddingsFailed("the embeddings service is down")
        self.asked += texts
        return [self._vector(text) for text in texts]

    async def close(self):
        pass

    def _vector(self, text):
        shift = next((shift for topic, shift in TOPICS.items() if text.startswith(topic)), 0.0)
        dice = np.random.default_rng(list(hashlib.blake2b(text.encode(), digest_size=8).digest()))
        raw = dice.normal(size=16)
        raw[0] += shift
        return (raw / np.linalg.norm(raw)).astype("<f4").tobytes()


class Stack:
    def __init__(self, folder, store):
        self.store = store
        self.embedder = FakeEmbedder()
        self.settings = TrackingSettings(state=folder, window_records=SIZE, look_interval_s=0.01)
        self.monitor = Monitor(store, self.settings, self.embedder)
        self.dice = np.random.default_rng(5)
        self._number = 0

    def ask(self, count=SIZE, topic=0, **fields):
        """Requests that are stored when this returns; their numbers are of one distribution."""
        texts = list(TOPICS)
        records = []
        for _ in range(count):
            self._number += 1
            given = {
                "at": AT + self._number,
                "sampled": True,
                "prompt": f"{texts[topic]} {self.dice.integers(1000)}",
                "answer": f"It is in the manual, and that is on the table. {self.dice.integers(1000)}",
                "seconds": float(self.dice.lognormal(0, 0.3)),
                "finish_reason": "stop",
            }
            records.append(record(**{**given, **fields}))
        self.store.add(batch(*records))
        until(lambda: not self.store.waiting)

    async def fill(self, count=SIZE, **fields):
        await asyncio.to_thread(self.ask, count, **fields)
        await self.monitor.look()

    async def windows(self):
        return await asyncio.to_thread(self.store.read, lambda connection: references.windows(connection, 100))

    async def write(self, work):
        return await asyncio.wrap_future(self.store.write(work))


@pytest.fixture
def stack(tmp_path):
    with opened_store(tmp_path, measure=measure) as store:
        until(lambda: store.state == "ok")
        yield Stack(tmp_path, store)


async def test_the_first_two_windows_become_the_reference_and_later_ones_are_compared_with_it(stack):
    await stack.fill(SIZE - 1)
    assert stack.monitor.state.filled == SIZE - 1
    assert (await stack.windows()) == []
    await stack.fill(1 + SIZE)
    assert [window.reference for window in (await stack.windows())] == ["", ""]
    assert stack.monitor.state.reference == references.AUTOMATIC
    assert stack.monitor.state.reference_records == 2 * SIZE

    await stack.fill()
    await stack.fill(topic=1)

    other, same = (await stack.windows())[:2]
    assert (same.reference, same.alarm) == (references.AUTOMATIC, False)
    changed = {finding["signal"] for finding in other.findings if finding["alarm"]}
    assert {"prompt_domain", "prompt_mmd"} <= changed
    assert "latency" not in changed
    assert (other.first_seq, other.last_seq, other.size) == (3 * SIZE + 1, 4 * SIZE, SIZE)


async def test_inner_requests_and_those_that_were_not_sampled_fill_no_window(stack):
    await stack.fill(SIZE, hops=1)
    await stack.fill(SIZE, sampled=False)

    assert ((await stack.windows()), stack.monitor.state.filled) == ([], 0)


async def test_requests_that_are_refused_at_the_door_are_counted_though_no_text_of_them_is_sampled(stack):
    for _ in range(3):
        await stack.fill(SIZE * 2, sampled=False)
        await stack.fill()
    await stack.fill(SIZE, sampled=False, status=403, error="guardrail_blocked", outcome="failed")
    await stack.fill()

    blocked, quiet = ({each["signal"]: each for each in window.findings} for window in (await stack.windows())[:2])
    assert not quiet["guard_blocks"]["alarm"]
    assert blocked["guard_blocks"]["alarm"]
    assert blocked["guard_blocks"]["detail"]["window_share"] == 0.5
    assert not blocked["failures"]["alarm"]


async def test_requests_for_embeddings_fill_no_window(stack):
    await stack.fill(SIZE, operation="embeddings")

    assert stack.monitor.state.filled == 0


async def test_prometheus_is_told_of_the_last_window_alone(stack):
    registry = CollectorRegistry()
    DriftMetrics(registry, stack.monitor.state)
    for _ in range(3):
        await stack.fill()
    quiet = generate_latest(registry).decode()
    await stack.fill(topic=1)
    loud = generate_latest(registry).decode()

    assert 'tracking_drift_alarm{signal="prompt_mmd"} 0.0' in quiet
    assert 'tracking_drift_alarm{signal="prompt_mmd"} 1.0' in loud
    assert "tracking_windows_total 4.0" in loud
    assert "tracking_windows_alarmed_total 1.0" in loud
    assert f"tracking_drift_reference_records {2 * SIZE}.0" in loud
    assert 'signal="judge_score"' not in loud


async def test_a_restart_goes_on_where_it_stopped(stack):
    for _ in range(3):
        await stack.fill()
    again = Monitor(stack.store, stack.settings, stack.embedder)
    await again.look()

    assert len(await stack.windows()) == 3
    assert again.state.reference == references.AUTOMATIC
    assert {finding["signal"] for finding in again.state.findings} >= {"prompt_length", "prompt_domain"}


async def test_a_full_window_waits_for_embeddings_that_fail_and_not_for_ever(stack):
    await stack.fill(2 * SIZE)
    stack.embedder.fails = True
    await stack.fill()
    assert len(await stack.windows()) == 2
    assert stack.monitor.state.trouble == "the embeddings service is down"

    stack.embedder.fails = False
    await stack.monitor.look()
    assert "prompt_domain" in {finding["signal"] for finding in (await stack.windows())[0].findings}
    assert stack.monitor.state.trouble == ""

    stack.embedder.fails = True
    await stack.fill()
    for _ in range(10):
        await stack.monitor.look()
    signals = {finding["signal"] for finding in (await stack.windows())[0].findings}
    assert len(await stack.windows()) == 4
    assert "latency" in signals
    assert "prompt_domain" not in signals


async def test_texts_that_are_embedded_are_masked_and_forgotten(stack):
    await stack.fill(1, prompt="Write to ada@example.com, please", answer="I have done that")

    assert stack.embedder.asked == ["Write to [EMAIL], please", "I have done that"]
    assert stack.store.take_texts(10) == []


async def test_without_an_embeddings_service_texts_do_not_pile_up(stack):
    monitor = Monitor(stack.store, stack.settings, None)
    await asyncio.to_thread(stack.ask, 5)
    await monitor.look()

    assert stack.store.take_texts(10) == []


async def test_who_is_deleted_is_out_of_the_reference_which_says_when_it_is_too_small(stack):
    await stack.fill(SIZE + SIZE // 2, key="ada")
    await stack.fill(SIZE // 2, key="bob")
    assert stack.monitor.state.trouble == ""

    await stack.write(lambda connection: erase_key(connection, "ada", AT + 1e6))
    await stack.monitor.look()

    assert stack.monitor.state.reference_records == SIZE // 2
    assert f"{SIZE // 2} of {2 * SIZE} requests are left" in stack.monitor.state.trouble


async def test_a_reference_is_made_promoted_replaced_and_removed(stack):
    for _ in range(3):
        await stack.fill()
    window = (await stack.windows())[0]

    def change(connection):
        references.make_reference(connection, "monday", [window], AT)
        made = references.reference_in_use(connection).name
        references.promote(connection, "monday", 1.0)
        promoted = references.reference_in_use(connection).name
        again = references.make_reference(connection, "monday", [window, stack_windows[1]], AT)
        references.remove_reference(connection, "monday")
        return made, promoted, again, references.reference_in_use(connection).name

    stack_windows = await stack.windows()
    made, promoted, again, after = await stack.write(change)

    assert (made, promoted, after) == (references.AUTOMATIC, "monday", references.AUTOMATIC)
    assert (again.size, again.in_use) == (2 * SIZE, True)
    with pytest.raises(references.NoSuchReference):
        await stack.write(lambda connection: references.promote(connection, "x", AT))
    gone = references.Window(0, AT, 10**6, 10**6 + 1, AT, AT, 2)
    with pytest.raises(references.NotEnough):
        await stack.write(lambda connection: references.make_reference(connection, "x", [gone], AT))


async def test_it_looks_by_itself_and_a_look_that_fails_does_not_end_it(stack, monkeypatch):
    failures = iter([RuntimeError("once")])
    real = stack.monitor.look

    async def look():
        for failure in failures:
            raise failure
        await real()

    monkeypatch.setattr(stack.monitor, "look", look)
    await asyncio.to_thread(stack.ask)
    await stack.monitor.start()
    try:
        async with asyncio.timeout(60):
            while stack.monitor.state.windows < 1 or stack.monitor.state.trouble:
                await asyncio.sleep(0.01)
    finally:
        await stack.monitor.stop()


async def test_a_store_that_cannot_be_read_is_said(stack, tmp_path):
    monitor = Monitor(Store(tmp_path / "none"), stack.settings, None)
    await monitor.start()
    try:
        async with asyncio.timeout(60):
            while not monitor.state.trouble:
                await asyncio.sleep(0.01)
    finally:
        await monitor.stop()
    assert "can't be opened" in monitor.state.trouble


async def test_a_store_that_is_still_being_made_is_looked_at_again_soon(stack, tmp_path):
    store = Store(tmp_path / "new")
    store.path.parent.mkdir()
    store.path.touch()
    settings = stack.settings.model_copy(update={"look_interval_s": 3600})
    monitor = Monitor(store, settings, None)
    await monitor.start()
    try:
        async with asyncio.timeout(60):
            while "has no tables yet" not in monitor.state.trouble:
                await asyncio.sleep(0.01)
            store.start()
            while monitor.state.trouble:
                await asyncio.sleep(0.01)
    finally:
        await monitor.stop()
        await asyncio.to_thread(store.stop)

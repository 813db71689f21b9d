"""Which texts are computed together: every one once, within the budget, and nobody waits for ever."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from services.embeddings.batching import Batch, Job, Waiting

LENGTHS = st.lists(st.integers(2, 300), min_size=1, max_size=30)
JOBS = st.lists(LENGTHS, min_size=1, max_size=12)


def drain(waiting: Waiting, most: int = 10_000) -> list[Batch]:
    batches = []
    while (batch := waiting.take()) is not None:
        batches.append(batch)
        assert len(batches) <= most
    return batches


def taken_in(batch: Batch) -> list[tuple[Job, int]]:
    return [(job, index) for job, indexes in batch.parts for index in indexes]


@given(JOBS, st.integers(16, 1000), st.integers(1, 20))
def test_every_text_is_taken_once_within_the_budget(jobs, budget, most_texts):
    waiting = Waiting(budget, most_texts)
    made = [Job(lengths) for lengths in jobs]
    for job in made:
        waiting.add(job)
    batches = drain(waiting)

    for batch in batches:
        lengths = [job.lengths[index] for job, index in taken_in(batch)]
        assert batch.texts == len(lengths) <= most_texts
        assert batch.longest == max(lengths)
        assert batch.tokens <= budget or batch.texts == 1
        padding = batch.tokens - sum(lengths)
        assert padding <= max(0.2 * batch.tokens, budget / 64)
    counts = Counter((id(job), index) for batch in batches for job, index in taken_in(batch))
    assert counts == {(id(job), index): 1 for job in made for index in range(len(job.lengths))}
    assert not waiting


@given(st.lists(st.tuples(st.sampled_from(["come", "take", "leave"]), LENGTHS), max_size=60), st.integers(16, 1000))
def test_whoever_waits_longest_in_a_lane_is_served_in_one_of_the_next_two_batches(events, budget):
    waiting = Waiting(budget, 16)
    fresh: list[Job] = []
    started: list[Job] = []
    patience: dict[int, int] = {}

    for event, lengths in events:
        if event == "come":
            fresh.append(Job(lengths))
            waiting.add(fresh[-1])
        elif event == "leave" and (fresh or started):
            lane = fresh or started
            gone = lane.pop(len(lane) // 2)
            assert waiting.remove(gone) > 0
        elif event == "take" and (batch := waiting.take()) is not None:
            served = [job for job, _indexes in batch.parts]
            for lane in (fresh, started):
                if lane and lane[0] not in served:
                    patience[id(lane[0])] = patience.get(id(lane[0]), 0) + 1
                    assert patience[id(lane[0])] < 2
            for job in served:
                patience.pop(id(job), None)
                (fresh if job in fresh else started).remove(job)
                if job.waiting:
                    started.append(job)
    assert waiting.jobs() == [*fresh, *started]


def test_a_small_request_does_not_wait_for_all_of_a_large_one():
    waiting = Waiting(1000, 64)
    large = Job([100] * 500)
    waiting.add(large)
    waiting.take()
    small = Job([10])
    waiting.add(small)
    taken = [waiting.take(), waiting.take()]
    assert small in [job for batch in taken for job, _indexes in batch.parts]


def test_a_large_request_goes_on_however_many_small_ones_come():
    waiting = Waiting(100, 64)
    large = Job([90] * 20)
    waiting.add(large)
    for _ in range(100):
        waiting.add(Job([90]))
    batches = drain(waiting)
    last = max(number for number, batch in enumerate(batches) if batch.parts[0][0] is large)
    assert last <= 40


def test_first_batches_come_in_the_order_of_the_requests():
    waiting = Waiting(100, 64)
    jobs = [Job([60, 60, 60]) for _ in range(5)]
    for job in jobs:
        waiting.add(job)
    firsts = list(dict.fromkeys(id(job) for batch in drain(waiting) for job, _indexes in batch.parts))
    assert firsts == [id(job) for job in jobs]


def test_texts_of_like_length_go_together():
    waiting = Waiting(1024, 64)
    waiting.add(Job([10, 200, 11, 190, 12, 210]))
    assert [batch.longest for batch in drain(waiting)] == [210, 12]


def test_requests_of_single_texts_share_a_batch():
    waiting = Waiting(1024, 64)
    for _ in range(40):
        waiting.add(Job([20]))
    assert [batch.texts for batch in drain(waiting)] == [40]


def test_a_text_above_the_budget_makes_a_batch_by_itself():
    waiting = Waiting(100, 64)
    waiting.add(Job([500, 10, 10]))
    assert [batch.texts for batch in drain(waiting)] == [1, 2]


@given(LENGTHS, st.integers(0, 5))
def test_what_is_dropped_is_never_taken(lengths, before):
    waiting = Waiting(64, 4)
    gone, stays = Job(lengths), Job(lengths)
    waiting.add(gone)
    waiting.add(stays)
    taken = [batch for _ in range(before) if (batch := waiting.take()) is not None]
    already = sum(len(indexes) for batch in taken for job, indexes in batch.parts if job is gone)
    assert waiting.remove(gone) == len(lengths) - already
    later = drain(waiting)
    assert gone not in [job for batch in later for job, _indexes in batch.parts]
    assert sum(len(indexes) for batch in taken + later for job, indexes in batch.parts if job is stays) == len(lengths)

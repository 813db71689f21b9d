"""Single decisions of the residency, each a sentence. The whole is checked in test_residency_stateful.py."""

import pytest

from services.engines.admission import GIB, Need, Room
from services.engines.residency import (
    DoesNotFitError,
    LeaseLapsedError,
    Load,
    NotServedError,
    Refuse,
    Residency,
    Rest,
    Unload,
)
from services.engines.residents import Limits

BIG = Need(6 * GIB)
ROOM = Room(budget=10 * GIB, available=10 * GIB, reserve=2 * GIB)


@pytest.fixture
def residency():
    """Two models of 6 GiB and a small one, on a machine that holds 10 GiB of them; an hour of idle time."""
    residency = Residency(Limits(min_residency_s=60, idle_ttl_s=3600, lease_s=15))
    residency.define("a", BIG, load_s=20)
    residency.define("b", BIG, load_s=30)
    residency.define("small", Need(GIB), load_s=2)
    return residency


def load(residency, model, now):
    """Load a model as the controller does."""
    residency.want(model, "w", now, ROOM)
    assert residency.next_step(now, ROOM) == Load(model)
    residency.load_began(model, now)
    residency.load_ended(model, now, taken=0)
    residency.leave(model, "w", now)


def test_the_first_model_is_loaded_at_once(residency):
    residency.want("a", "w", 0, ROOM)
    assert residency.models["a"].state == "queued"
    assert residency.next_step(0, ROOM) == Load("a")


def test_nothing_is_leased_before_it_is_ready(residency):
    residency.want("a", "w", 0, ROOM)
    assert residency.lease("a", "w", 0) is None
    residency.load_began("a", 0)
    assert residency.lease("a", "w", 1) is None
    residency.load_ended("a", 20, taken=0)
    assert residency.lease("a", "w", 20).model == "a"


def test_engines_start_one_at_a_time(residency):
    residency.want("a", "w", 0, ROOM)
    residency.want("small", "w", 0, ROOM)
    assert residency.next_step(0, ROOM) == Load("a")
    residency.load_began("a", 0)
    assert isinstance(residency.next_step(1, ROOM), Rest)
    residency.load_ended("a", 20, taken=0)
    assert residency.next_step(20, ROOM) == Load("small")


def test_what_can_never_fit_is_refused_with_the_sum(residency):
    residency.define("huge", Need(20 * GIB), load_s=1)
    with pytest.raises(
        DoesNotFitError, match=r"huge needs 20\.0 GiB; engines may take 10\.0 GiB.*10\.0 GiB are missing"
    ):
        residency.want("huge", "w", 0, ROOM)
    assert residency.models["huge"].state == "stopped"


def test_the_transient_of_a_load_counts(residency):
    residency.define("spiky", Need(6 * GIB, transient=5 * GIB), load_s=1)
    with pytest.raises(DoesNotFitError, match=r"6\.00 GiB and 5\.00 GiB more while it loads"):
        residency.want("spiky", "w", 0, ROOM)


def test_a_pinned_model_is_named_as_what_to_unload(residency):
    residency.keep_loaded("a", pinned=True)
    load(residency, "a", 0)
    with pytest.raises(DoesNotFitError, match=r"Pinned.*: a \(6\.00 GiB\); `sparkstack unload`"):
        residency.want("b", "w", 1000, ROOM)


def test_other_programs_memory_counts(residency):
    with pytest.raises(DoesNotFitError, match=r"3\.00 GiB are available now.*End other programs"):
        residency.want("a", "w", 0, Room(10 * GIB, 3 * GIB))


def test_what_was_promised_but_not_taken_stays_promised(residency):
    load(residency, "a", 0)  # nothing taken yet: 10 GiB look available, 6 of them are promised
    residency.define("c", Need(5 * GIB), load_s=1)
    residency.want("c", "w", 1, ROOM)
    assert isinstance(residency.next_step(1, ROOM), Rest)


def test_memory_that_was_taken_is_not_counted_twice(residency):
    load(residency, "a", 0)
    residency.models["a"].taken = 6 * GIB
    residency.define("c", Need(4 * GIB), load_s=1)
    residency.want("c", "w", 1, Room(10 * GIB, 4 * GIB))
    assert residency.next_step(1, Room(10 * GIB, 4 * GIB)) == Load("c")


def test_a_model_stays_for_its_minimum_residency(residency):
    load(residency, "a", 0)
    residency.want("b", "w", 1, ROOM)
    assert residency.next_step(1, ROOM) == Rest(60, "b waits for a to end its requests and its time")
    assert residency.lease("a", "h", 30) is not None  # until then it serves


def test_an_idle_model_goes_for_another_after_that(residency):
    load(residency, "a", 0)
    residency.want("b", "w", 1, ROOM)
    assert residency.next_step(60, ROOM) == Unload("a", "b is waiting for its memory")


def test_a_model_with_a_lease_drains_first(residency):
    load(residency, "a", 0)
    lease = residency.lease("a", "h", 50)
    residency.want("b", "w", 50, ROOM)
    assert isinstance(residency.next_step(61, ROOM), Rest)
    assert residency.models["a"].draining
    assert residency.lease("a", "other", 61) is None
    residency.renew(lease.id, 1, 62)
    assert isinstance(residency.next_step(63, ROOM), Rest)
    residency.release(lease.id, 64)
    assert residency.next_step(64, ROOM) == Unload("a", "b is waiting for its memory")


def test_who_asks_for_a_draining_model_queues_behind(residency):
    load(residency, "a", 0)
    lease = residency.lease("a", "h", 50)
    residency.want("b", "w", 50, ROOM)
    residency.next_step(61, ROOM)
    residency.want("a", "again", 61, ROOM)
    assert residency.position("b") == 1
    assert residency.position("a") == 2
    residency.release(lease.id, 62)
    assert residency.next_step(62, ROOM) == Unload("a", "b is waiting for its memory")
    residency.unload_began("a", 62)
    residency.unloaded("a", 63)
    assert residency.models["a"].state == "queued"
    assert residency.next_step(63, ROOM) == Load("b")


def test_draining_ends_when_the_one_who_waited_leaves(residency):
    load(residency, "a", 0)
    residency.lease("a", "h", 60)
    residency.want("b", "w", 60, ROOM)
    residency.next_step(61, ROOM)
    residency.want("a", "again", 61, ROOM)
    residency.leave("b", "w", 62)
    residency.next_step(62, ROOM)
    assert residency.lease("a", "again", 62) is not None
    assert residency.position("a") is None


def test_a_lease_that_is_not_renewed_lapses(residency):
    load(residency, "a", 0)
    lease = residency.lease("a", "h", 100)
    residency.want("b", "w", 100, ROOM)
    assert residency.next_step(100, ROOM).until == 115
    assert residency.next_step(115, ROOM) == Unload("a", "b is waiting for its memory")
    with pytest.raises(LeaseLapsedError, match="has lapsed"):
        residency.renew(lease.id, 1, 115)


def test_the_least_recently_used_goes_first_and_no_more_than_needed(residency):
    load(residency, "small", 0)
    load(residency, "a", 1)
    residency.release(residency.lease("small", "h", 100).id, 100)
    residency.want("b", "w", 200, ROOM)
    assert residency.next_step(200, ROOM) == Unload("a", "b is waiting for its memory")
    residency.unload_began("a", 200)
    residency.unloaded("a", 200)
    assert residency.next_step(200, ROOM) == Load("b")


def test_who_was_promised_a_load_finds_it(residency):
    residency.want("a", "comes back", 0, ROOM, until=90)
    residency.load_began("a", 0)
    residency.load_ended("a", 20, taken=0)
    residency.want("b", "w", 21, ROOM)
    assert isinstance(residency.next_step(85, ROOM), Rest)
    assert residency.next_step(90, ROOM) == Unload("a", "b is waiting for its memory")


def test_a_demand_that_is_taken_back_leaves_the_queue(residency):
    residency.want("a", "one", 0, ROOM)
    residency.want("a", "two", 0, ROOM)
    residency.leave("a", "one", 1)
    assert residency.models["a"].state == "queued"
    residency.leave("a", "two", 2)
    assert residency.models["a"].state == "stopped"
    assert residency.next_step(2, ROOM) == Rest(None)


def test_an_idle_model_goes_after_its_time(residency):
    load(residency, "a", 0)
    assert residency.next_step(10, ROOM) == Rest(3600)
    assert residency.next_step(3600, ROOM) == Unload("a", "nobody has used it")


def test_a_model_that_was_loaded_on_purpose_has_no_idle_time(residency):
    residency.keep_loaded("a")
    load(residency, "a", 0)
    assert residency.next_step(1e6, ROOM) == Rest(None)


@pytest.mark.parametrize(
    ("keep_alive_s", "now", "step"),
    [
        (0, 1, Unload("a", "nobody has used it")),
        (100, 50, Rest(101)),
        (100, 101, Unload("a", "nobody has used it")),
        (-1, 1e6, Rest(None)),
    ],
)
def test_a_client_sets_the_idle_time(residency, keep_alive_s, now, step):
    load(residency, "a", 0)
    residency.release(residency.lease("a", "h", 1).id, 1, keep_alive_s=keep_alive_s)
    assert residency.next_step(now, ROOM) == step


def test_an_unload_waits_for_requests_in_flight_but_takes_no_new_ones(residency):
    load(residency, "a", 0)
    lease = residency.lease("a", "h", 1)
    residency.ask_unload("a", 1)
    assert isinstance(residency.next_step(2, ROOM), Rest)
    assert residency.lease("a", "other", 2) is None
    residency.release(lease.id, 3)
    assert residency.next_step(3, ROOM) == Unload("a", "asked for")


def test_wanted_again_while_it_is_asked_to_go_it_goes_and_comes_back(residency):
    load(residency, "a", 0)
    lease = residency.lease("a", "h", 1)
    residency.ask_unload("a", 1)
    residency.want("a", "w", 2, ROOM)
    assert isinstance(residency.next_step(2, ROOM), Rest)
    residency.release(lease.id, 3)
    assert residency.next_step(3, ROOM) == Unload("a", "asked for")
    residency.unload_began("a", 3)
    residency.unloaded("a", 4)
    assert residency.next_step(4, ROOM) == Load("a")


def test_an_engine_that_fails_is_not_tried_at_once_again(residency):
    residency.want("a", "w", 0, ROOM)
    residency.load_began("a", 0)
    residency.failed("a", 1, "it crashed")
    with pytest.raises(NotServedError, match="it crashed") as caught:
        residency.want("a", "w", 2, ROOM)
    assert caught.value.retry_after_s == 4
    residency.want("a", "w", 6, ROOM)
    residency.load_began("a", 6)
    residency.failed("a", 7, "it crashed")
    assert residency.models["a"].retry_at == 17


def test_a_crash_ends_the_leases(residency):
    load(residency, "a", 0)
    lease = residency.lease("a", "h", 1)
    residency.failed("a", 2, "killed by signal 9")
    with pytest.raises(LeaseLapsedError):
        residency.renew(lease.id, 1, 2)


def test_memory_that_others_take_while_a_model_waits_ends_in_a_refusal(residency):
    residency.want("a", "w", 0, ROOM)
    step = residency.next_step(1, Room(10 * GIB, GIB))
    assert isinstance(step, Refuse)
    assert step.model == "a"
    residency.refused("a", 1)
    assert residency.next_step(1, ROOM) == Rest(None)


def test_the_eta_of_a_load_and_of_who_queues_behind_it(residency):
    residency.want("a", "w", 0, ROOM)
    assert residency.eta_s("a", 0, ROOM) == 20
    residency.load_began("a", 0)
    assert residency.eta_s("a", 15, ROOM) == 5
    residency.want("small", "w", 15, ROOM)
    assert residency.eta_s("small", 15, ROOM) == 7  # both fit: no residency to wait for
    assert residency.eta_s("b", 15, ROOM) is None
    residency.load_ended("a", 20, taken=0)
    residency.leave("small", "w", 20)
    residency.want("b", "w", 30, ROOM)
    assert residency.eta_s("b", 30, ROOM) == 50 + 30


def test_a_crashed_model_is_loaded_again_for_those_who_wait_and_lets_others_pass_until_then(residency):
    load(residency, "a", 0)
    residency.want("b", "w", 61, ROOM)
    residency.unload_began("a", 61)
    residency.crashed("a", 61, "killed", retry_after_s=5, waiter="operator")
    assert residency.models["a"].state == "queued"
    residency.want("a", "w", 62, ROOM)  # it waits, and is not refused
    assert residency.next_step(62, ROOM) == Load("b")

"""What is done about engines that are not well, and to whom nothing is done."""

import pytest

from services.engines.watching.canary import CanaryResult
from services.engines.watching.health import Verdict
from services.engines.watching.watchdog import Watchdog, WatchdogLimits

READY = Verdict("ready", "", 0)
BUSY = Verdict("busy", "", 0)
SUSPECT = Verdict("busy", "nothing has moved for 6 s", 6, suspect=True)
STALLED = Verdict("stalled", "nothing moved", 12, suspect=True)
DEAD = Verdict("dead", "its process is gone", 0)
LOADING = Verdict("loading", "", 0)

OK = CanaryResult("ok", 30, 200, tokens=1)
TIMEOUT = CanaryResult("timeout", 10_000)
UNREACHABLE = CanaryResult("unreachable", 1)
UNAUTHORIZED = CanaryResult("refused", 1, 401, "401")
FORBIDDEN = CanaryResult("refused", 1, 403, "403")
BAD_REQUEST = CanaryResult("refused", 1, 400, "no chat template")
CRASHED = CanaryResult("refused", 1, 500, "500")
FULL = CanaryResult("busy", 1, 503, "queue full")


def watchdog_of(now=0.0, **limits):
    """Return a watchdog whose engine came up at `now`, its grace over after 60 s."""
    watchdog = Watchdog(WatchdogLimits(**limits))
    assert watchdog.decide(READY, None, now).kind == "none"
    return watchdog


def actions(watchdog, verdict, canaries, now):
    return [watchdog.decide(verdict, canary, now).kind for canary in canaries]


def test_a_dead_engine_is_restarted_at_once_even_when_it_has_just_come_up():
    action = watchdog_of().decide(DEAD, None, 1.0)
    assert (action.kind, action.retry_after_s) == ("restart", 1.0)
    assert "gone" in action.reason


def test_deaths_in_a_row_wait_longer_and_then_are_given_up():
    watchdog = watchdog_of()
    decided = [watchdog.decide(DEAD, None, 10.0 * number) for number in range(1, 8)]
    assert [each.kind for each in decided] == ["restart"] * 5 + ["give_up"] * 2
    assert [each.retry_after_s for each in decided[:5]] == sorted({each.retry_after_s for each in decided[:5]})
    assert "5 times within 15 minutes" in decided[5].reason


def test_a_death_an_hour_is_always_restarted():
    watchdog = watchdog_of()
    for hour in range(1, 50):
        assert watchdog.decide(DEAD, None, 3600.0 * hour).kind == "restart"


def test_a_stall_is_confirmed_by_two_canaries_before_the_restart():
    watchdog = watchdog_of()
    assert actions(watchdog, STALLED, [None, TIMEOUT, TIMEOUT], 100) == ["canary", "canary", "restart"]


def test_the_reason_of_a_restart_tells_both_signs():
    watchdog = watchdog_of()
    watchdog.decide(STALLED, TIMEOUT, 100)
    reason = watchdog.decide(STALLED, UNREACHABLE, 110).reason
    assert "nothing moved" in reason
    assert "2 canaries" in reason


def test_suspicion_and_stall_share_their_canaries():
    watchdog = watchdog_of()
    assert watchdog.decide(SUSPECT, None, 100).kind == "canary"
    assert watchdog.decide(STALLED, TIMEOUT, 112).kind == "canary"
    assert watchdog.decide(STALLED, TIMEOUT, 124).kind == "restart"


@pytest.mark.parametrize("failure", [TIMEOUT, UNREACHABLE, CRASHED, FULL])
def test_whatever_is_no_token_confirms_a_stall(failure):
    assert actions(watchdog_of(), STALLED, [None, failure, failure], 100)[-1] == "restart"


@pytest.mark.parametrize("refusal", [UNAUTHORIZED, FORBIDDEN, BAD_REQUEST])
@pytest.mark.parametrize("verdict", [STALLED, SUSPECT, READY, BUSY])
def test_a_refusal_is_never_acted_on(refusal, verdict):
    watchdog = watchdog_of()
    decided = actions(watchdog, verdict, [None, *[refusal] * 20], 100)
    assert "restart" not in decided
    assert "give_up" not in decided


def test_a_busy_engine_is_never_restarted_whatever_its_canaries_met():
    watchdog = watchdog_of()
    assert set(actions(watchdog, BUSY, [None, *[TIMEOUT] * 20], 100)) == {"none"}


def test_progress_wipes_out_failures():
    watchdog = watchdog_of()
    watchdog.decide(STALLED, TIMEOUT, 100)
    watchdog.decide(BUSY, None, 102)
    assert actions(watchdog, STALLED, [None, TIMEOUT], 120) == ["canary", "canary"]


def test_a_canary_that_comes_back_ends_the_matter():
    watchdog = watchdog_of()
    assert actions(watchdog, STALLED, [None, TIMEOUT, OK, None, TIMEOUT], 100) == [
        "canary",
        "canary",
        "none",
        "canary",
        "canary",
    ]


def test_within_the_grace_a_stall_is_watched_and_not_acted_on():
    watchdog = watchdog_of()
    assert set(actions(watchdog, STALLED, [None, *[TIMEOUT] * 10], 59)) == {"canary"}
    assert watchdog.decide(STALLED, TIMEOUT, 60).kind == "restart"


def test_the_grace_begins_again_with_the_next_engine():
    watchdog = watchdog_of()
    assert actions(watchdog, STALLED, [TIMEOUT, TIMEOUT], 100)[-1] == "restart"
    assert watchdog.decide(LOADING, None, 130).kind == "none"
    watchdog.decide(READY, None, 140)
    assert set(actions(watchdog, STALLED, [TIMEOUT, TIMEOUT, TIMEOUT], 199)) == {"canary"}


def test_an_idle_engine_sees_a_canary_every_five_minutes():
    watchdog, ran_at, result = watchdog_of(), [], None
    for now in range(0, 1900, 2):
        action = watchdog.decide(READY, result, now)
        result = OK if action.kind == "canary" else None
        if result:
            ran_at.append(now)
    assert ran_at[0] == 300
    assert len(ran_at) == 6


def test_an_idle_engine_that_gives_no_token_is_restarted_after_two():
    watchdog = watchdog_of()
    assert actions(watchdog, READY, [None, TIMEOUT, TIMEOUT], 400) == ["canary", "canary", "restart"]


def test_an_engine_that_is_used_sees_no_idle_canary():
    watchdog = watchdog_of()
    assert {watchdog.decide(BUSY, None, now).kind for now in range(0, 3600, 2)} == {"none"}


def test_with_restarts_of_stalled_ones_switched_off_dead_ones_still_are():
    watchdog = watchdog_of(restart_stalled=False)
    assert set(actions(watchdog, STALLED, [None, *[TIMEOUT] * 20], 100)) <= {"canary", "none"}
    assert watchdog.decide(DEAD, None, 200).kind == "restart"

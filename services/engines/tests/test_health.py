"""The verdicts, from scripted signals: who is busy, who is wedged, who is dead."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.engines.watching.health import HealthLimits, ProgressWatch, Signals

LOOK_S = 2.0
IDLE = Signals(
    at=0.0,
    process="running",
    cpu_s=10.0,
    answers=True,
    loading=False,
    tokens=100.0,
    running=0,
    waiting=0,
    open_requests=0,
)


class Engine:
    """A scripted engine and its watch; each look changes what is named and keeps the rest."""

    def __init__(self, **start):
        self.watch = ProgressWatch()
        self.now = replace(IDLE, **start)
        self.verdict = self.watch.observe(self.now)

    def look(self, seconds=LOOK_S, *, cores=0.0, **changes):
        cpu_s = None if self.now.cpu_s is None else self.now.cpu_s + cores * max(seconds, 0)
        self.now = replace(self.now, at=self.now.at + seconds, **{"cpu_s": cpu_s, **changes})
        self.verdict = self.watch.observe(self.now)
        return self.verdict

    def until(self, state, *, within_s, cores=0.0, **changes):
        """Return after how many seconds the verdict was `state`."""
        for number in range(1, int(within_s / LOOK_S) + 1):
            if self.look(cores=cores, **changes).state == state:
                return number * LOOK_S
        raise AssertionError(f"{self.verdict} after {within_s} s")

    def stays(self, state, *, for_s, cores=0.0, **changes):
        for _ in range(int(for_s / LOOK_S)):
            assert self.look(cores=cores, **changes).state == state, (self.now.at, self.verdict)


# --- an engine that is well -----------------------------------------------------------------------------------------


def test_nothing_open_and_nothing_moving_is_ready_for_ever():
    engine = Engine()
    engine.stays("ready", for_s=3600)
    assert not engine.verdict.suspect
    assert engine.verdict.since_s == 3600


def test_a_model_that_is_being_loaded_is_loading_however_long_it_says_so():
    engine = Engine(answers=True, loading=True)
    engine.stays("loading", for_s=900, cores=0.9, open_requests=1)
    assert engine.look(loading=False).state == "busy"
    assert engine.look(open_requests=0).state == "ready"


def test_coming_up_counts_as_progress():
    engine = Engine(loading=True)
    engine.stays("loading", for_s=600)
    engine.stays("busy", for_s=HealthLimits().stall_s - LOOK_S, loading=False, open_requests=1)


@pytest.mark.parametrize("gpu", [False, True])
def test_a_server_that_answers_nothing_while_it_reads_its_model_is_loading(gpu):
    engine = Engine(answers=False, tokens=None, gpu=gpu)
    engine.stays("loading", for_s=1200, cores=0.3)
    assert engine.look(answers=True, tokens=0.0).state == "ready"


def test_a_server_that_does_not_come_up_is_stalled_in_the_end():
    engine = Engine(answers=False, tokens=None)
    engine.stays("loading", for_s=HealthLimits().start_s - 10, cores=0.01)
    assert engine.until("stalled", within_s=20) <= 20
    assert "does not come up" in engine.verdict.reason
    assert engine.look(process="stopped").state == "stalled"


def test_tokens_make_it_busy():
    engine = Engine()
    for number in range(1800):
        assert engine.look(open_requests=1, tokens=100.0 + number // 4).state == "busy"


def test_a_slot_that_moves_makes_it_busy():
    engine = Engine(work={"slot 0 decoded": 1.0})
    for number in range(900):
        assert engine.look(open_requests=1, work={"slot 0 decoded": float(number // 5)}).state == "busy"


def test_a_long_prefill_shows_nothing_but_cpu_time_and_is_busy():
    engine = Engine()
    engine.stays("busy", for_s=1200, cores=0.9, open_requests=1)
    assert not engine.verdict.suspect


def test_an_engine_that_gets_a_tenth_of_a_core_on_a_crowded_machine_is_busy():
    engine = Engine()
    engine.stays("busy", for_s=600, cores=0.1, open_requests=1)


def test_a_busy_server_that_answers_nobody_is_busy():
    engine = Engine()
    engine.stays("busy", for_s=600, cores=0.9, open_requests=1, answers=False, tokens=None)


# --- an engine that is not ------------------------------------------------------------------------------------------


def test_nothing_moves_with_a_request_open_it_is_stalled_in_time_for_a_canary():
    engine = Engine()
    found_s = engine.until("stalled", within_s=30, open_requests=1)
    assert HealthLimits().stall_s <= found_s <= 30 - 10 - 5  # a canary's 10 s, and 5 s until the lease tells of it
    assert "no token" in engine.verdict.reason
    assert engine.verdict.since_s >= HealthLimits().stall_s


def test_the_idle_noise_of_a_real_engine_is_no_progress():
    engine = Engine()
    assert engine.until("stalled", within_s=30, cores=0.024, open_requests=1) <= 16  # vLLM at rest, asked every 2 s


def test_the_parsing_of_requests_that_go_nowhere_is_no_progress():
    engine = Engine()
    engine.stays("busy", for_s=2, open_requests=1)
    engine.look(cores=0.14)  # 0.28 s of CPU time after 4 s of stillness: 0.1 + 4 × 0.05 would count
    engine.until("stalled", within_s=30)
    assert engine.now.at <= 14


def test_a_canary_is_due_before_the_verdict():
    engine = Engine()
    seen = []
    while engine.look(open_requests=1).state == "busy":
        seen.append(engine.verdict.suspect)
    assert seen == sorted(seen)
    assert any(seen)


def test_a_stopped_process_is_stalled_at_the_second_look():
    engine = Engine()
    assert engine.look(open_requests=1).state == "busy"
    assert engine.look(process="stopped", answers=False, tokens=None).state == "busy"
    assert engine.look(process="stopped", answers=False, tokens=None).state == "stalled"
    assert "stopped" in engine.verdict.reason


def test_a_stopped_process_is_stalled_even_with_nothing_open():
    engine = Engine()
    assert engine.until("stalled", within_s=4, process="stopped", answers=False) == 4


def test_a_worker_that_is_stopped_behind_a_server_that_answers_is_stalled():
    engine = Engine()
    assert engine.until("stalled", within_s=4, process="stopped", open_requests=1, running=1) == 4


def test_a_server_that_does_not_answer_is_stalled_with_nothing_open_too():
    engine = Engine()
    assert engine.until("stalled", within_s=16, answers=False, tokens=None) <= 16


def test_a_process_that_is_gone_is_dead_at_once():
    engine = Engine()
    assert engine.look(process="gone", answers=False, cpu_s=None, tokens=None).state == "dead"


def test_one_refused_connection_alone_is_not_yet_a_death():
    engine = Engine(cpu_s=None)
    gone = {"process": "gone", "process_seen": False, "answers": False, "tokens": None}
    assert engine.look(**gone).state != "dead"
    assert engine.look(**gone).state == "dead"


def test_a_stall_ends_when_something_moves():
    engine = Engine()
    engine.until("stalled", within_s=30, open_requests=1)
    assert engine.look(tokens=101.0).state == "busy"
    assert engine.look(open_requests=0).state == "ready"


def test_a_stall_does_not_end_because_the_clients_gave_up():
    engine = Engine()
    engine.until("stalled", within_s=30, open_requests=1)
    engine.stays("stalled", for_s=60, open_requests=0)
    engine.watch.vouch()  # a canary came back
    assert engine.look().state == "ready"


def test_a_count_of_requests_that_is_stale_asks_for_a_canary_and_no_more():
    engine = Engine()
    engine.stays("busy", for_s=60, running=1)
    assert engine.verdict.suspect
    engine.watch.vouch()
    assert not engine.look(running=0).suspect


def test_a_slow_client_is_vouched_for_by_the_canary_that_it_causes():
    engine = Engine()
    for number in range(600):
        verdict = engine.look(open_requests=1)
        assert verdict.state == "busy", number
        if verdict.suspect:
            engine.look(open_requests=1, tokens=engine.now.tokens + 2)


def test_counters_that_begin_again_are_no_stall():
    engine = Engine(tokens=5000.0)
    assert engine.look(open_requests=1, tokens=0.0).state == "busy"


def test_figures_that_are_told_now_and_then_are_compared_with_the_last_told():
    engine = Engine(work={"slot 0 decoded": 3.0})
    engine.look(open_requests=1)
    for number in range(20):
        told = {"work": {"slot 0 decoded": 3.0}, "tokens": 100.0} if number % 2 else {"work": {}, "tokens": None}
        engine.look(**told)
    assert engine.verdict.state == "stalled"


# --- an engine on a GPU ---------------------------------------------------------------------------------------------


def test_a_core_that_spins_on_a_gpu_does_not_save_a_wedged_engine():
    engine = Engine(gpu=True)
    assert engine.until("stalled", within_s=16, cores=1.0, open_requests=1) <= 16


def test_a_long_prefill_on_a_gpu_fills_the_kv_cache_and_is_busy():
    engine = Engine(gpu=True, work={"kv": 0.0})
    for number in range(600):  # a chunk every 8 s
        assert engine.look(cores=1.0, open_requests=1, work={"kv": number // 4 / 1000}).state == "busy"


def test_compiling_kernels_uses_more_than_the_core_that_spins():
    engine = Engine(gpu=True)
    engine.stays("busy", for_s=HealthLimits().spin_alone_s - 10, cores=4.0, open_requests=1)
    assert engine.until("stalled", within_s=40, cores=4.0) <= 40  # but not for ever


def test_an_engine_on_a_gpu_without_figures_may_spin_through_a_long_prefill_but_not_for_ever():
    engine = Engine(gpu=True, tokens=None, running=None, waiting=None, offers_figures=False)
    engine.stays("busy", for_s=HealthLimits().spin_alone_s - 10, cores=1.0, open_requests=1)
    assert engine.until("stalled", within_s=40, cores=1.0) <= 40


def test_cpu_time_alone_saves_an_engine_on_the_cpu_for_half_an_hour():
    engine = Engine()
    engine.stays("busy", for_s=HealthLimits().cpu_alone_s - 10, cores=1.0, open_requests=1)
    assert engine.until("stalled", within_s=40, cores=1.0) <= 40


def test_an_engine_whose_processes_are_unknown_gets_the_long_patience():
    engine = Engine(cpu_s=None)
    engine.stays("busy", for_s=HealthLimits().spin_alone_s - 10, open_requests=1)
    assert engine.until("stalled", within_s=20) <= 20


# --- the clock ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump_s", [3600.0, 25.0, -3600.0, 0.0])
def test_one_jump_of_the_clock_makes_no_verdict(jump_s):
    engine = Engine()
    engine.look(open_requests=1)
    assert engine.look(jump_s).state == "busy"
    assert not engine.verdict.suspect
    assert engine.until("stalled", within_s=30) >= HealthLimits().stall_s - 2 * LOOK_S


def test_looks_far_apart_make_no_verdict():
    engine = Engine()
    for _ in range(50):
        assert engine.look(60.0, open_requests=1).state == "busy"


def test_one_long_interval_alone_makes_no_verdict():
    engine = Engine()
    engine.look(open_requests=1)
    assert engine.look(19.0).state == "busy"


steps = st.lists(
    st.tuples(
        st.one_of(st.floats(0.1, 6.0), st.floats(-100, 4000)),  # seconds between looks, some of them absurd
        st.sampled_from(["token", "slot", "cpu", "still", "mute"]),
        st.integers(0, 3),
    ),
    max_size=60,
)


@given(steps, st.booleans())
def test_no_verdict_of_a_stall_without_as_much_stillness(script, gpu):
    """What moved within the last `stall_s` counted seconds is never called stalled; wild clocks add none."""
    limits = HealthLimits()
    watch, now, still_s, last_open = ProgressWatch(limits), replace(IDLE, gpu=gpu, work={"slot": 0.0}), 0.0, 0
    watch.observe(now)
    for seconds, what, opened in script:
        change = {"open_requests": opened, "tokens": now.tokens, "work": now.work}
        if what == "token":
            change["tokens"] = (now.tokens or 100.0) + 1 + abs(now.at)
        elif what == "slot":
            change["work"] = {"slot": now.work.get("slot", 0.0) + 1 + abs(now.at)}
        elif what == "cpu":
            change["cpu_s"] = now.cpu_s + 4 * max(seconds, 1.0) + 1
        moved = what in ("token", "slot") or (what == "cpu" and not gpu)
        now = replace(now, at=now.at + seconds, answers=what != "mute", **change)
        verdict = watch.observe(now)
        counted = seconds if 0 < seconds <= limits.gap_s else 0.0
        still_s = 0.0 if moved else still_s + counted
        last_open = opened
        assert verdict.state != "dead"
        if verdict.state == "stalled":
            assert still_s >= limits.stall_s - 1e-6, (verdict, last_open)
        if moved:
            assert verdict.state in ("ready", "busy")
            assert not verdict.suspect


@given(steps)
def test_an_engine_with_nothing_open_that_answers_is_ready(script):
    watch, now = ProgressWatch(), IDLE
    watch.observe(now)
    for seconds, what, _ in script:
        now = replace(now, at=now.at + seconds, cpu_s=now.cpu_s + (what == "cpu"))
        assert watch.observe(now).state == "ready"

"""Is an engine well? Judged by what moves, since a wedged engine still answers 200 on /health.

Pure: signals in, a verdict out, no clock and no network of its own. docs/engine-health.md explains the limits.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from services.engines.watching.engine_metrics import EngineFigures

Process = Literal["running", "stopped", "gone"]
State = Literal["loading", "ready", "busy", "stalled", "dead"]
STATES: tuple[State, ...] = ("loading", "ready", "busy", "stalled", "dead")


@dataclass(frozen=True)
class EngineTarget:
    """Where an engine answers.

    Args:
        model_id: the stack's name of its model.
        upstream_id: the engine's own name of it.
        gpu: it computes on a GPU, whose threads wait for it by spinning: their CPU time is no sign of life.
    """

    model_id: str
    engine: str
    url: str
    api_key: str = field(repr=False)
    upstream_id: str
    gpu: bool = False


@dataclass(frozen=True)
class Signals:
    """What was seen of an engine at one moment.

    Args:
        at: seconds, on a clock that only goes forward.
        cpu_s: of its whole process tree since its start; None where the processes are not known.
        answers: an HTTP answer came that speaks of a working server.
        loading: it says itself that its model is not there yet.
        tokens: read and generated since its start; None where it did not tell.
        running: requests that it says it works on; so `waiting`.
        open_requests: that the gateway has open there.
        work: further figures that change while it works, and only then (slots, KV cache, steps), by name.
        offers_figures: it has such figures at all, whether or not it told them this time.
        process_seen: `process` was read from the system; False where a refused connection alone says `gone`.
    """

    at: float
    process: Process
    cpu_s: float | None
    answers: bool
    loading: bool
    tokens: float | None
    running: int | None
    waiting: int | None
    open_requests: int
    work: Mapping[str, float] = field(default_factory=dict)
    offers_figures: bool = True
    process_seen: bool = True
    gpu: bool = False
    rss_bytes: int | None = None
    figures: EngineFigures | None = None


@dataclass(frozen=True)
class Verdict:
    """How an engine is.

    Args:
        reason: a sentence for people.
        since_s: seconds without progress where it is stalled, else seconds in this state.
        suspect: nothing has moved for a while though something is open; a canary would tell.
    """

    state: State
    reason: str
    since_s: float
    suspect: bool = False


@dataclass(frozen=True)
class HealthLimits:
    """When stillness becomes a verdict; docs/engine-health.md has the measurements behind the numbers.

    Args:
        suspect_s: of stillness with a request open, after which a canary is worth its cost.
        stall_s: of stillness with a request open, after which the engine is stalled.
        looks: that stillness must last at least, so that one look alone makes no verdict.
        gap_s: looks further apart than this say nothing of the time between them (a host that slept).
        idle_cores: CPU use that is no work: polls and housekeeping.
        idle_burst_s: CPU seconds on top, for the handling of one request that goes nowhere.
        spin_cores: of an engine on a GPU; threads that wait for the GPU use so much while nothing happens.
        cpu_alone_s: how long CPU time alone may stand for progress where the CPU computes.
        spin_alone_s: the same on a GPU, and the longest stillness of an engine that shows neither figures nor
            processes: longer than the prefill of a full context.
        start_s: of stillness while it comes up; reading a large model is CPU time, too.
    """

    suspect_s: float = 6.0
    stall_s: float = 12.0
    looks: int = 3
    gap_s: float = 20.0
    idle_cores: float = 0.05
    idle_burst_s: float = 0.1
    spin_cores: float = 2.0
    cpu_alone_s: float = 1800.0
    spin_alone_s: float = 300.0
    start_s: float = 120.0


class ProgressWatch:
    """Watches one engine from its start to its end; a new process gets a new watch."""

    def __init__(self, limits: HealthLimits | None = None) -> None:
        self.limits = limits or HealthLimits()
        self._last_at: float | None = None
        self._state: State = "loading"
        self._in_state_s = 0.0
        self._came_up = False
        self._gone_looks = 0
        self._stopped_looks = 0
        self._seen = False
        self._figures: dict[str, float] = {}
        self._cpu_mark: float | None = None
        self._still_s = 0.0
        self._still_looks = 0
        self._cpu_alone_s = 0.0
        self._vouched = False

    def vouch(self) -> None:
        """Note that a canary came back with a token: the engine made progress, whatever its figures show."""
        self._vouched = True

    def observe(self, signals: Signals) -> Verdict:
        """Return the verdict after one more look."""
        step_s = self._step(signals.at)
        self._gone_looks = self._gone_looks + 1 if signals.process == "gone" else 0
        if self._gone_looks >= (1 if signals.process_seen else 2):
            return self._verdict("dead", "its process is gone", step_s)
        self._stopped_looks = self._stopped_looks + 1 if signals.process == "stopped" else 0
        moved = self._moved(signals, step_s)
        answers = signals.answers and not signals.loading
        if answers and not self._came_up:
            self._came_up = moved = True
        if not self._came_up and self._stopped_looks < 2:
            return self._coming_up(signals, moved, step_s)
        if self._stopped_looks >= 2:
            return self._stalled("its process is stopped (signal STOP, or a paused container)", step_s)
        if moved:
            self._begin_anew(signals)
            return self._at_work(signals, answers, step_s)
        return self._still(signals, answers, step_s)

    def _coming_up(self, signals: Signals, moved: bool, step_s: float) -> Verdict:
        """Judge an engine that was never seen to answer: most answer nothing until their model is there."""
        self._still_s = 0.0 if moved else self._still_s + step_s
        if signals.loading or self._still_s < self.limits.start_s:
            return self._verdict("loading", "its model is being loaded", step_s)
        return self._stalled(f"it does not come up: nothing of it moved for {self._still_s:.0f} s", step_s)

    def _still(self, signals: Signals, answers: bool, step_s: float) -> Verdict:
        """Judge an engine of which nothing has moved since the last look."""
        own = (signals.running or 0) + (signals.waiting or 0)
        if answers and not signals.open_requests and not own and self._state != "stalled":
            self._begin_anew(signals)
            return self._idle(step_s)
        self._still_s += step_s
        self._still_looks += 1
        patience_s = self._patience(signals)
        suspect = self._still_s >= min(self.limits.suspect_s, patience_s) and self._still_looks >= 2
        stuck = self._still_s >= patience_s and self._still_looks >= self.limits.looks
        # An engine's own count of requests may be stale after its clients left: it is reason for a canary, no more.
        if stuck and (signals.open_requests or not answers or self._state == "stalled"):
            what = "no token, no slot and no CPU time" if answers else "it does not answer, and nothing of it"
            return self._stalled(f"{what} moved for {self._still_s:.0f} s", step_s)
        if self._state == "stalled":
            return self._stalled("nothing has moved since it stalled", step_s)
        state: State = "busy" if signals.open_requests or own or not answers else "ready"
        return self._verdict(state, f"nothing has moved for {self._still_s:.0f} s", step_s, suspect=suspect)

    def _patience(self, signals: Signals) -> float:
        """Return how long it may be still: long where it shows nothing that could move."""
        if signals.cpu_s is None and not (signals.gpu and signals.offers_figures):
            return self.limits.spin_alone_s
        return self.limits.stall_s

    def _at_work(self, signals: Signals, answers: bool, step_s: float) -> Verdict:
        own = (signals.running or 0) + (signals.waiting or 0)
        if signals.open_requests or own or not answers:
            return self._verdict("busy", "it makes progress", step_s)
        return self._idle(step_s)

    def _idle(self, step_s: float) -> Verdict:
        self._cpu_alone_s = 0.0
        return self._verdict("ready", "it answers, and nothing is open", step_s)

    def _moved(self, signals: Signals, step_s: float) -> bool:
        """Say whether anything has moved since it last did, and note what is known now."""
        vouched, self._vouched = self._vouched, False
        first, self._seen = not self._seen, True
        counted = self._counted(signals)
        if counted or vouched or first:
            self._cpu_alone_s = 0.0
            self._cpu_mark = signals.cpu_s
            return True
        if signals.process == "stopped" or not self._computed(signals, step_s):
            return False
        self._cpu_alone_s += self._still_s + step_s
        self._cpu_mark = signals.cpu_s
        spins = signals.gpu and self._came_up
        return self._cpu_alone_s < (self.limits.spin_alone_s if spins else self.limits.cpu_alone_s)

    def _counted(self, signals: Signals) -> bool:
        """Say whether a figure is another than when it was last told; what was not told this time says nothing."""
        told = dict(signals.work) if signals.tokens is None else {**signals.work, "tokens": signals.tokens}
        counted = any(self._figures.get(name, value) != value for name, value in told.items())
        self._figures.update(told)
        return counted

    def _computed(self, signals: Signals, step_s: float) -> bool:
        """Say whether its processes used more CPU time since the last progress than stillness explains."""
        if signals.cpu_s is None or self._cpu_mark is None:
            self._cpu_mark = signals.cpu_s
            return False
        spins = signals.gpu and signals.offers_figures and self._came_up
        cores = self.limits.spin_cores if spins else self.limits.idle_cores
        used_s = signals.cpu_s - self._cpu_mark
        return used_s > cores * (self._still_s + step_s) + self.limits.idle_burst_s

    def _begin_anew(self, signals: Signals) -> None:
        self._still_s, self._still_looks = 0.0, 0
        self._cpu_mark = signals.cpu_s if signals.cpu_s is not None else self._cpu_mark

    def _step(self, at: float) -> float:
        """Return the seconds since the last look that count: none over a gap or a jump of the clock."""
        step_s = 0.0 if self._last_at is None else at - self._last_at
        self._last_at = at
        return step_s if 0 < step_s <= self.limits.gap_s else 0.0

    def _stalled(self, reason: str, step_s: float) -> Verdict:
        self._verdict("stalled", reason, step_s)
        return Verdict("stalled", reason, max(self._still_s, self._in_state_s), suspect=True)

    def _verdict(self, state: State, reason: str, step_s: float, *, suspect: bool = False) -> Verdict:
        self._in_state_s = self._in_state_s + step_s if state == self._state else 0.0
        self._state = state
        return Verdict(state, reason, self._in_state_s, suspect)

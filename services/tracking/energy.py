"""Whose energy it was: what the machine used in an interval, shared among the requests that ran in it.

An interval's energy goes to the billed requests by the seconds that each ran in it. Where they fill only a part of the
interval, the rest is idle: machines use power while nobody asks. An interval is shared out two minutes later, when the
requests that ran in it have ended and told of themselves; of a longer one the beginning has gone to others.
"""

import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import structlog

from services.kit.records import RequestRecord
from services.tracking.power import Counter
from services.tracking.writing import day_of

IDLE = ("", "(idle)")
"""Key and model of energy that no request has used."""
SETTLE_S = 120.0
_SPANS = 100_000
_log = structlog.get_logger("tracking.energy")

Account = tuple[str, str, str]
"""Day, key, model."""


@dataclass(frozen=True)
class _Interval:
    start: float
    end: float
    joules: float


@dataclass(frozen=True)
class _Span:
    start: float
    end: float
    key: str
    model: str


class EnergyShares:
    """Intervals and requests that wait to be brought together. Any thread may call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._intervals: deque[_Interval] = deque()
        self._spans: deque[_Span] = deque(maxlen=_SPANS)

    def note(self, record: RequestRecord) -> None:
        """Remember when a request ran. Of inner and outer one the billed one counts, as with tokens."""
        if not record.billed:
            return
        start, end = running(record)
        with self._lock:
            self._spans.append(_Span(start, end, record.key, record.model))

    def measured(self, start: float, end: float, joules: float) -> None:
        """Remember what was used in an interval of Unix time."""
        if end > start:
            with self._lock:
                self._intervals.append(_Interval(start, end, joules))

    def rename(self, key: str, other: str) -> None:
        """Let what a key's requests have used, and is not shared out yet, be another's."""
        with self._lock:
            spans = [replace(span, key=other) if span.key == key else span for span in self._spans]
            self._spans = deque(spans, maxlen=_SPANS)

    def settle(self, until: float) -> dict[Account, float]:
        """Share out the intervals that ended before `until`; return joules by account. They add up to what was used."""
        with self._lock:
            due = []
            while self._intervals and self._intervals[0].end <= until:
                due.append(self._intervals.popleft())
            spans = sorted(self._spans, key=lambda span: span.end) if due else []
            if due:
                keep = [span for span in spans if span.end > due[-1].end]
                self._spans = deque(keep, maxlen=_SPANS)
        shared: dict[Account, float] = {}
        ends = [span.end for span in spans]
        for interval in due:
            _share(interval, spans[bisect_left(ends, interval.start) :], shared)
        return shared


def running(record: RequestRecord) -> tuple[float, float]:
    """Return when a request ran, in Unix time: without the time in which it was held for its model."""
    end = record.at + record.seconds
    return min(record.at + record.held_s, end), end


def _share(interval: _Interval, spans: Sequence[_Span], shared: dict[Account, float]) -> None:
    day = day_of(interval.start)
    parts = []
    for span in spans:
        overlap = min(span.end, interval.end) - max(span.start, interval.start)
        if overlap > 0:
            parts.append((span, overlap))
    whole = max(interval.end - interval.start, sum(overlap for _, overlap in parts))
    left = interval.joules
    for span, overlap in parts:
        joules = interval.joules * overlap / whole
        account = (day, span.key, span.model)
        shared[account] = shared.get(account, 0.0) + joules
        left -= joules
    idle = (day, *IDLE)
    shared[idle] = shared.get(idle, 0.0) + max(0.0, left)


class EnergyMeter:
    """Reads the counters every few seconds in a thread of its own, and hands over what was shared out.

    Args:
        found: looks for counters; called once, in the meter's thread.
        keep: takes joules by account; it returns whether they are safe, else they are given again.
    """

    def __init__(
        self,
        shares: EnergyShares,
        found: Callable[[], list[Counter]],
        keep: Callable[[Mapping[Account, float]], bool],
        interval_s: float = 5.0,
    ) -> None:
        self._shares = shares
        self._found = found
        self._keep = keep
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tracking-energy", daemon=True)
        self._unsaved: dict[Account, float] = {}
        self.total_joules = 0.0
        self.sources: tuple[str, ...] = ()
        """What is read; empty: this machine shows no power."""

    def start(self) -> None:
        """Look for counters and begin."""
        self._thread.start()

    def stop(self) -> None:
        """Share out what is left and end."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(5.0)

    def _run(self) -> None:
        counters = self._found()
        self.sources = tuple(counter.name for counter in counters)
        _log.info("energy.sources", sources=list(self.sources))
        if not counters:
            return
        last, last_joules = time.time(), _read(counters, {})
        while not self._stopping.wait(self._interval_s):
            now, joules = time.time(), _read(counters, last_joules)
            used = sum(joules.values()) - sum(last_joules.values())
            self.total_joules += used
            self._shares.measured(last, now, used)
            last, last_joules = now, joules
            self._hand_over(now - SETTLE_S)
        self._hand_over(time.time())

    def _hand_over(self, until: float) -> None:
        for account, joules in self._shares.settle(until).items():
            self._unsaved[account] = self._unsaved.get(account, 0.0) + joules
        if self._unsaved and self._keep(self._unsaved):
            self._unsaved = {}


def _read(counters: Sequence[Counter], last: Mapping[str, float]) -> dict[str, float]:
    joules = {}
    for counter in counters:
        try:
            joules[counter.name] = counter.joules()
        except (OSError, ValueError):
            # Gone for a moment (a driver that is loaded anew): nothing is added for it.
            joules[counter.name] = last.get(counter.name, 0.0)
    return joules

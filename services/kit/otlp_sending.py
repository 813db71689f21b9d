"""How ended spans get to a collector: they wait in a bounded queue, and one thread posts them in batches.

Whoever ends a span never waits: where the queue is full the span is dropped, counted, and told of once a minute.
"""

import contextlib
import random
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from http.client import HTTPException
from typing import Literal

import structlog
from prometheus_client.metrics_core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector as MetricsCollector

from services.kit.otlp_posting import Posting
from services.kit.otlp_variables import Batching
from services.kit.otlp_wire import export_request

Outcome = Literal["sent", "queue_full", "refused", "unreachable"]
OUTCOMES: tuple[Outcome, ...] = ("sent", "queue_full", "refused", "unreachable")

MOST_BYTES = 4 * 1024 * 1024
"""Of one batch, unless a single span is larger: spans with prompts are long, and collectors have limits."""
LAST_SPANS_S = 2.0
_AGAIN = frozenset({429, 502, 503, 504})
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 5.0
_LONGEST_SILENCE_S = 60.0
_TOLD_EVERY_S = 60.0

_log = structlog.get_logger("traces")


class Sender(MetricsCollector):
    """Takes encoded spans; posts them from a thread of its own, which begins with the first of them.

    It is also the collector of its own metric, `trace_spans_total`.

    Args:
        head: of the resource and of the scope, as `otlp_wire.resource_and_scope` makes it.
    """

    def __init__(self, head: tuple[bytes, bytes], posting: Posting, batching: Batching) -> None:
        self.counts: dict[Outcome, int] = dict.fromkeys(OUTCOMES, 0)
        self._head = head
        self._posting = posting
        self._batching = batching
        self._waiting: deque[bytes] = deque()
        self._most_waiting = batching.most_waiting
        self._most_together = batching.most_together
        self._wake, self._ending = threading.Event(), threading.Event()
        self._silent_until = 0.0
        self._complaints = _Complaints()
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def put(self, span: bytes) -> None:
        """Queue a span, or drop it where too many wait. Of any thread; costs a microsecond."""
        waiting = self._waiting
        if len(waiting) >= self._most_waiting or self._ending.is_set():
            self.counts["queue_full"] += 1  # two threads at once may count one; a lock costs every span
            return
        waiting.append(span)
        if len(waiting) >= self._most_together and not self._wake.is_set():
            self._wake.set()

    def shutdown(self, within_s: float = LAST_SPANS_S) -> None:
        """Send what waits, each batch tried once; what a slow collector has not taken in time is lost."""
        self._ending.set()
        self._wake.set()
        self._thread.join(within_s)
        if self._thread.is_alive():
            _log.warning("traces.spans_dropped", spans=len(self._waiting), because="the service ends")

    def collect(self) -> Iterator[Metric]:
        """Yield what has become of the spans, for Prometheus."""
        spans = CounterMetricFamily("trace_spans", "Spans sent to the collector, or dropped.", labels=["outcome"])
        for outcome in OUTCOMES:
            spans.add_metric([outcome], self.counts[outcome])
        yield spans

    def _run(self) -> None:
        while not self._ending.is_set():
            full = self._wake.wait(self._batching.delay_s)
            self._wake.clear()
            self._send(least=self._most_together if full and not self._ending.is_set() else 1)
            self._complaints.of_full_queue(self.counts["queue_full"])
        self._send(least=1)
        self._complaints.tell()
        self._posting.close()

    def _send(self, least: int) -> None:
        while len(self._waiting) >= least:
            self._ending.wait(max(0.0, self._silent_until - time.monotonic()))
            batch = self._take()
            outcome, because = self._deliver(export_request(self._head, batch))
            self.counts[outcome] += len(batch)
            if because:
                self._complaints.of_batch(len(batch), because)

    def _take(self) -> Sequence[bytes]:
        waiting, batch = self._waiting, [self._waiting.popleft()]
        size = len(batch[0])
        while waiting and len(batch) < self._most_together and size + len(waiting[0]) <= MOST_BYTES:
            batch.append(waiting.popleft())
            size += len(batch[-1])
        return batch

    def _deliver(self, body: bytes) -> tuple[Outcome, str]:
        """Post a batch, again where that may help, for as long as one may take; say what became of it, and why."""
        deadline = time.monotonic() + self._posting.timeout_s
        pause_s = _FIRST_PAUSE_S
        while True:
            wait_s = pause_s * random.uniform(0.8, 1.2)  # noqa: S311  (services that start together come apart)
            outcome: Outcome = "unreachable"
            try:
                answer = self._posting.post(body, deadline - time.monotonic())
            except (OSError, HTTPException, ValueError) as error:
                because = f"{type(error).__name__}: {error}"
            else:
                if 200 <= answer.status < 300:
                    return "sent", ""
                outcome, because = "refused", f"it answered {answer.status}"
                if answer.status not in _AGAIN:
                    return outcome, because
                if answer.retry_after_s is not None:
                    wait_s = min(answer.retry_after_s, _LONGEST_SILENCE_S)
                    self._silent_until = time.monotonic() + wait_s
            if self._ending.is_set() or time.monotonic() + wait_s >= deadline:
                return outcome, because
            self._ending.wait(wait_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


class _Complaints:
    """Says in the log that spans are lost, once a minute at most. Of the sending thread alone."""

    def __init__(self) -> None:
        self._untold = self._counted_full = 0
        self._told_at = -_TOLD_EVERY_S
        self._because = ""

    def of_batch(self, spans: int, because: str) -> None:
        """Note a batch that was not taken."""
        self._untold += spans
        self._because = f"the collector did not take them: {because}"
        self._tell_now_and_then()

    def of_full_queue(self, dropped: int) -> None:
        """Note how many have been dropped at the queue until now."""
        if dropped > self._counted_full:
            self._untold += dropped - self._counted_full
            self._counted_full = dropped
            self._because = self._because or "more came than were sent"
        self._tell_now_and_then()

    def tell(self) -> None:
        """Say what has not been said."""
        if self._untold:
            with contextlib.suppress(OSError, ValueError):  # a log that is closed is no reason to send nothing more
                _log.warning("traces.spans_dropped", spans=self._untold, because=self._because)
            self._untold, self._told_at, self._because = 0, time.monotonic(), ""

    def _tell_now_and_then(self) -> None:
        if time.monotonic() - self._told_at >= _TOLD_EVERY_S:
            self.tell()

"""Which of the waiting texts are computed next. Pure: no clock, no thread, no model.

Two lanes of requests: those that wait for their first batch, in the order of their coming, and those that have had one
and go round. The lanes take turns at the head of a batch, and the head always gets something; the others fill what is
left of it. So a small request waits for the requests before it in its lane and not for all of a large one's texts, and
a large one goes on however many small ones come.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

_LOOK_AHEAD = 256
"""Requests that are looked at for one batch, so that a long queue costs no more than a short one."""
_PADDING = 0.2
"""Share of a batch that may be padding."""
_FREE_PADDING = 1 / 64
"""Share of the budget that padding may take in any case: a batch of its own for each tiny text costs more."""


@dataclass(eq=False, slots=True)
class Job:
    """One request's texts.

    Args:
        lengths: tokens of each text, special tokens included, in the request's order.
        work: what the backend needs; nothing to the queue.
    """

    lengths: list[int]
    work: Any = None
    waiting: list[int] = field(init=False)
    """Indexes of the texts that have not been taken, the longest last: neighbours have about the same length."""
    started: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.waiting = sorted(range(len(self.lengths)), key=self.lengths.__getitem__)


@dataclass(frozen=True, slots=True)
class Batch:
    """Texts that are computed together: of each job the indexes.

    Args:
        longest: tokens of the longest text; all others are padded to it.
    """

    parts: list[tuple[Job, list[int]]]
    texts: int
    longest: int

    @property
    def tokens(self) -> int:
        """Tokens that are computed, padding included."""
        return self.texts * self.longest


class Waiting:
    """The jobs that wait.

    Args:
        budget_tokens: of a batch, padding included; a text that is longer makes a batch by itself.
        most_texts: of a batch.
    """

    def __init__(self, budget_tokens: int, most_texts: int) -> None:
        self.budget_tokens = budget_tokens
        self.most_texts = most_texts
        self._fresh: deque[Job] = deque()
        self._started: deque[Job] = deque()
        self._turn_of_started = False

    def __bool__(self) -> bool:
        return bool(self._fresh or self._started)

    def jobs(self) -> list[Job]:
        """Return all jobs with texts that wait."""
        return [*self._fresh, *self._started]

    def add(self, job: Job) -> None:
        """Put a job at the end of the first lane."""
        if job.waiting:
            self._fresh.append(job)

    def remove(self, job: Job) -> int:
        """Drop what is left of a job; return how many texts that were."""
        left = len(job.waiting)
        if left:
            (self._started if job.started else self._fresh).remove(job)
            job.waiting.clear()
        return left

    def take(self) -> Batch | None:
        """Return the next batch; None where nothing waits."""
        if not self:
            return None
        first, second = (self._fresh, self._started)
        if self._started and (self._turn_of_started or not self._fresh):
            first, second = second, first
        self._turn_of_started = first is self._fresh
        filling = _Filling(self.budget_tokens, self.most_texts)
        self._fill(filling, chain((first[0],), self._fresh, self._started))
        for job, _indexes in filling.parts:
            (self._started if job.started else self._fresh).remove(job)
            job.started = True
            if job.waiting:
                self._started.append(job)
        return Batch(filling.parts, filling.texts, filling.longest)

    def _fill(self, filling: "_Filling", candidates: Iterable[Job]) -> None:
        seen: set[int] = set()
        for job in islice(candidates, _LOOK_AHEAD):
            if id(job) in seen:
                continue
            seen.add(id(job))
            indexes = []
            while job.waiting and filling.fits(job.lengths[job.waiting[-1]]):
                index = job.waiting.pop()
                filling.put(job.lengths[index])
                indexes.append(index)
            if indexes:
                filling.parts.append((job, indexes))
            if filling.full:
                return


class _Filling:
    """A batch that is being put together."""

    def __init__(self, budget: int, most_texts: int) -> None:
        self.parts: list[tuple[Job, list[int]]] = []
        self.texts = 0
        self.longest = 0
        self._tokens = 0
        self._budget = budget
        self._most_texts = most_texts

    @property
    def full(self) -> bool:
        """Nothing more goes in, however short."""
        return self.texts >= self._most_texts or (self.texts + 1) * self.longest > self._budget

    def fits(self, length: int) -> bool:
        """The first text always does; others as long as budget and padding stay within their bounds."""
        if not self.texts:
            return True
        padded = (self.texts + 1) * max(self.longest, length)
        padding = padded - self._tokens - length
        return (
            self.texts < self._most_texts
            and padded <= self._budget
            and padding <= max(_PADDING * padded, _FREE_PADDING * self._budget)
        )

    def put(self, length: int) -> None:
        self.texts += 1
        self.longest = max(self.longest, length)
        self._tokens += length

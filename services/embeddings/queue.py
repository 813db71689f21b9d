"""A model's queue: what may come in, which batch is next, whose answer is ready."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import structlog

from services.embeddings.backends import Backend, Vectors
from services.embeddings.batching import Batch, Job, Waiting
from services.embeddings.metrics import EmbeddingsMetrics
from services.embeddings.worker import Worker
from services.kit import tracing
from services.kit.errors import InvalidRequest, RateLimited
from services.kit.tracing import NOTHING, Attributes, Span

_log = structlog.get_logger("embeddings")
_FIRST_GUESS_TOKENS_PER_S = 2000.0
_LONGEST_RETRY_S = 60.0

Compute = Callable[[Backend, Batch], Vectors]
"""Returns one row a text, in the order of the batch's parts; called in the model's thread."""


@dataclass(slots=True)
class Computed:
    """A request's rows, in the order of its texts, and where its time went."""

    rows: Vectors
    queue_s: float
    compute_s: float


@dataclass(slots=True)
class _Pending:
    """A job on its way: `compute_s` sums the batches that it had a part in."""

    future: "asyncio.Future[Computed]"
    arrived: float
    left: int
    rows: Vectors | None = None
    queue_s: float = 0.0
    compute_s: float = 0.0
    span: Span = NOTHING
    """Of the request: waiting and computing are written down below it."""


class Capacity:
    """Tokens that one model has taken on. What comes on top is told at the door to come back later."""

    def __init__(self, model: str, limit_tokens: int, metrics: EmbeddingsMetrics) -> None:
        self.used = 0
        self._model = model
        self.limit_tokens = limit_tokens
        self._rejected = metrics.rejected.labels(model)
        self._per_s = _FIRST_GUESS_TOKENS_PER_S

    @contextmanager
    def held(self, tokens: int) -> Iterator[None]:
        """Take on so many tokens until the block is left, however it is left.

        Raises:
            RateLimited: they don't fit beside the others'.
            InvalidRequest: they don't fit at all.
        """
        if tokens > self.limit_tokens:
            raise InvalidRequest(
                f"the texts have {tokens:,} tokens together, {self._model} takes on {self.limit_tokens:,} at a time: "
                "send them in several requests, or raise EMBEDDINGS_QUEUE_TOKENS"
            )
        if self.used + tokens > self.limit_tokens:
            self._rejected.inc()
            wait_s = min(_LONGEST_RETRY_S, max(1.0, (self.used + tokens - self.limit_tokens) / self._per_s))
            raise RateLimited(
                f"{self._model} has {self.used:,} tokens waiting, and takes on {self.limit_tokens:,}: {tokens:,} more "
                f"have to wait; try again in {wait_s:.0f} s",
                retry_after_s=wait_s,
            )
        self.used += tokens
        try:
            yield
        finally:
            self.used -= tokens

    def computed(self, tokens: int, seconds: float) -> None:
        """Learn how quick the model is."""
        if seconds > 0:
            self._per_s += 0.2 * (tokens / seconds - self._per_s)


@dataclass
class BatchQueue:
    """Puts requests' texts together into batches, and the batches' rows back into answers.

    Args:
        compute: what a batch is.
    """

    model: str
    worker: Worker
    waiting: Waiting
    capacity: Capacity
    compute: Compute
    metrics: EmbeddingsMetrics
    clock: Callable[[], float] = time.perf_counter
    _pending: dict[Job, _Pending] = field(default_factory=dict)
    _draining: "asyncio.Task[None] | None" = None

    def __post_init__(self) -> None:
        self._batch_size = self.metrics.batch_size.labels(self.model)
        self._batch_tokens = self.metrics.batch_tokens.labels(self.model)
        self._queue_seconds = self.metrics.queue_seconds.labels(self.model)
        self._compute_seconds = self.metrics.compute_seconds.labels(self.model)
        self._dropped = self.metrics.dropped.labels(self.model)
        self.metrics.queue_tokens.labels(self.model).set_function(lambda: self.capacity.used)

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is computed."""
        return self._draining is None

    async def run(self, lengths: list[int], work: Any) -> Computed:
        """Return the rows of all texts. Cancelled, it drops those that have not been computed.

        Args:
            lengths: tokens of each text, at least one text.
            work: handed to `compute` with the job.

        Raises:
            RateLimited, InvalidRequest: the capacity is taken.
            ModelFailed: the model can't be loaded.
        """
        with self.capacity.held(sum(lengths)):
            job = Job(lengths, work)
            future: asyncio.Future[Computed] = asyncio.get_running_loop().create_future()
            self._pending[job] = _Pending(future, self.clock(), len(lengths), span=tracing.current())
            self.waiting.add(job)
            if self._draining is None:
                # In a context of its own: what it does is no part of the request that happened to wake it.
                self._draining = asyncio.create_task(self._drain(), context=Context())
            try:
                return await future
            except asyncio.CancelledError:
                self._dropped.inc(self.waiting.remove(job))
                raise
            finally:
                del self._pending[job]

    async def _drain(self) -> None:
        try:
            while self.waiting:
                if not self.worker.loaded:
                    await self._load()
                elif (batch := self.waiting.take()) is not None:
                    await self._one(batch)
        except Exception as error:
            # Nobody looks at this task: those who wait for it must not wait for ever.
            for job in list(self._pending):
                self._fail(job, error)
            _log.error("queue.crashed", model=self.model, reason=repr(error))
        finally:
            self._draining = None

    async def _load(self) -> None:
        try:
            await self.worker.load()
        except Exception as error:
            for job in self.waiting.jobs():
                self._fail(job, error)

    async def _one(self, batch: Batch) -> None:
        started = self.clock()
        for job, _indexes in batch.parts:
            pending = self._pending.get(job)
            if pending is not None and pending.rows is None and pending.queue_s == 0.0:
                pending.queue_s = started - pending.arrived
                self._queue_seconds.observe(pending.queue_s)
        self._batch_size.observe(batch.texts)
        self._batch_tokens.observe(batch.tokens)
        try:
            rows = await self.worker.call(lambda backend: self.compute(backend, batch))
        except Exception as error:
            await self._after_failure(batch, error)
            return
        ended = self.clock()
        seconds = ended - started
        self._trace(batch, started, ended)
        self._compute_seconds.observe(seconds)
        self.capacity.computed(batch.tokens, seconds)
        begin = 0
        for job, indexes in batch.parts:
            self._deliver(job, indexes, rows[begin : begin + len(indexes)], seconds)
            begin += len(indexes)

    def _trace(self, batch: Batch, started: float, ended: float) -> None:
        """Write the batch down in the trace of each request that has texts in it, with links to the others'."""
        traced = [pending for job, _ in batch.parts if (pending := self._pending.get(job)) and pending.span.recording]
        about: Attributes = {
            "embeddings.batch_texts": batch.texts,
            "embeddings.batch_tokens": batch.tokens,
            "embeddings.batch_requests": len(batch.parts),
        }
        for pending in traced:
            if pending.rows is None:
                pending.span.record("embeddings.queue", pending.arrived, pending.arrived + pending.queue_s)
            others = [other.span for other in traced if other is not pending]
            pending.span.record("embeddings.compute", started, ended, about, links=others)

    async def _after_failure(self, batch: Batch, error: Exception) -> None:
        """Compute each request's part alone: one that can't be computed must not take its neighbours with it."""
        if len(batch.parts) == 1:
            job = batch.parts[0][0]
            self._fail(job, error)
            _log.error("batch.failed", model=self.model, texts=batch.texts, longest=batch.longest, reason=repr(error))
            return
        for job, indexes in batch.parts:
            longest = max(job.lengths[index] for index in indexes)
            await self._one(Batch([(job, indexes)], len(indexes), longest))

    def _deliver(self, job: Job, indexes: list[int], rows: Vectors, seconds: float) -> None:
        pending = self._pending.get(job)
        if pending is None or pending.future.done():
            return
        if pending.rows is None:
            pending.rows = np.empty((len(job.lengths), *rows.shape[1:]), dtype=np.float32)
        pending.rows[indexes] = rows
        pending.compute_s += seconds
        pending.left -= len(indexes)
        if not pending.left:
            pending.future.set_result(Computed(pending.rows, pending.queue_s, pending.compute_s))

    def _fail(self, job: Job, error: Exception) -> None:
        self.waiting.remove(job)
        pending = self._pending.get(job)
        if pending is not None and not pending.future.done():
            pending.future.set_exception(error)

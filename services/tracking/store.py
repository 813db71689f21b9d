"""Records of requests in SQLite, written by one thread; whoever hands them over never waits.

    store = Store(folder, StoreOptions(...), measure)
    store.start(); store.add(batch); …; store.stop()

`add` is called on the event loop and only puts into a bounded queue. Everything else blocks: call it in a thread
(`await asyncio.to_thread(store.sampled, since, limit)`), or wait for the future that it returns.
A disk that is full, a file that is locked or damaged leaves the records in the queue, and `state` says so; the
writer tries again until it is told to stop. What does not fit in the queue is dropped and counted.
"""

import queue
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import structlog

from services.kit.records import RecordBatch, RequestRecord
from services.tracking.connecting import Identities, connect, explain, transaction
from services.tracking.given import (
    Given,
    Measure,
    StoreCounts,
    StoreOptions,
    StoreUnavailable,
    Task,
    Work,
    is_about_values,
    refuse_tasks,
)
from services.tracking.requests import SampledRequest, SampledText, Vectors, sampled_of
from services.tracking.schema import TooNew
from services.tracking.writing import Writing

T = TypeVar("T")
STARTING = "the file is not open yet"
_BATCH_RECORDS = 2000
_AGAIN_S = (0.5, 1.0, 2.0, 5.0)
_TEXTS = 4000
"""Texts that wait in memory for their embeddings; the oldest go first."""
_SAMPLED = """
    SELECT requests.*, vectors.prompt AS prompt_vector, vectors.answer AS answer_vector,
           (SELECT avg(score) FROM feedback WHERE feedback.subject IN
               ('request:' || requests.id, 'trace:' || requests.trace_id)) AS score
    FROM requests LEFT JOIN vectors ON vectors.seq = requests.seq
    WHERE sampled = 1 AND requests.seq > ? ORDER BY requests.seq LIMIT ?
"""
_log = structlog.get_logger("tracking.store")


class Store:
    """The records, their features and vectors, feedback, and the sums of cost.

    Args:
        folder: where `records.db` is; made where there is none.
        measure: features of a sampled request, computed by the writer.
        opened: opens the file; tests hand in one with a small disk.
        noted: told by the writer of each record that was stored; it must not fail.
    """

    def __init__(
        self,
        folder: Path,
        options: StoreOptions | None = None,
        measure: Measure = lambda _record: {},
        opened: Callable[[Path, float], sqlite3.Connection] = connect,
        noted: Callable[[RequestRecord], None] = lambda _record: None,
    ) -> None:
        self.path = folder / "records.db"
        self.options = options or StoreOptions()
        self.counts = StoreCounts()
        self.identities = Identities(folder)
        self._measure = measure
        self._noted = noted
        self._open = opened
        self._queue: queue.SimpleQueue[Given] = queue.SimpleQueue()
        self._texts: deque[SampledText] = deque(maxlen=_TEXTS)
        self._stopping, self._tried = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="tracking-writer", daemon=True)
        self._connection: sqlite3.Connection | None = None
        self._state = STARTING

    # --- for whoever hands over records: never waits

    def add(self, batch: RecordBatch) -> int:
        """Take records to be stored; return how many were dropped because the queue is full. One thread adds."""
        counts = self.counts
        counts.sender_dropped += batch.dropped
        room = self.options.queue_records - self.waiting
        taken = batch.records if len(batch.records) <= room else batch.records[: max(0, room)]
        if taken:
            counts.accepted += len(taken)
            self._queue.put(taken)
        dropped = len(batch.records) - len(taken)
        counts.queue_full += dropped
        return dropped

    @property
    def waiting(self) -> int:
        """Records that are not on disk yet."""
        return self.counts.accepted - self.counts.taken

    @property
    def state(self) -> str:
        """`ok`, or a sentence that says why nothing is written."""
        if self._state == "ok" and not self._thread.is_alive():
            return "nothing is written any more: restart the service"
        return self._state

    # --- for whoever reads: blocks

    def wait_until_tried(self, timeout_s: float) -> None:
        """Return when the file is open, or when it is known that it can't be; after `timeout_s` in any case."""
        self._tried.wait(timeout_s)

    def read(self, work: Work[T]) -> T:
        """Return what `work` returns; it sees one state of the tables.

        Raises:
            StoreUnavailable
        """
        try:
            connection = sqlite3.connect(f"file:{self.path}?mode=ro", uri=True, timeout=self.options.busy_s)
            connection.isolation_level = None
            connection.row_factory = sqlite3.Row
            try:
                connection.execute("BEGIN")
                return work(connection)
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise StoreUnavailable(explain(error, self.path)) from None

    def sampled(self, since_id: int, limit: int) -> list[SampledRequest]:
        """Return sampled requests whose `seq` is above `since_id`, the oldest first."""
        return self.read(
            lambda connection: [sampled_of(row) for row in connection.execute(_SAMPLED, (since_id, limit))]
        )

    def take_texts(self, limit: int) -> list[SampledText]:
        """Return, once, masked texts of stored samples that wait for their embeddings, the oldest first."""
        taken: list[SampledText] = []
        with suppress(IndexError):
            while len(taken) < limit:
                taken.append(self._texts.popleft())
        return taken

    def drop_texts(self, seqs: Set[int]) -> None:
        """Forget texts that wait for their embeddings. Called by the writer, within `work`."""
        self._texts = deque((text for text in tuple(self._texts) if text.seq not in seqs), maxlen=_TEXTS)

    # --- for whoever changes something beside records: the future tells when it is on disk

    def write(self, work: Work[T], *, erases: bool = False) -> "Future[T]":
        """Run `work` in a transaction, after all that was added before. Its future may raise StoreUnavailable.

        Args:
            erases: what it deletes is to leave the file at once, not when the log of changes is next folded in.
        """
        task = Task(work, erases)
        if self._stopping.is_set():
            task.refuse("the service is stopping")
        elif self._state not in ("ok", STARTING):
            task.refuse(self._state)
        else:
            self._queue.put(task)
        return task.future

    def put_vectors(self, vectors: Sequence[Vectors]) -> "Future[None]":
        """Keep embeddings; those of requests that were deleted meanwhile are left out."""
        rows = [(each.seq, each.prompt, each.answer, each.seq) for each in vectors]

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany(
                "INSERT OR REPLACE INTO vectors (seq, prompt, answer) "
                "SELECT ?, ?, ? WHERE EXISTS (SELECT 1 FROM requests WHERE seq = ?)",
                rows,
            )

        return self.write(work)

    def put_features(self, features: Mapping[int, Mapping[str, Any]]) -> "Future[None]":
        """Add features to stored samples, by `seq`; a name that stands there is replaced."""
        rows = [(msgspec.json.encode(values).decode(), seq) for seq, values in features.items()]

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany("UPDATE requests SET features = json_patch(features, ?) WHERE seq = ?", rows)

        return self.write(work)

    # --- the writer

    def start(self) -> None:
        """Start the writer. The file is opened there, and again as long as it can't be."""
        self._thread.start()

    def stop(self, wait_s: float = 5.0) -> None:
        """Write what waits and end. What the disk does not take within `wait_s` is lost."""
        self._stopping.set()
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(wait_s)

    def _run(self) -> None:
        left: deque[Given] = deque()
        failed = 0
        while True:
            failed = 0 if self._attempt(left) else failed + 1
            self._tried.set()
            if failed:
                self._collect(left)
                refuse_tasks(left, self._state)
                if self._stopping.is_set():
                    break
                self._stopping.wait(_AGAIN_S[min(failed, len(_AGAIN_S)) - 1])
            elif not self._collect(left, wait=True):
                break
        self._close()

    def _collect(self, left: "deque[Given]", *, wait: bool = False) -> bool:
        """Move what is queued to `left`, as much as fits one batch where it waits; False: that was the end."""
        records = 0
        with suppress(queue.Empty):
            while records < _BATCH_RECORDS or not wait:
                given = self._queue.get(block=wait and not left)
                if given is None:
                    if wait and not left:
                        return False
                    self._queue.put(None)
                    return True
                left.append(given)
                records += len(given) if isinstance(given, list) else 0
        return True

    def _attempt(self, left: "deque[Given]") -> bool:
        """Write what is in `left`, removing what is written; False: the file did not let it."""
        try:
            connection = self._opened_connection()
            if not left:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("COMMIT")
            while left:
                self._write_first(connection, left)
        except (sqlite3.Error, OSError, TooNew) as error:
            self._failed(error)
            return False
        if self._state != "ok":
            _log.info("store.ready", path=str(self.path))
        self._state = "ok"
        return True

    def _write_first(self, connection: sqlite3.Connection, left: "deque[Given]") -> None:
        first = left[0]
        if isinstance(first, Task):
            left.popleft()
            self._do(connection, first)
            return
        groups = []
        while left and isinstance(left[0], list):
            groups.append(left.popleft())
        records = [record for group in groups if isinstance(group, list) for record in group]
        try:
            self._store_sane(connection, records)
        except (sqlite3.Error, OSError):
            left.appendleft(records)
            raise
        self.counts.taken += len(records)

    def _store_sane(self, connection: sqlite3.Connection, records: list[RequestRecord]) -> None:
        try:
            self._store(connection, records)
        except Exception as error:
            if not is_about_values(error):
                raise
            if len(records) == 1:
                self.counts.invalid += 1
                _log.error("store.record_refused", reason=str(error))
                return
            for half in (records[: len(records) // 2], records[len(records) // 2 :]):
                self._store_sane(connection, half)

    def _store(self, connection: sqlite3.Connection, records: list[RequestRecord]) -> None:
        writing = Writing(connection, self.identities, self._measure, store_text=self.options.store_text)
        with transaction(connection):
            for record in records:
                writing.add(record)
            writing.add_costs()
        counts = self.counts
        counts.stored += len(writing.stored)
        counts.repeated += writing.repeated
        counts.forgotten += writing.forgotten
        counts.invalid += writing.invalid
        self._texts.extend(writing.texts)
        for record in writing.stored:
            self._noted(record)

    def _do(self, connection: sqlite3.Connection, task: Task) -> None:
        if not task.future.set_running_or_notify_cancel():
            return
        try:
            with transaction(connection):
                result = task.work(connection)
            if task.erases:
                # It is deleted already; where a reader holds this up, the next one does it.
                with suppress(sqlite3.Error):
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except (sqlite3.Error, OSError) as error:
            if is_about_values(error):
                task.future.set_exception(error)
                return
            task.refuse(explain(error, self.path))
            raise
        except Exception as error:  # the task's own mistake: whoever waits for it is told, the writer goes on
            task.future.set_exception(error)
        else:
            task.future.set_result(result)

    def _opened_connection(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = self._open(self.path, self.options.busy_s)
        return self._connection

    def _failed(self, error: Exception) -> None:
        why = explain(error, self.path)
        if why != self._state:
            _log.error("store.failed", reason=why, waiting=self.waiting)
        self._state = why
        self.counts.failures += 1
        self._close()

    def _close(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

"""The monitor: gives sampled texts their embeddings, and compares each full window with the reference.

    monitor = Monitor(store, settings, embedder)
    await monitor.start(); …; await monitor.stop()

Texts pass through memory: what is stored of them are vectors. The work of comparing is in a thread, at most a window at
a time; nobody who asks a model waits for any of this.
"""

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import Sequence
from typing import Protocol, TypeVar

import structlog

from services.tracking.drift import references as kept
from services.tracking.drift.embedder import EmbeddingsFailed
from services.tracking.drift.features import Ending
from services.tracking.drift.references import Reference, Window
from services.tracking.drift.state import DriftState
from services.tracking.given import StoreUnavailable, Work
from services.tracking.requests import SampledRequest, SampledText, Vectors
from services.tracking.settings import TrackingSettings
from services.tracking.store import Store

T = TypeVar("T")
_TEXTS = 32
_PATIENCE_LOOKS = 10
"""Looks that a full window waits for embeddings that fail."""
_WINDOWS_A_LOOK = 20
_AGAIN_S = 1.0
"""Until the next look where the records can't be read."""
_DAY_S = 86_400.0
_log = structlog.get_logger("tracking.drift")


class Embedder(Protocol):
    """Turns texts into vectors."""

    async def embed(self, texts: Sequence[str]) -> list[bytes]:
        """Return a vector for each text, as `Vectors` wants it; may raise EmbeddingsFailed."""
        ...

    async def close(self) -> None:
        """Close what is open."""
        ...


class Monitor:
    """Looks every `look_interval_s` whether a window is full.

    Args:
        embedder: None: drift of meaning is not measured.
    """

    def __init__(self, store: Store, settings: TrackingSettings, embedder: Embedder | None) -> None:
        self.state = DriftState()
        self.changing = asyncio.Lock()
        """Held while a window is compared, and by whoever changes references."""
        self._store = store
        self._size = settings.window_records
        self._interval_s = settings.look_interval_s
        self._keep_s = settings.keep_days * _DAY_S
        self._embedder = embedder
        self._pending: list[SampledText] = []
        self._waited = 0
        self._restored = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """End; a comparison that is under way is not waited for."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._embedder is not None:
            await self._embedder.close()

    async def look(self) -> None:
        """Embed what waits, then compare each window that is full.

        Raises:
            StoreUnavailable
        """
        trouble = await self._embed()
        async with self.changing:
            if not self._restored:
                await self._restore()
            for _ in range(_WINDOWS_A_LOOK):
                requests = await self._read(self._next)
                self.state.filled = len(requests)
                if len(requests) < self._size or self._waits_for_vectors(requests):
                    break
                await self._finish(requests)
            in_use = await self._read(kept.reference_in_use)
        self._note_reference(in_use, trouble)

    async def _run(self) -> None:
        while True:
            wait_s = self._interval_s
            try:
                await self.look()
            except StoreUnavailable as error:
                self.state.trouble = str(error)
                wait_s = min(_AGAIN_S, wait_s)
            except Exception as error:
                # Whatever it is, it is in the log and in the metrics, and the next window may be another matter.
                self.state.trouble = f"the last look failed ({type(error).__name__}); the log has it"
                # A traceback is made of source files: they are read in a thread.
                await asyncio.to_thread(_log.error, "drift.look_failed", exc_info=error)
            await asyncio.sleep(wait_s)

    # --- vectors

    async def _embed(self) -> str:
        """Give all texts that wait their vectors; return what is in the way."""
        if self._embedder is None:
            while self._store.take_texts(1000):
                pass
            return ""
        while texts := self._pending or self._store.take_texts(_TEXTS):
            self._pending = texts
            try:
                await self._store_vectors(texts, await self._vectors(texts))
            except (EmbeddingsFailed, StoreUnavailable) as error:
                return str(error)
            self._pending = []
        return ""

    async def _vectors(self, texts: Sequence[SampledText]) -> list[bytes]:
        assert self._embedder is not None
        return await self._embedder.embed([text.prompt for text in texts] + [text.answer for text in texts])

    async def _store_vectors(self, texts: Sequence[SampledText], vectors: Sequence[bytes]) -> None:
        pairs = zip(texts, vectors[: len(texts)], vectors[len(texts) :], strict=True)
        rows = [Vectors(text.seq, prompt, answer) for text, prompt, answer in pairs]
        await asyncio.wrap_future(self._store.put_vectors(rows))

    def _waits_for_vectors(self, requests: Sequence[SampledRequest]) -> bool:
        """Say whether a full window is to wait: texts in it have no vectors yet, and that may pass."""
        if self._embedder is None:
            return False
        if all(each.prompt_vector or each.answer_vector or not _has_text(each) for each in requests):
            self._waited = 0
            return False
        # After so many looks no window waits until one comes that lacks nothing.
        self._waited += 1
        return self._waited <= _PATIENCE_LOOKS

    # --- windows

    def _next(self, connection: sqlite3.Connection) -> list[SampledRequest]:
        return kept.next_window(connection, kept.last_seq(connection), self._size)

    async def _finish(self, requests: list[SampledRequest]) -> None:
        """Compare a full window, store what was found, and say so."""
        in_use = await self._read(kept.reference_in_use)
        window = await asyncio.to_thread(self._compare, requests, in_use)
        stored = await self._write(lambda connection: self._keep(connection, window))
        state = self.state
        state.windows += 1
        state.alarmed += stored.alarm
        if stored.findings:
            state.findings = stored.findings
        changed = [finding["signal"] for finding in stored.findings if finding["alarm"]]
        log = _log.warning if changed else _log.info
        log("drift.window", window=stored.id, size=stored.size, reference=stored.reference, changed=changed)

    def _compare(self, requests: list[SampledRequest], in_use: Reference | None) -> Window:
        # numpy is loaded with the first full window, not with the service, and takes one core: the others are engines'.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        from services.tracking.drift.signals import compare
        from services.tracking.drift.windows import columns_of

        times = [each.record.at for each in requests]
        # It begins where the last one ended: what was refused in between is never sampled, and belongs to this one.
        first, last = self._store.read(kept.last_seq) + 1, requests[-1].seq
        window = Window(0, time.time(), first, last, min(times), max(times), len(requests))
        if in_use is None:
            return window
        name = in_use.name

        def read(connection: sqlite3.Connection) -> tuple[list[SampledRequest], list[Ending], list[Ending]]:
            members = kept.requests_of_reference(connection, name)
            theirs = kept.endings_between(connection, kept.spans_of(connection, name))
            return members, theirs, kept.endings_between(connection, [(first, last)])

        members, theirs, ours = self._store.read(read)
        findings = compare(columns_of(members, theirs), columns_of(requests, ours), seed=first)
        return kept.with_findings(window, name, [each.document() for each in findings])

    def _keep(self, connection: sqlite3.Connection, window: Window) -> Window:
        stored = kept.keep_window(connection, window)
        kept.forget_windows(connection, time.time() - self._keep_s)
        if not window.reference and not kept.references(connection):
            before = [each for each in kept.windows(connection, kept.AUTOMATIC_WINDOWS) if not each.reference]
            if len(before) == kept.AUTOMATIC_WINDOWS:
                now = time.time()
                kept.make_reference(connection, kept.AUTOMATIC, before, now, "made of the first full windows")
                kept.promote(connection, kept.AUTOMATIC, now)
        return stored

    async def _restore(self) -> None:
        newest = await self._read(lambda connection: kept.windows(connection, 1))
        if newest:
            self.state.findings = newest[0].findings
        self._restored = True

    def _note_reference(self, in_use: Reference | None, trouble: str) -> None:
        state = self.state
        state.reference, state.reference_records = (in_use.name, in_use.kept) if in_use else ("", 0)
        if not trouble and in_use is not None and in_use.kept < min(self._size, in_use.size // 2 + 1):
            trouble = (
                f"of the reference {in_use.name!r} {in_use.kept} of {in_use.size} requests are left, the others were "
                "deleted or are too old: promote a newer one (`sparkstack drift promote NAME --windows 2`)"
            )
        state.trouble = trouble

    async def _read(self, work: Work[T]) -> T:
        return await asyncio.to_thread(self._store.read, work)

    async def _write(self, work: Work[T]) -> T:
        return await asyncio.wrap_future(self._store.write(work))


def _has_text(request: SampledRequest) -> bool:
    return bool(request.features.get("prompt_characters") or request.features.get("answer_characters"))

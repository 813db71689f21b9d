"""Several files of one model at a time, each checked before it gets its name."""

import queue
import threading
import time
from collections import defaultdict

from services.engines.files.checksums import Interrupted, Throttle, Verified, hash_file, label
from services.engines.files.download_plan import DownloadPlan, OnProgress, Progress, PullOptions
from services.engines.files.hub import Hub, PullError
from services.engines.files.hub_cache import CachedRepository, HubFile
from services.engines.files.transfer import Listener, Transfer

_WORKERS = 4
_TELL_EVERY_S = 0.1
_JOIN_S = 0.05
_LEAVE_S = 1.0


class Fetching:
    """The files that a plan misses, fetched by a few threads.

    The threads are daemons: one that waits for a silent hub holds up nobody who wants to leave.
    """

    def __init__(
        self,
        hub: Hub,
        cached: CachedRepository,
        plan: DownloadPlan,
        options: PullOptions,
        *,
        verified: Verified,
        throttle: Throttle,
        on_progress: OnProgress,
        stop: threading.Event,
    ) -> None:
        self._hub = hub
        self._cached = cached
        self._plan = plan
        self._options = options
        self._verified = verified
        self._throttle = throttle
        self._tell = on_progress
        self._asked_to_stop = stop
        self._stop = threading.Event()
        self._todo: queue.SimpleQueue[HubFile] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._done: dict[str, int] = defaultdict(int)
        self._told_at: dict[str, float] = {}
        self._problem: BaseException | None = None

    def run(self) -> None:
        """Fetch all of them.

        Raises:
            Interrupted: somebody asked to stop; what has come is kept.
            PullError: one of them can't be had; the first problem ends the others too.
        """
        missing = {file.digest for file in self._plan.missing}
        self._done["here"] = sum(file.size_bytes for file in self._plan.files if file.digest not in missing)
        # The largest first: else the last minutes are one large file alone.
        for file in sorted(self._plan.missing, key=lambda each: -each.size_bytes):
            self._todo.put(file)
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(min(_WORKERS, len(missing)))]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads) and not self._asked_to_stop.is_set():
            next(thread for thread in threads if thread.is_alive()).join(_JOIN_S)
        if self._asked_to_stop.is_set():
            self._stop.set()
            # One that writes ends at its next piece; one that waits for a silent hub will find that it writes no more.
            leave_at = time.monotonic() + _LEAVE_S
            for thread in threads:
                thread.join(max(0.0, leave_at - time.monotonic()))
            raise Interrupted
        if self._problem is not None:
            raise self._problem

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                file = self._todo.get_nowait()
            except queue.Empty:
                return
            try:
                self._fetch(file)
            except BaseException as problem:  # it is raised again by the thread that waits
                with self._lock:
                    self._problem = self._problem or problem
                self._stop.set()

    def _fetch(self, file: HubFile) -> None:
        blob = self._cached.blob(file.digest)
        if blob.is_file() and blob.stat().st_size == file.size_bytes:
            self._report(file, file.size_bytes)  # somebody else has fetched it meanwhile
            return
        if file.size_bytes > self._options.plain_limit_bytes:
            self._fetch_by_library(file)
            return
        partial = self._cached.partial(file.digest)
        begun = partial.exists()
        digest = self._transfer(file)
        if digest != file.digest and begun:
            # What an earlier process left was damaged, by a power cut perhaps: this once, all of it anew.
            partial.unlink()
            digest = self._transfer(file)
        if digest != file.digest:
            partial.unlink()
            raise PullError(
                f"{file.path} has the digest {digest}, {self._hub.endpoint} lists {file.digest}: it was damaged on "
                "its way and is deleted. Pull again; if it stays so, something between here and the hub changes it",
                "damaged",
            )
        partial.replace(blob)
        self._verified.add(blob, file.digest)

    def _transfer(self, file: HubFile) -> str:
        listener = Listener(lambda done: self._report(file, done), lambda why: self._tell(Progress(why)))
        partial = self._cached.partial(file.digest)
        transfer = Transfer(
            self._hub,
            self._cached.repository,
            self._plan.commit,
            file,
            partial,
            listener=listener,
            stop=self._stop,
            patience=self._options.patience,
        )
        return transfer.run() or self._read_again(file)

    def _read_again(self, file: HubFile) -> str:
        """Return the digest of a file that came in two parts."""

        def told(count: int) -> None:
            self._tell_at_times(f"verifying sha256 digest of {file.path}", file, count)

        return hash_file(self._cached.partial(file.digest), file.digest, self._throttle, stop=self._stop, on_bytes=told)

    def _fetch_by_library(self, file: HubFile) -> None:
        done = 0

        def told(count: int) -> None:
            nonlocal done
            done += count
            self._report(file, min(done, file.size_bytes))
            if self._stop.is_set():
                raise Interrupted

        self._hub.fetch_by_library(self._cached.repository, self._plan.commit, file.path, told)

    def _report(self, file: HubFile, done: int) -> None:
        with self._lock:
            self._done[file.digest] = done
        self._tell_at_times(f"pulling {file.path}", file, done)

    def _tell_at_times(self, status: str, file: HubFile, done: int) -> None:
        now = time.monotonic()
        if done < file.size_bytes and now - self._told_at.get(file.digest, 0.0) < _TELL_EVERY_S:
            return
        self._told_at[file.digest] = now
        with self._lock:
            all_done = sum(self._done.values())
        self._tell(Progress(status, label(file.digest), file.size_bytes, done, self._plan.total_bytes, all_done))

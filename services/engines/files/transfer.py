"""One file from the hub to the disk, going on where it was left, hashed on the way.

What is written is only ever appended, so that a process that is killed leaves the beginning of the file and nothing
else; the next one asks for the rest. Bytes are hashed as they come; of a file that was begun by an earlier process the
beginning would have to be read again, which is left to the check at the end.
"""

import errno
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.engines.files.checksums import Hash, Interrupted, forget_pages, new_hash
from services.engines.files.hub import Hub, PullError, Unreachable
from services.engines.files.hub_cache import HubFile

if TYPE_CHECKING:
    import httpx2

_SYNC_BYTES = 256 * 1024 * 1024
_LONGEST_WAIT_S = 30.0


@dataclass(frozen=True)
class Patience:
    """How long a silent hub is waited for.

    Args:
        total_s: without a single byte, until the transfer is given up.
        read_s: until a connection that says nothing is closed and made again.
        first_wait_s: before the first try again; it doubles each time.
    """

    total_s: float = 300.0
    read_s: float = 30.0
    first_wait_s: float = 1.0


@dataclass(frozen=True)
class Listener:
    """Who is told of a transfer: bytes so far, and a sentence when the hub is waited for."""

    on_bytes: Callable[[int], None]
    on_wait: Callable[[str], None]


class Transfer:
    """The transfer of one file.

    Args:
        partial: the file in which the bytes are gathered.
        stop: set by somebody who wants this to end.
    """

    def __init__(
        self,
        hub: Hub,
        repository: str,
        commit: str,
        file: HubFile,
        partial: Path,
        *,
        listener: Listener,
        stop: threading.Event,
        patience: Patience,
    ) -> None:
        self._hub = hub
        self._repository = repository
        self._commit = commit
        self._file = file
        self._partial = partial
        self._listener = listener
        self._stop = stop
        self._patience = patience
        self._done = 0
        self._synced = 0
        self._hash: Hash | None = None

    def run(self) -> str | None:
        """Fetch what is missing; return the digest where all bytes were seen here.

        Raises:
            Interrupted: `stop` was set; what has come is kept.
            PullError: the hub refuses, stays silent, or sends something else; or the disk is full.
        """
        try:
            self._partial.parent.mkdir(parents=True, exist_ok=True)
            with self._partial.open("ab", buffering=0) as out:
                self._done = self._synced = os.fstat(out.fileno()).st_size
                if self._done == 0 or self._done > self._file.size_bytes:
                    self._start_anew(out)
                self._fetch_rest(out)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise PullError(
                    f"the disk is full at {self._partial.parent}; free {self._file.size_bytes - self._done:,} bytes "
                    "for this file, and pull again: it goes on from here",
                    "no_space",
                ) from None
            raise PullError(f"{self._partial} can't be written: {error.strerror or error}", "failed") from None
        return self._hash.hexdigest() if self._hash else None

    def _start_anew(self, out: Any) -> None:
        out.truncate(0)
        self._done = self._synced = 0
        self._hash = new_hash(self._file.digest, self._file.size_bytes)

    def _fetch_rest(self, out: Any) -> None:
        import httpx2

        wait_s, silent_since = self._patience.first_wait_s, time.monotonic()
        while self._done < self._file.size_bytes:
            before = self._done
            try:
                self._fetch_once(out)
                continue
            except (httpx2.TransportError, httpx2.StreamError) as error:
                problem = Unreachable(f"{self._hub.endpoint} broke off: {error or type(error).__name__}")
            except Unreachable as error:
                problem = error
            if self._done > before:
                wait_s, silent_since = self._patience.first_wait_s, time.monotonic()
            pause_s = wait_s if problem.retry_after_s is None else problem.retry_after_s
            if time.monotonic() + pause_s - silent_since > self._patience.total_s:
                raise Unreachable(
                    f"{problem}; gave up on {self._file.path} at {self._done:,} of {self._file.size_bytes:,} bytes. "
                    "Pull again later: it goes on from here"
                )
            self._listener.on_wait(f"{problem}; trying again in {pause_s:.0f} s")
            if self._stop.wait(pause_s):
                raise Interrupted
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)

    def _fetch_once(self, out: Any) -> None:
        read_s = self._patience.read_s
        with self._hub.stream(self._repository, self._commit, self._file.path, self._done, read_s) as answer:
            self._hub.check_status(self._repository, answer)
            self._check_extent(answer, out)
            for piece in answer.iter_raw():
                self._take(piece, out)
        if self._done < self._file.size_bytes:
            raise Unreachable(f"{self._hub.endpoint} ended the answer early")

    def _check_extent(self, answer: "httpx2.Response", out: Any) -> None:
        """Check that what comes is the rest of the file that was listed."""
        size: str | None
        if answer.status_code == 206:
            extent, _, size = answer.headers.get("content-range", "").partition("/")
            if extent.strip().partition("-")[0] != f"bytes {self._done}":
                raise PullError(f"{self._hub.endpoint} sends {extent!r} when asked from {self._done} on", "damaged")
        else:
            size = answer.headers.get("content-length")
            if self._done:  # the hub takes no ranges: all of it comes again
                self._start_anew(out)
        if size is not None and size.isdecimal() and int(size) != self._file.size_bytes:
            raise PullError(
                f"{self._hub.endpoint} lists {self._file.path} with {self._file.size_bytes:,} bytes and sends "
                f"{int(size):,}. Try again later, or another revision",
                "damaged",
            )

    def _take(self, piece: bytes, out: Any) -> None:
        if self._stop.is_set():
            raise Interrupted
        if self._done + len(piece) > self._file.size_bytes:
            raise PullError(f"{self._hub.endpoint} sends more of {self._file.path} than it lists", "damaged")
        out.write(piece)
        if self._hash is not None:
            self._hash.update(piece)
        self._done += len(piece)
        if self._done - self._synced >= _SYNC_BYTES:
            # Else gigabytes wait in memory to be written, which is the memory that engines need.
            os.fsync(out.fileno())
            forget_pages(out.fileno(), 0, self._done)
            self._synced = self._done
        self._listener.on_bytes(self._done)

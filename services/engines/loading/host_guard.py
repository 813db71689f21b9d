"""Give memory back while an engine loads: drop the page cache, and make small free pieces large again.

On unified memory a GPU driver takes its memory from what is free, and does not wait for the kernel to give up cached
files: with 50 GiB of cache and 3 GiB free a load fails, or takes the host with it. So the cache is dropped, again and
again while an engine loads, for reading its weights fills it anew. It needs the right to write to /proc/sys/vm, which
no container has: `sparkstack guard` is a service of the host's.

`vm.min_free_kbytes` is left alone: raised, it makes vLLM's check at start fail.
Source: https://docs.kernel.org/admin-guide/sysctl/vm.html (drop_caches, compact_memory)
"""

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from services.engines.host_memory import HostMemory, read_host_memory

PROC = Path("/proc")
MARKER = Path("/run/sparkstack/loading")
"""A file that whoever loads an engine touches each second. Its folder is the host guard's."""
_MARKER_LIVES_S = 10.0
# Less than this helps nobody, and reading it again costs time.
_WORTH_BYTES = 2**30
_PAUSE_S = 5.0
_LONGEST_PAUSE_S = 60.0


class NoRightsError(Exception):
    """This process may not drop caches; the message says what to do."""


@dataclass(frozen=True)
class Relief:
    """The machine's memory before and after caches were dropped."""

    before: HostMemory
    after: HostMemory
    seconds: float

    @property
    def helped(self) -> bool:
        """Whether it made a difference."""
        return self.after.free - self.before.free >= _WORTH_BYTES // 4


def check_rights(proc: Path = PROC) -> None:
    """Check that caches can be dropped, without doing so.

    Raises:
        NoRightsError
    """
    for name in ("drop_caches", "compact_memory"):
        path = proc / "sys" / "vm" / name
        try:
            os.close(os.open(path, os.O_WRONLY))
        except FileNotFoundError:
            raise NoRightsError(f"there is no {path} here: only Linux's kernel can be told to drop caches") from None
        except OSError as error:
            raise _no_rights(path, error) from None


def relieve(proc: Path = PROC, *, flush: bool = False) -> Relief:
    """Drop cached files and compact free memory.

    Args:
        flush: write what waits for the disk first, so that its pages can go too; that may take as long as the disk is
            slow, so not in an emergency.

    Raises:
        NoRightsError
    """
    started, before = time.monotonic(), read_host_memory(proc)
    if flush:
        os.sync()
    for name, value in (("drop_caches", "3"), ("compact_memory", "1")):
        path = proc / "sys" / "vm" / name
        try:
            with path.open("r+", encoding="ascii") as file:
                file.write(value)
        except OSError as error:
            raise _no_rights(path, error) from None
    return Relief(before, read_host_memory(proc), time.monotonic() - started)


def _no_rights(path: Path, error: OSError) -> NoRightsError:
    return NoRightsError(
        f"{path} can't be written ({error.strerror}): run `sudo sparkstack guard` on the host, not in a container"
    )


class Reliever:
    """Relieves, but not for ever in vain: pauses grow while it makes no difference."""

    def __init__(self, act: Callable[[], Relief] = relieve, clock: Callable[[], float] = time.monotonic) -> None:
        self._act = act
        self._clock = clock
        self._pause_s = _PAUSE_S
        self._not_before = float("-inf")

    def __call__(self) -> Relief | None:
        """Relieve where the last time is long enough ago; else return None.

        Raises:
            NoRightsError
        """
        if self._clock() < self._not_before:
            return None
        relief = self._act()
        self._pause_s = _PAUSE_S if relief.helped else min(2 * self._pause_s, _LONGEST_PAUSE_S)
        self._not_before = self._clock() + self._pause_s
        return relief

    def forget(self) -> None:
        """Begin anew: another engine loads."""
        self._pause_s = _PAUSE_S
        self._not_before = float("-inf")


def touch(marker: Path = MARKER) -> None:
    """Tell the host guard, where one runs, that an engine loads now."""
    with contextlib.suppress(OSError):
        if marker.parent.is_dir():
            marker.touch(mode=0o644)


def untouch(marker: Path = MARKER) -> None:
    """Tell it that no engine loads any more."""
    with contextlib.suppress(OSError):
        marker.unlink(missing_ok=True)


class HostGuard:
    """Looks once at a time whether an engine loads and memory is short, and relieves.

    Args:
        always: act also when nobody says that an engine loads (engines that are started by hand).
        act: relieves; in tests something else.
    """

    def __init__(
        self,
        min_free_bytes: int,
        *,
        proc: Path = PROC,
        marker: Path = MARKER,
        always: bool = False,
        act: Callable[[], Relief] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._min_free_bytes = min_free_bytes
        self._proc = proc
        self._marker = marker
        self._always = always
        self._relieve = Reliever(act or (lambda: relieve(proc)), clock)
        self._was_loading = False

    def look(self) -> Relief | None:
        """Look once; return what was done, None where nothing was to be done.

        When a load begins the cache is dropped whatever is free: engines check at their start for all that they want.

        Raises:
            NoRightsError
        """
        loading = self.is_loading()
        begins = loading and not self._was_loading
        self._was_loading = loading
        if begins:
            self._relieve.forget()
        if not loading and not self._always:
            return None
        memory = read_host_memory(self._proc)
        if memory.free < self._min_free_bytes or (begins and memory.page_cache > _WORTH_BYTES):
            return self._relieve()
        return None

    def is_loading(self) -> bool:
        """Say whether somebody has said so in the last seconds; who was killed says nothing more."""
        try:
            return time.time() - self._marker.lstat().st_mtime < _MARKER_LIVES_S
        except OSError:
            return False

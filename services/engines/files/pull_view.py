"""A pull on a terminal: a bar with rate and time left; plain lines every few seconds where nobody watches."""

import shutil
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import TextIO

from services.engines.files.download_plan import Progress, gigabytes

_WINDOW_S = 15.0
_REDRAW_S = 0.1
_LINE_EVERY_S = 5.0
_BAR_CELLS = 20


class Meter:
    """The rate of the last seconds, and what it promises."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def add(self, now: float, done: int) -> None:
        """Note how much was done at a time."""
        if self._samples and done < self._samples[-1][1]:
            self._samples.clear()  # it began anew
        self._samples.append((now, done))
        while len(self._samples) > 2 and now - self._samples[0][0] > _WINDOW_S:
            self._samples.popleft()

    @property
    def bytes_per_s(self) -> float | None:
        """The rate; None before there is one."""
        if len(self._samples) < 2:
            return None
        (first_at, first), (last_at, last) = self._samples[0], self._samples[-1]
        return (last - first) / (last_at - first_at) if last_at > first_at and last > first else None

    def left_s(self, total: int) -> float | None:
        """Return the seconds until `total` is done; None where there is no rate."""
        rate = self.bytes_per_s
        return None if rate is None else (total - self._samples[-1][1]) / rate


class PullView:
    """Shows the progress of one pull. Not for two threads at a time."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream or sys.stdout
        self._clock = clock
        self._on_terminal = self._stream.isatty()
        self._meter = Meter()
        self._doing = ""
        self._shown = ""
        self._shown_at = float("-inf")
        self._open_line = False
        self.last: Progress | None = None
        """The last progress that told how far the whole is."""

    def show(self, progress: Progress) -> None:
        """Show how far it is: what is new at once, the rest at times."""
        now = self._clock()
        doing = progress.status.partition(" ")[0]
        if progress.all_done is None:
            if progress.status != self._shown:
                self._say(progress.status)
                self._shown = progress.status
            return
        if doing != self._doing:
            self._doing, self._meter, self._shown_at = doing, Meter(), float("-inf")
        self.last = progress
        self._meter.add(now, progress.all_done)
        whole = progress.all_done == progress.all_total
        if whole or now - self._shown_at >= (_REDRAW_S if self._on_terminal else _LINE_EVERY_S):
            self._shown_at = now
            self._draw(self._line(progress))

    def clear(self) -> None:
        """Take back the line that changes."""
        if self._open_line:
            self._stream.write("\r\x1b[2K")
            self._stream.flush()
            self._open_line = False

    def _say(self, line: str) -> None:
        self.clear()
        self._stream.write(f"  {line}\n")
        self._stream.flush()

    def _draw(self, line: str) -> None:
        if not self._on_terminal:
            self._say(line)
            return
        width = shutil.get_terminal_size().columns
        self._stream.write(f"\r\x1b[2K  {line}"[: width + 4])
        self._stream.flush()
        self._open_line = True

    def _line(self, progress: Progress) -> str:
        done, total = progress.all_done or 0, progress.all_total or 0
        share = done / total if total else 1.0
        words = [f"{self._doing} {share:4.0%}", f"{gigabytes(done)} of {gigabytes(total)}"]
        if self._meter.bytes_per_s is not None:
            words.append(f"{gigabytes(self._meter.bytes_per_s)}/s")
        left_s = self._meter.left_s(total)
        if left_s is not None and done < total:
            words.append(f"{duration(left_s)} left")
        text = "  ".join(words)
        return f"{_bar(share)} {text}" if self._on_terminal else text


def duration(seconds: float) -> str:
    """Return a time as people say it: 2:05, 1:03:20."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _bar(share: float) -> str:
    full = int(share * _BAR_CELLS)
    return "█" * full + "░" * (_BAR_CELLS - full)

"""How far a verb is, and how it is ended: a line that is written over, and SIGTERM as Ctrl-C."""

import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import click

_BAR = 24
_SELDOM_S = 5.0


class Bar:
    """How far something is: one line that is written over on a terminal, now and then a new one elsewhere.

    Args:
        name: what is under way.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._terminal = sys.stderr.isatty()
        self._begun: tuple[float, int] | None = None
        self._last = 0.0
        self._open = False
        self._said = ""
        self._echo = click.echo

    def show(self, done: int, total: int, score: float | None = None) -> None:
        """Show how many are done, and the mean score so far."""
        now = time.monotonic()
        self._begun = self._begun or (now, done)
        if not self._terminal and done < total and now - self._last < _SELDOM_S:
            return
        self._last = now
        text = self._line(done, total, score, now)
        if not self._terminal:
            if text != self._said:
                self._echo(text, err=True)
            self._said = text
            return
        width = shutil.get_terminal_size().columns - 1
        self._echo(f"\r\x1b[2K{text[:width]}", nl=False, err=True)
        self._open = True

    def end(self) -> None:
        """Leave the line as it is."""
        if self._open:
            self._echo(err=True)
        self._open = False

    def _line(self, done: int, total: int, score: float | None, now: float) -> str:
        filled = round(done / total * _BAR) if total else 0
        shown = "" if score is None or not done else f", score {score:.3f}"
        began, already = self._begun or (now, done)
        left = ""
        if already < done < total:
            left = f", {round((now - began) / (done - already) * (total - done))} s left"
        return f"{self._name}  {'█' * filled}{'░' * (_BAR - filled)} {done}/{total}{shown}{left}"


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Have SIGTERM end a verb as Ctrl-C does, with what is known written down."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

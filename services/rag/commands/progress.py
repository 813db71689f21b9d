"""How far an ingest is: one line that is written over on a terminal, now and then a new one elsewhere."""

import shutil
import sys
import time
from typing import Any

import click

_BAR = 24
_SELDOM_S = 10.0


class ProgressLine:
    """Writes to standard error, so that what a program reads stays clean."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._terminal = sys.stderr.isatty()
        self._quiet = quiet
        self._open = False
        self._last = 0.0
        self._noted = ""

    def show(self, job: dict[str, Any]) -> None:
        """Show a job's state."""
        now = time.monotonic()
        if self._quiet or (not self._terminal and now - self._last < _SELDOM_S):
            return
        self._last = now
        self._noted = ""
        self._write(describe(job))

    def note(self, text: str) -> None:
        """Say something in its place, once."""
        if not self._quiet and text != self._noted:
            self._noted = text
            self._write(text)

    def end(self) -> None:
        """Leave the line as it is."""
        if self._open:
            click.echo(err=True)
        self._open = False

    def _write(self, text: str) -> None:
        if not self._terminal:
            click.echo(text, err=True)
            return
        width = shutil.get_terminal_size().columns - 1
        click.echo(f"\r\x1b[2K{text[:width]}", nl=False, err=True)
        self._open = True


def describe(job: dict[str, Any]) -> str:
    """Return a job's state in a line: bar, documents, chunks a second, time left, or what is waited for."""
    documents = job["documents"]
    done = documents["total"] - documents["in_progress"]
    share = job["bytes_done"] / job["bytes"] if job["bytes"] else 1.0
    filled = round(share * _BAR)
    bar = "█" * filled + "░" * (_BAR - filled)
    failed = f", {documents['failed']:,} failed" if documents["failed"] else ""
    counts = f"{bar} {done:,}/{documents['total']:,} documents{failed}, {job['chunks']:,} chunks"
    if job["waiting_for"]:
        return f"{counts}, waiting: {job['waiting_for']}"
    left = f", {_duration(job['eta_s'])} left" if job["eta_s"] is not None and job["stage"] != "done" else ""
    return f"{counts}, {job['chunks_per_s']:,.0f} chunks/s{left}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"

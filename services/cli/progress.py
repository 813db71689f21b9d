"""Say what is going on: one line that changes on a terminal, plain lines elsewhere."""

import shutil
import sys
import time

import click

_REPEAT_S = 10.0


class Progress:
    """What is being waited for, with the seconds since the start."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._on_terminal = sys.stdout.isatty()
        self._shown = ""
        self._shown_at = 0.0
        self._open_line = False

    @property
    def seconds(self) -> float:
        """The seconds since the start."""
        return time.monotonic() - self._started

    def waiting(self, what: str) -> None:
        """Show what is being waited for."""
        if self._on_terminal:
            width = shutil.get_terminal_size().columns
            click.echo(f"\r\x1b[2K{self._line(what)[: width - 1]}", nl=False)
            self._open_line = True
        elif what != self._shown or time.monotonic() - self._shown_at > _REPEAT_S:
            click.echo(self._line(what))
            self._shown, self._shown_at = what, time.monotonic()

    def say(self, line: str) -> None:
        """Show a line that stays."""
        self.clear()
        click.echo(line)

    def clear(self) -> None:
        """Take back the line that changes."""
        if self._open_line:
            click.echo("\r\x1b[2K", nl=False)
            self._open_line = False

    def _line(self, what: str) -> str:
        return f"  … {what} ({self.seconds:.0f} s)"

"""`sparkstack logs`: the last lines of the services' logs, and what comes."""

import contextlib
import os
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import click

from services.cli.home import SUPERVISOR, Home, find_home
from services.cli.modes import running_mode
from services.stack import SERVICES

_POLL_S = 0.2
_READ_BYTES = 256 * 1024


@click.command()
@click.argument("service", required=False)
@click.option("-f", "--follow", is_flag=True, help="go on with what comes; Ctrl-C ends it")
@click.option("-n", "--lines", default=50, show_default=True, type=click.IntRange(0), help="of each log")
def logs(service: str | None, follow: bool, lines: int) -> None:
    """Show the last lines of all logs, or of one service's or engine's (supervisord has one too)."""
    home = find_home()
    if running_mode(home) == "compose":
        from services.cli.containers.logs import show_container_logs

        show_container_logs(home, service, follow=follow, lines=lines)
        return
    names = [name for name in _names(home, service) if follow or home.log(name).is_file()]
    if not names:
        raise click.ClickException(f"there are no logs in {home.logs} yet; `make up` starts the stack")
    width = max(map(len, names))
    followed = []
    for name in names:
        prefix = "" if len(names) == 1 else f"{name.ljust(width)} | "
        log = FollowedLog(home.log(name), prefix)
        for line in log.last(lines):
            click.echo(prefix + line)
        followed.append(log)
    with contextlib.suppress(KeyboardInterrupt):
        while follow:
            for log in followed:
                for line in log.new():
                    click.echo(log.prefix + line)
            time.sleep(_POLL_S)


def _names(home: Home, service: str | None) -> list[str]:
    """Return the logs of a service, or of all services and engines; an engine's also by the beginning of its name."""
    services = [row.name for row in SERVICES]
    found = sorted(path.stem for path in home.logs.glob("*.log")) if home.logs.is_dir() else []
    engines = [name for name in found if name not in (*services, SUPERVISOR)]
    if service is None:
        return [*services, *engines]
    names = [name for name in (*services, *engines, SUPERVISOR) if name == service]
    names = names or [name for name in engines if name.startswith(service)]
    if not names:
        known = ", ".join([*services, *engines, SUPERVISOR])
        raise click.ClickException(f"there is no service or engine {service!r}; there are: {known}")
    return names


def last_lines(path: Path, count: int) -> list[str]:
    """Return the last lines of a log; [] where there is none."""
    return FollowedLog(path).last(count)


@dataclass
class FollowedLog:
    """A log file that grows, and is replaced when it is full."""

    path: Path
    prefix: str = ""
    _at: int = 0
    _inode: int = 0
    _rest: bytes = field(default=b"", repr=False)

    def last(self, count: int) -> list[str]:
        """Return the last whole lines that there are now; `new` goes on behind them."""
        lines: deque[str] = deque(maxlen=count)
        while more := self.new():
            lines.extend(more)
        return list(lines)

    def new(self) -> list[str]:
        """Return whole lines that have come since the last call, at most 256 KB of them."""
        try:
            with self.path.open("rb") as file:
                self._notice_replacement(os.fstat(file.fileno()))
                file.seek(self._at)
                data = file.read(_READ_BYTES)
        except FileNotFoundError:
            return []
        self._at += len(data)
        *whole, self._rest = (self._rest + data).split(b"\n")
        return [line.decode("utf-8", errors="replace") for line in whole]

    def _notice_replacement(self, found: os.stat_result) -> None:
        if found.st_ino != self._inode or found.st_size < self._at:
            self._inode, self._at, self._rest = found.st_ino, 0, b""

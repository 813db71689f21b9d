"""The processes of a stack, found by the mark in their environment, and the ones that hold a port."""

import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import psutil

from services.cli.home import Home
from services.kit.processes import lives, mark_of

_POLL_S = 0.05
_KILL_S = 5.0


@dataclass(frozen=True)
class Unit:
    """A process that this stack has started, or a child of one."""

    name: str
    process: psutil.Process


def find_units(home: Home) -> list[Unit]:
    """Return the living processes of the stack with this state folder, whoever their parent is now.

    The mark is in the environment that they were started with, so it survives their supervisor, a lost pid file
    and a new name. This process and those above it are left out: a shell that a service has opened is one of its
    processes, but must not end itself.
    """
    own = {process.pid for process in (psutil.Process(), *psutil.Process().parents())}
    units = []
    for process in psutil.process_iter():
        mark = "" if process.pid in own else mark_of(process)
        state, _, name = mark.rpartition(":")
        if state == str(home.state):
            units.append(Unit(name, process))
    return units


def end_units(units: Iterable[Unit], grace_s: float) -> list[Unit]:
    """Ask processes to end, force those that haven't after `grace_s`, and return those that were there."""
    asked = list(units)
    for unit in asked:
        with contextlib.suppress(psutil.Error):
            unit.process.terminate()
    for unit in wait_for_end(asked, grace_s):
        with contextlib.suppress(psutil.Error):
            unit.process.kill()
    wait_for_end(asked, _KILL_S)
    return asked


def wait_for_end(units: Iterable[Unit], timeout_s: float) -> list[Unit]:
    """Wait until processes have ended; return those that still live after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    living = [unit for unit in units if lives(unit.process)]
    while living and time.monotonic() < deadline:
        time.sleep(_POLL_S)
        living = [unit for unit in living if lives(unit.process)]
    return living


@dataclass(frozen=True)
class Holder:
    """Who listens on a port; pid 0 where the system doesn't tell (a process of another user)."""

    pid: int = 0
    name: str = ""
    command: str = ""
    mark: str = ""

    def __str__(self) -> str:
        if not self.pid:
            return "a process of another user"
        command = self.command if len(self.command) <= 80 else f"{self.command[:79]}…"
        return f"{self.name} (pid {self.pid}{f', `{command}`' if command else ''})"


def holder_of(port: int) -> Holder:
    """Return who listens on a port."""
    for pid in _listeners(port):
        try:
            process = psutil.Process(pid)
            return Holder(pid, process.name(), " ".join(process.cmdline()), mark_of(process))
        except psutil.Error:
            continue
    return Holder()


def _listeners(port: int) -> list[int]:
    try:
        found = [(connection, connection.pid) for connection in psutil.net_connections("tcp")]
    except psutil.AccessDenied:  # macOS shows all connections to root alone; those of one's own processes it shows
        found = [(c, process.pid) for process in psutil.process_iter() for c in _connections_of(process)]
    return [pid for c, pid in found if c.status == psutil.CONN_LISTEN and pid and c.laddr[1:] == (port,)]


def _connections_of(process: psutil.Process) -> list[Any]:
    try:
        return list(process.net_connections("tcp"))
    except psutil.Error:
        return []

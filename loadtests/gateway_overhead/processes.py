"""CPU time and memory of a whole process tree, from /proc (Linux)."""

import os
import time
from pathlib import Path
from typing import NamedTuple

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


class _Stat(NamedTuple):
    parent: int
    session: int
    own_s: float
    reaped_children_s: float


def _stat(pid: int) -> _Stat | None:
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()  # the command, in brackets before, may hold blanks
    user, system, child_user, child_system = (int(field) for field in fields[11:15])
    return _Stat(
        parent=int(fields[1]),
        session=int(fields[3]),
        own_s=(user + system) / _TICKS_PER_S,
        reaped_children_s=(child_user + child_system) / _TICKS_PER_S,
    )


def _clock_s(pid: int) -> float | None:
    """Return the CPU time of all threads of a process, ended ones too, in nanosecond resolution.

    Source: clock_getcpuclockid(3); the clock's number is `(~pid << 3) | CPUCLOCK_SCHED` in the kernel's ABI.
    """
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return None


def _members(root: int) -> dict[int, _Stat]:
    """Return the root, its descendants, and whoever else is in its session (orphans of the tree)."""
    everyone = {
        int(entry.name): stat
        for entry in _PROC.iterdir()
        if entry.name.isdigit() and (stat := _stat(int(entry.name))) is not None
    }
    members = {pid for pid, stat in everyone.items() if pid == root or stat.session == root}
    grown = True
    while grown:
        more = {pid for pid, stat in everyone.items() if stat.parent in members} - members
        members |= more
        grown = bool(more)
    return {pid: everyone[pid] for pid in members}


def tree_cpu_s(root: int) -> float:
    """Return the user and system time that a process tree has used so far.

    `root` leads a session of its own. Children that ended count through the parent that reaped them.
    """
    total = 0.0
    for pid, stat in _members(root).items():
        own = _clock_s(pid)
        total += (stat.own_s if own is None else own) + stat.reaped_children_s
    return total


def tree_peak_rss_bytes(root: int) -> int:
    """Return the sum of the peak resident sizes of the tree's processes, each at its own worst moment.

    Pages that processes share count once for each.
    """
    return sum(_peak_rss_bytes(pid) for pid in _members(root))


def _peak_rss_bytes(pid: int) -> int:
    try:
        lines = (_PROC / str(pid) / "status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


def machine_busy_s() -> float:
    """Return the seconds that all cores together have been busy since boot, stolen time included."""
    fields = (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in fields)
    return (user + nice + system + irq + softirq + steal) / _TICKS_PER_S

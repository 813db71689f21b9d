"""Processes of this machine: does one live, who are its children, which stack has started it?"""

import contextlib
import os
import signal
from collections.abc import Iterable

import psutil

from services.kit.launch import MARK


def mark_of(process: psutil.Process) -> str:
    """Return the mark of a process; empty for processes of others, of other users, and dead ones."""
    try:
        if process.uids().real != os.getuid() or not lives(process):
            return ""
        return process.environ().get(MARK, "")
    except (psutil.Error, OSError):
        return ""


def lives(process: psutil.Process) -> bool:
    """Say whether a process still runs.

    One that has ended but that its parent hasn't asked about doesn't: in containers, process 1 often never asks.
    """
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def living(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Return those that still run."""
    return [process for process in processes if lives(process)]


def find_process(pid: int) -> psutil.Process | None:
    """Return the living process of this id."""
    try:
        process = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None
    return process if lives(process) else None


def tree_of(process: psutil.Process) -> list[psutil.Process]:
    """Return a process and all its descendants."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return [process]


def marked(mark: str) -> set[psutil.Process]:
    """Return the living processes with this mark, whoever their parent is now; it reads all of /proc."""
    return {process for process in psutil.process_iter() if mark_of(process) == mark}


def send_signal(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    """Send a signal to those that are still the processes that they were."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.send_signal(number)

"""Processes of this machine: does one live, and which stack has started it?"""

import os

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

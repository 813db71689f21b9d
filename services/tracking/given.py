"""What is handed to the store, what becomes of it, and what its failures mean."""

import sqlite3
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from services.kit.records import RequestRecord

T = TypeVar("T")
Measure = Callable[[RequestRecord], Mapping[str, Any]]
"""Measures the features of a sampled request; pure, no network, JSON values."""
Work = Callable[[sqlite3.Connection], T]


class StoreUnavailable(Exception):
    """The file can't be read or written for now; the message says why."""


@dataclass(frozen=True)
class StoreOptions:
    """How much may wait, and what is kept of texts."""

    queue_records: int = 50_000
    store_text: bool = False
    busy_s: float = 2.0


class Task:
    """Something beside records that is to be done in a transaction of its own."""

    def __init__(self, work: Work[Any], erases: bool) -> None:
        self.work = work
        self.erases = erases
        self.future: Future[Any] = Future()

    def refuse(self, why: str) -> None:
        """Tell whoever waits that it was not done."""
        with suppress(InvalidStateError):  # whoever waited has gone
            self.future.set_exception(StoreUnavailable(why))


Given = list[RequestRecord] | Task | None
"""What is in the queue; None ends it."""


@dataclass
class StoreCounts:
    """What has become of records since the start. Written by the store's threads, read by anybody."""

    accepted: int = 0
    taken: int = 0
    stored: int = 0
    repeated: int = 0
    forgotten: int = 0
    invalid: int = 0
    queue_full: int = 0
    sender_dropped: int = 0
    failures: int = 0


def is_about_values(error: Exception) -> bool:
    """Say whether what was given is at fault, not the file: trying again would change nothing."""
    if isinstance(error, sqlite3.IntegrityError | sqlite3.DataError | sqlite3.ProgrammingError):
        return True
    if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR:  # a statement that is wrong
        return True
    return not isinstance(error, sqlite3.Error | OSError)


def refuse_tasks(left: "deque[Given]", why: str) -> None:
    """Tell those who wait for tasks that they were not done; records stay."""
    for _ in range(len(left)):
        given = left.popleft()
        if isinstance(given, Task):
            given.refuse(why)
        else:
            left.append(given)

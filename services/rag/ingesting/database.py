"""SQLite beside the event loop: one thread writes, one reads, each with a connection of its own."""

import asyncio
import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from services.rag.ingesting.schema import MIGRATIONS

T = TypeVar("T")
_BUSY_S = 30.0


class DatabaseInUse(Exception):
    """Another process works on this state; the message says which folder, and what to do."""


class DatabaseTooNew(Exception):
    """The file was written by a later version of this service."""


class Database:
    """The registry's file. Work is given as functions of a connection, and runs in the database's own threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer = ThreadPoolExecutor(1, "rag-registry-writer")
        self._reader = ThreadPoolExecutor(1, "rag-registry-reader")
        self._lock: int | None = None
        self._writing: sqlite3.Connection | None = None
        self._reading: sqlite3.Connection | None = None

    async def open(self) -> None:
        """Take the folder for this process, make or migrate the tables.

        Raises:
            DatabaseInUse: another process has it.
            DatabaseTooNew
        """
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._writer, self._open_writer)
        self._reading = await loop.run_in_executor(self._reader, _connect, self._path)

    async def close(self) -> None:
        """Let the work that was given end, then let go of the file."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._reader, _close, self._reading)
        await loop.run_in_executor(self._writer, self._close_writer)
        self._reader.shutdown(wait=False)
        self._writer.shutdown(wait=False)

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Return what `work` returns; all that it does is one transaction, safe on disk when this returns."""
        return await asyncio.get_running_loop().run_in_executor(self._writer, self._transaction, work)

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Return what `work` returns; it sees one state of the tables, never a half of a transaction."""
        return await asyncio.get_running_loop().run_in_executor(self._reader, self._snapshot, work)

    def _transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        assert self._writing is not None, "open() comes first"
        with _begun(self._writing, "BEGIN IMMEDIATE"):
            return work(self._writing)

    def _snapshot(self, work: Callable[[sqlite3.Connection], T]) -> T:
        assert self._reading is not None, "open() comes first"
        with _begun(self._reading, "BEGIN"):
            return work(self._reading)

    def _open_writer(self) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = _take(self._path.with_suffix(".lock"))
        self._writing = _connect(self._path)
        self._migrate(self._writing)

    def _migrate(self, connection: sqlite3.Connection) -> None:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > len(MIGRATIONS):
            raise DatabaseTooNew(
                f"{self._path} has version {version} of the tables, this service knows {len(MIGRATIONS)}: run the "
                "sparkstack that wrote it, or name another state folder (SPARKSTACK_STATE)"
            )
        for number, script in enumerate(MIGRATIONS[version:], version + 1):
            # executescript commits what is open: the script itself is the transaction.
            connection.executescript(f"BEGIN; {script}; PRAGMA user_version = {number}; COMMIT;")

    def _close_writer(self) -> None:
        _close(self._writing)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA journal_mode = WAL")
    # FULL: a commit that was answered for survives a loss of power, not only the death of the process.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


@contextlib.contextmanager
def _begun(connection: sqlite3.Connection, begin: str) -> Iterator[None]:
    connection.execute(begin)
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _close(connection: sqlite3.Connection | None) -> None:
    if connection is not None:
        connection.close()


def _take(path: Path) -> int:
    """Lock a file for as long as this process lives."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise DatabaseInUse(
            f"another RAG service works on {path.parent}: stop it (`sparkstack status` shows it), or name another "
            "state folder (SPARKSTACK_STATE)"
        ) from None
    return descriptor

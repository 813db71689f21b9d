"""The file of the records: how it is opened, what its failures mean, and who is in it under which name."""

import contextlib
import hashlib
import hmac
import secrets
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from services.kit.files import write_private
from services.tracking.schema import TooNew, migrate

_REASONS = (
    ("disk is full", "the disk is full: make room where {path} is; records wait in memory meanwhile"),
    ("locked", "{path} is locked by another process: end what works on it (a backup, a second tracking service)"),
    ("not a database", "{path} is damaged: move it aside and restart the service, which begins a new one"),
    ("malformed", "{path} is damaged: move it aside and restart the service, which begins a new one"),
    ("readonly", "{path} can't be written by this user: see its owner and its folder's"),
    ("no such table", "{path} has no tables yet: the service is starting; ask again in a second"),
    ("unable to open", "{path} can't be opened: see whether its folder is there, and whose it is"),
)


def connect(path: Path, busy_s: float) -> sqlite3.Connection:
    """Open the file for writing, make or migrate its tables.

    Raises:
        TooNew, OSError, sqlite3.Error
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=busy_s, isolation_level=None)
    try:
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode = WAL")
        # NORMAL: what a loss of power takes is the last moments, never the file; the process's own death takes nothing.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")
        # What is deleted is overwritten: a text that someone wants gone is not to be found in free pages.
        connection.execute("PRAGMA secure_delete = ON")
        path.chmod(0o600)
        migrate(connection, str(path))
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Keep all that is done within, or nothing of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # Some failures (a full disk) have rolled back already.
        if connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        raise


def explain(error: Exception, path: Path) -> str:
    """Return a sentence on a failure of the file: what is wrong, and what to do."""
    if isinstance(error, TooNew):
        return str(error)
    text = str(error)
    for mark, sentence in _REASONS:
        if mark in text:
            return sentence.format(path=path)
    if isinstance(error, OSError):
        return f"{error.filename or path}: {error.strerror or error}"
    return f"{path}: {text or type(error).__name__}"


class Identities:
    """Users by a digest with a key of this machine: a name or an address that a client sends is not kept.

    The key is made once and kept beside the records; without it nobody finds out who is meant, and nobody can be
    found to be deleted.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "identities.key"
        self._key = b""

    def user(self, name: str) -> str:
        """Return the digest that stands for a user, of letters and digits; empty for an empty name.

        Raises:
            OSError: the key can be neither read nor made.
        """
        if not name:
            return ""
        return "u" + hmac.digest(self._read(), name.encode(errors="surrogatepass"), hashlib.sha256).hex()[:24]

    def _read(self) -> bytes:
        if not self._key:
            if not self._path.exists():
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_private(self._path, secrets.token_hex(32))
            text = self._path.read_text(encoding="ascii").strip()
            if len(text) < 32:
                raise OSError(0, "is not a key: restore it, or remove it with records.db", str(self._path))
            self._key = text.encode()
        return self._key

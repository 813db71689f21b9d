"""Jobs: what one request, or one folder, has brought, and what has become of each of its files."""

import sqlite3
import time
from dataclasses import dataclass

from services.kit.errors import NotFound
from services.rag.registry import insert, new_id

_SHOWN_ERRORS = 200
_ABANDONED_S = 3600.0


@dataclass(frozen=True)
class FileError:
    """A file that is not in the collection, and why."""

    name: str
    code: str
    message: str


@dataclass(frozen=True)
class Job:
    """A job and its counts.

    Args:
        kind: `upload`: files by their names; `batch`: OpenAI's; `recut`: documents that are cut anew.
        open: more files are announced.
        deleted: documents that went because they are no longer in the folder.
        characters: read so far.
        bytes_done: of the files whose ingest has ended.
    """

    id: str
    collection: str
    tenant: str
    kind: str
    open: bool
    cancelled: bool
    deleted: int
    created: float
    finished: float
    in_progress: int
    completed: int
    unchanged: int
    failed: int
    stopped: int
    chunks: int
    characters: int
    bytes: int
    bytes_done: int
    errors: tuple[FileError, ...]

    @property
    def total(self) -> int:
        """All files that have come so far."""
        return self.in_progress + self.completed + self.unchanged + self.failed + self.stopped

    @property
    def status(self) -> str:
        """OpenAI's word for a batch."""
        if self.cancelled:
            return "cancelled"
        return "completed" if self.finished else "in_progress"


def start_job(connection: sqlite3.Connection, collection: str, tenant: str, kind: str, prefix: str) -> str:
    """Write down a job that more files may be added to; `close_job` ends that."""
    job = new_id(prefix)
    columns = {"id": job, "collection": collection, "tenant": tenant, "kind": kind, "open": 1, "created": time.time()}
    insert(connection, "jobs", columns)
    return job


def add_item(
    connection: sqlite3.Connection,
    job: str,
    collection: str,
    name: str,
    size: int,
    state: str,
    *,
    document: str = "",
    error: tuple[str, str] = ("", ""),
) -> None:
    """Write down one file of a job."""
    columns = {
        "job": job,
        "collection": collection,
        "document": document,
        "name": name,
        "bytes": size,
        "state": state,
        "error_code": error[0],
        "error": error[1],
    }
    insert(connection, "job_items", columns)


def settle(
    connection: sqlite3.Connection,
    collection: str,
    document: str,
    state: str,
    *,
    chunks: int = 0,
    characters: int = 0,
    error: tuple[str, str] = ("", ""),
) -> None:
    """Note what has become of a document in each job that waits for it, and end the jobs that wait for nothing."""
    jobs = connection.execute(
        """UPDATE job_items SET state = ?, chunks = ?, characters = ?, error_code = ?, error = ?
        WHERE collection = ? AND document = ? AND state = 'in_progress' RETURNING job""",
        (state, chunks, characters, *error, collection, document),
    ).fetchall()
    for row in jobs:
        _end_where_done(connection, row["job"])


def close_job(connection: sqlite3.Connection, job: str, deleted: int = 0) -> None:
    """Note that no more files come."""
    connection.execute("UPDATE jobs SET open = 0, deleted = deleted + ? WHERE id = ?", (deleted, job))
    _end_where_done(connection, job)


def close_abandoned(connection: sqlite3.Connection, older_than_s: float = _ABANDONED_S) -> int:
    """Close the jobs whose announced files never came."""
    rows = connection.execute(
        "SELECT id FROM jobs WHERE open AND created < ?", (time.time() - older_than_s,)
    ).fetchall()
    for row in rows:
        close_job(connection, row["id"])
    return len(rows)


def find_job(connection: sqlite3.Connection, collection: str, job: str, tenant: str) -> Job:
    """Return a job of a tenant.

    Raises:
        NotFound
    """
    row = connection.execute(
        "SELECT * FROM jobs WHERE id = ? AND collection = ? AND tenant = ?", (job, collection, tenant)
    ).fetchone()
    if row is None:
        raise NotFound(f"there is no job {job!r} of this collection; `sparkstack rag jobs` lists them")
    return _job(connection, row)


def list_jobs(connection: sqlite3.Connection, collection: str, tenant: str, limit: int) -> list[Job]:
    """Return a collection's jobs, the newest first."""
    rows = connection.execute(
        "SELECT * FROM jobs WHERE collection = ? AND tenant = ? ORDER BY seq DESC LIMIT ?", (collection, tenant, limit)
    ).fetchall()
    return [_job(connection, row) for row in rows]


def open_documents(connection: sqlite3.Connection, job: str) -> list[str]:
    """Return the documents that a job still waits for."""
    rows = connection.execute("SELECT document FROM job_items WHERE job = ? AND state = 'in_progress'", (job,))
    return [row["document"] for row in rows]


def _job(connection: sqlite3.Connection, row: sqlite3.Row) -> Job:
    counts = connection.execute(
        """SELECT COALESCE(SUM(state = 'in_progress'), 0) in_progress, COALESCE(SUM(state = 'completed'), 0) completed,
            COALESCE(SUM(state = 'unchanged'), 0) unchanged, COALESCE(SUM(state = 'failed'), 0) failed,
            COALESCE(SUM(state = 'cancelled'), 0) stopped, COALESCE(SUM(chunks), 0) chunks,
            COALESCE(SUM(characters), 0) characters, COALESCE(SUM(bytes), 0) bytes,
            COALESCE(SUM(CASE WHEN state != 'in_progress' THEN bytes ELSE 0 END), 0) bytes_done
        FROM job_items WHERE job = ?""",
        (row["id"],),
    ).fetchone()
    errors = connection.execute(
        "SELECT name, error_code, error FROM job_items WHERE job = ? AND state = 'failed' ORDER BY seq LIMIT ?",
        (row["id"], _SHOWN_ERRORS),
    )
    return Job(
        id=row["id"],
        collection=row["collection"],
        tenant=row["tenant"],
        kind=row["kind"],
        open=bool(row["open"]),
        cancelled=bool(row["cancelled"]),
        deleted=row["deleted"],
        created=row["created"],
        finished=row["finished"],
        errors=tuple(FileError(each["name"], each["error_code"], each["error"]) for each in errors),
        **dict(counts),
    )


def _end_where_done(connection: sqlite3.Connection, job: str) -> None:
    connection.execute(
        """UPDATE jobs SET finished = ? WHERE id = ? AND NOT open AND NOT finished
            AND NOT EXISTS (SELECT 1 FROM job_items WHERE job = jobs.id AND state = 'in_progress')""",
        (time.time(), job),
    )

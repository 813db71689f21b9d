"""What windows are compared with, and the windows themselves: in the file of the records, by names and numbers.

A reference is a list of stored requests. It has no copy of them: who is deleted is out of the reference, too, and one
that is older than TRACKING_KEEP_DAYS is gone. So promote a newer one now and then; the monitor says when.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from services.tracking.drift.features import VERSION, Ending
from services.tracking.requests import SampledRequest, sampled_of

AUTOMATIC = "first"
"""The name of the reference that is made of the first windows, where nobody has made one."""
AUTOMATIC_WINDOWS = 2
_GENERATES = "hops = 0 AND operation NOT IN ('embeddings', 'rerank')"
_BELONGS = f"sampled = 1 AND {_GENERATES} AND json_extract(features, '$.version') = {VERSION}"
_SELECT = """
    SELECT requests.*, vectors.prompt AS prompt_vector, vectors.answer AS answer_vector,
           (SELECT avg(score) FROM feedback WHERE feedback.subject IN
               ('request:' || requests.id, 'trace:' || requests.trace_id)) AS score
    FROM requests LEFT JOIN vectors ON vectors.seq = requests.seq
"""


class NoSuchReference(LookupError):
    """No reference has this name."""


class NotEnough(ValueError):
    """There are too few requests to make a reference of; the message says how many there are."""


@dataclass(frozen=True)
class Reference:
    """A named list of requests.

    Args:
        size: when it was made.
        kept: of them, those that are still there.
        in_use: windows are compared with it.
    """

    name: str
    made_at: float
    note: str
    size: int
    kept: int
    in_use: bool

    def document(self) -> dict[str, Any]:
        """Return it for JSON."""
        return {"object": "tracking.reference", **{name: getattr(self, name) for name in self.__dataclass_fields__}}


@dataclass(frozen=True)
class Window:
    """A full window. `id` is 0 where it is not stored yet."""

    id: int
    at: float
    first_seq: int
    last_seq: int
    first_at: float
    last_at: float
    size: int
    reference: str = ""
    alarm: bool = False
    findings: tuple[dict[str, Any], ...] = ()

    def document(self) -> dict[str, Any]:
        """Return it for JSON."""
        found = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {"object": "tracking.window", **found, "findings": list(self.findings)}


def with_findings(window: Window, reference: str, findings: list[dict[str, Any]]) -> Window:
    """Return the window with what was found of it; one signal that alarms makes it one that has changed."""
    alarm = any(finding["alarm"] for finding in findings)
    return replace(window, reference=reference, alarm=alarm, findings=tuple(findings))


def requests_of_reference(connection: sqlite3.Connection, name: str) -> list[SampledRequest]:
    """Return the requests of a reference that are still there, the oldest first."""
    rows = connection.execute(
        f"{_SELECT} JOIN drift_members ON drift_members.seq = requests.seq "
        f"WHERE drift_members.reference = ? AND {_BELONGS} ORDER BY requests.seq",
        (name,),
    )
    return [sampled_of(row) for row in rows]


def requests_between(connection: sqlite3.Connection, first: int, last: int) -> list[SampledRequest]:
    """Return the requests of a window that are still there, the oldest first."""
    rows = connection.execute(
        f"{_SELECT} WHERE requests.seq BETWEEN ? AND ? AND {_BELONGS} ORDER BY requests.seq", (first, last)
    )
    return [sampled_of(row) for row in rows]


def endings_between(connection: sqlite3.Connection, spans: Sequence[Sequence[int]]) -> list[Ending]:
    """Return how all requests of these times have ended, sampled or not."""
    found: list[Ending] = []
    for first, last in spans:
        rows = connection.execute(
            f"SELECT status, outcome, error FROM requests WHERE seq BETWEEN ? AND ? AND {_GENERATES}",  # noqa: S608
            (first, last),
        )
        found += [tuple(row) for row in rows]
    return found


def spans_of(connection: sqlite3.Connection, name: str) -> list[list[int]]:
    """Return from which `seq` to which the windows of a reference reach."""
    row = connection.execute("SELECT spans FROM drift_references WHERE name = ?", (name,)).fetchone()
    return list(msgspec.json.decode(row["spans"])) if row else []


def next_window(connection: sqlite3.Connection, after: int, size: int) -> list[SampledRequest]:
    """Return the requests of the window that begins after a `seq`; fewer than `size` where it is not full yet."""
    rows = connection.execute(
        f"{_SELECT} WHERE requests.seq > ? AND {_BELONGS} ORDER BY requests.seq LIMIT ?", (after, size)
    )
    return [sampled_of(row) for row in rows]


def references(connection: sqlite3.Connection) -> list[Reference]:
    """Return all references, the one in use first, then the newest."""
    rows = connection.execute(
        "SELECT *, (SELECT count(*) FROM drift_members WHERE reference = name) AS kept FROM drift_references "
        "ORDER BY promoted_at IS NULL, promoted_at DESC, made_at DESC, name"
    ).fetchall()
    return [
        Reference(
            row["name"],
            row["made_at"],
            row["note"],
            row["size"],
            row["kept"],
            place == 0 and row["promoted_at"] is not None,
        )
        for place, row in enumerate(rows)
    ]


def reference_in_use(connection: sqlite3.Connection) -> Reference | None:
    """Return the reference that windows are compared with."""
    return next((each for each in references(connection) if each.in_use), None)


def make_reference(
    connection: sqlite3.Connection, name: str, windows: list[Window], now: float, note: str = ""
) -> Reference:
    """Make a reference of the requests of some windows; one of the same name is replaced and stays in use.

    Raises:
        NotEnough: none of them is there any more.
    """
    (promoted,) = connection.execute("SELECT max(promoted_at) FROM drift_references WHERE name = ?", (name,)).fetchone()
    seqs = {
        seq
        for window in windows
        for (seq,) in connection.execute(
            f"SELECT seq FROM requests WHERE seq BETWEEN ? AND ? AND {_BELONGS}",  # noqa: S608 - our own text
            (window.first_seq, window.last_seq),
        )
    }
    if not seqs:
        raise NotEnough("no request of these windows is kept any more; take newer ones")
    spans = sorted((window.first_seq, window.last_seq) for window in windows)
    connection.execute("DELETE FROM drift_references WHERE name = ?", (name,))
    connection.execute(
        "INSERT INTO drift_references (name, made_at, note, size, spans, promoted_at) VALUES (?, ?, ?, ?, ?, ?)",
        (name, now, note, len(seqs), msgspec.json.encode(spans).decode(), promoted),
    )
    connection.executemany(
        "INSERT INTO drift_members (reference, seq) VALUES (?, ?)", [(name, seq) for seq in sorted(seqs)]
    )
    return next(each for each in references(connection) if each.name == name)


def promote(connection: sqlite3.Connection, name: str, now: float) -> Reference:
    """Compare windows with this reference from now on.

    Raises:
        NoSuchReference
    """
    (latest,) = connection.execute("SELECT max(promoted_at) FROM drift_references").fetchone()
    # A clock that was set back must not leave the older one in use.
    at = max(now, (latest or 0.0) + 1e-3)
    if not connection.execute("UPDATE drift_references SET promoted_at = ? WHERE name = ?", (at, name)).rowcount:
        raise NoSuchReference(name)
    return next(each for each in references(connection) if each.name == name)


def remove_reference(connection: sqlite3.Connection, name: str) -> None:
    """Remove a reference; the requests stay.

    Raises:
        NoSuchReference
    """
    if not connection.execute("DELETE FROM drift_references WHERE name = ?", (name,)).rowcount:
        raise NoSuchReference(name)


def keep_window(connection: sqlite3.Connection, window: Window) -> Window:
    """Store a window; return it with its id."""
    done = connection.execute(
        "INSERT INTO drift_windows (at, first_seq, last_seq, first_at, last_at, size, reference, alarm, findings) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            window.at,
            window.first_seq,
            window.last_seq,
            window.first_at,
            window.last_at,
            window.size,
            window.reference,
            window.alarm,
            msgspec.json.encode(window.findings).decode(),
        ),
    )
    return replace(window, id=int(done.lastrowid or 0))


def windows(connection: sqlite3.Connection, limit: int) -> list[Window]:
    """Return windows, the newest first."""
    rows = connection.execute("SELECT * FROM drift_windows ORDER BY id DESC LIMIT ?", (limit,))
    return [_window(row) for row in rows]


def window_by_id(connection: sqlite3.Connection, number: int) -> Window | None:
    """Return a window."""
    row = connection.execute("SELECT * FROM drift_windows WHERE id = ?", (number,)).fetchone()
    return _window(row) if row else None


def last_seq(connection: sqlite3.Connection) -> int:
    """Return the `seq` at which the newest window ends; 0 where there is none."""
    (found,) = connection.execute("SELECT max(last_seq) FROM drift_windows").fetchone()
    return int(found or 0)


def forget_windows(connection: sqlite3.Connection, before: float) -> None:
    """Delete windows that ended before a Unix time; the newest stays, for it says where the next one begins."""
    connection.execute(
        "DELETE FROM drift_windows WHERE last_at < ? AND id < (SELECT max(id) FROM drift_windows)", (before,)
    )


def _window(row: sqlite3.Row) -> Window:
    values = {name: row[name] for name in Window.__dataclass_fields__}
    return Window(**{**values, "alarm": bool(row["alarm"]), "findings": tuple(msgspec.json.decode(row["findings"]))})

"""What people say of answers: a score, a comment, labels; the last word of each on each answer counts."""

import sqlite3
from dataclasses import dataclass
from typing import Any

import msgspec

MAX_LABELS = 16


@dataclass(frozen=True)
class Feedback:
    """One caller's word on one answer.

    Args:
        caller: the name of a key; of an imported one, whom it came from.
        score: -1 to 1.
        comment: masked.
        request_id: what it is about, or `trace_id`; of an imported one neither may be known.
        imported: its id where it came from; empty: it was given here.
        user: digest, where it is known without the request.
    """

    caller: str
    score: float
    at: float
    request_id: str = ""
    trace_id: str = ""
    comment: str = ""
    labels: tuple[str, ...] = ()
    source: str = "api"
    imported: str = ""
    user: str = ""
    model: str = ""


def keep(connection: sqlite3.Connection, given: Feedback) -> bool:
    """Store feedback, or replace what the caller has said before; return whether its request is known."""
    request = _request(connection, given)
    # By trace or by request: it is the same answer.
    request_id = request["id"] if request else given.request_id
    trace_id = request["trace_id"] if request else given.trace_id
    subject = f"request:{request_id}" if request_id else f"trace:{trace_id}"
    if not given.imported:
        # Given by the trace before the request was stored: the same word on the same answer.
        connection.execute(
            "DELETE FROM feedback WHERE caller = ? AND subject IN (?, ?) AND subject != ?",
            (given.caller, f"trace:{trace_id}", f"request:{given.request_id}", subject),
        )
    connection.execute(
        """
        INSERT INTO feedback (subject, request_id, trace_id, caller, user, model, score, comment, labels, source, at)
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
        ON CONFLICT (subject, caller) DO UPDATE SET
            request_id = excluded.request_id, trace_id = excluded.trace_id, user = excluded.user,
            model = excluded.model, score = excluded.score, comment = excluded.comment, labels = excluded.labels,
            source = excluded.source, at = excluded.at
        """,
        (
            f"import:{given.imported}" if given.imported else subject,
            request_id,
            trace_id,
            given.caller,
            request["user"] if request else given.user,
            request["model"] if request else given.model,
            given.score,
            given.comment,
            msgspec.json.encode(given.labels).decode(),
            given.source,
            given.at,
        ),
    )
    return request is not None


def listed(
    connection: sqlite3.Connection, *, model: str = "", before: int = 0, limit: int = 100, caller: str | None = None
) -> list[dict[str, Any]]:
    """Return feedback, the newest first.

    Args:
        before: only what has a lower `seq`; 0: from the newest on.
        caller: what this one gave, alone.
    """
    rows = connection.execute(
        "SELECT * FROM feedback WHERE (? = '' OR model = ?) AND (? = 0 OR seq < ?) AND (? IS NULL OR caller = ?) "
        "ORDER BY seq DESC LIMIT ?",
        (model, model, before, before, caller, caller, limit),
    )
    return [document(row) for row in rows]


def by_model(connection: sqlite3.Connection) -> list[dict[str, Any]]:
    """Return how each model is liked; a model that nobody knows is empty."""
    rows = connection.execute(
        "SELECT model, count(*) AS count, avg(score) AS mean_score, sum(score > 0) AS up, sum(score < 0) AS down "
        "FROM feedback GROUP BY model ORDER BY count(*) DESC"
    )
    return [dict(row) for row in rows]


def document(row: sqlite3.Row) -> dict[str, Any]:
    """Return a row for JSON."""
    names = ("seq", "request_id", "trace_id", "caller", "model", "score", "comment", "source", "at")
    return {**{name: row[name] for name in names}, "labels": msgspec.json.decode(row["labels"])}


def _request(connection: sqlite3.Connection, given: Feedback) -> sqlite3.Row | None:
    """Return the request that is meant: of inner ones with the same id or trace, the outer."""
    for column, value in (("id", given.request_id), ("trace_id", given.trace_id)):
        if value:
            found: sqlite3.Row | None = connection.execute(
                f"SELECT id, trace_id, user, model FROM requests WHERE {column} = ? "  # noqa: S608 - our own names
                "ORDER BY hops, seq DESC LIMIT 1",
                (value,),
            ).fetchone()
            if found is not None:
                return found
    return None

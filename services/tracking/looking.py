"""What there is: the last hours at a glance, and one request with what was said of it."""

import sqlite3
from typing import Any

import msgspec

from services.tracking import feedback
from services.tracking.requests import COLUMNS

_QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
# As `services.tracking.writing.failed` has it.
_FAILED = "outcome = 'failed' OR (status >= 400 AND outcome != 'cancelled')"
_FLAGS = ("stream", "billed", "format_asked", "sampled")


def summary(connection: sqlite3.Connection, since: float, key: str | None) -> dict[str, Any]:
    """Return numbers on the requests from outside since a Unix time.

    Args:
        key: of one key alone.
    """
    where, values = "at >= ? AND hops = 0 AND (? IS NULL OR key = ?)", (since, key, key)
    whole = connection.execute(
        f"SELECT count(*) AS requests, total({_FAILED}) AS failed, total(sampled) AS sampled "  # noqa: S608
        f"FROM requests WHERE {where}",
        values,
    ).fetchone()
    tokens = connection.execute(
        "SELECT total(prompt_tokens) AS prompt, total(completion_tokens) AS completion FROM requests "
        "WHERE at >= ? AND billed = 1 AND (? IS NULL OR key = ?)",
        values,
    ).fetchone()
    outcomes = connection.execute(
        f"SELECT outcome, count(*) FROM requests WHERE {where} GROUP BY outcome ORDER BY 2 DESC",  # noqa: S608
        values,
    )
    models = connection.execute(
        f"SELECT model, count(*) AS requests, total({_FAILED}) AS failed, avg(seconds) AS mean_seconds "  # noqa: S608
        f"FROM requests WHERE {where} GROUP BY model ORDER BY 2 DESC LIMIT 50",
        values,
    )
    return {
        "requests": whole["requests"],
        "failed": int(whole["failed"]),
        "sampled": int(whole["sampled"]),
        "prompt_tokens": int(tokens["prompt"]),
        "completion_tokens": int(tokens["completion"]),
        "outcomes": {row[0]: row[1] for row in outcomes},
        "models": [{**dict(row), "failed": int(row["failed"])} for row in models],
        "seconds": _quantiles(connection, "seconds", where, values),
        "first_token_s": _quantiles(connection, "first_token_s", where, values),
    }


def find(connection: sqlite3.Connection, name: str, key: str | None) -> dict[str, Any] | None:
    """Return what is kept under a request's id or its trace's, the outer request first; None where nothing is."""
    rows = connection.execute(
        "SELECT requests.*, texts.prompt, texts.answer FROM requests LEFT JOIN texts ON texts.seq = requests.seq "
        "WHERE (id = ? OR (trace_id = ? AND trace_id != '')) AND (? IS NULL OR key = ?) "
        "ORDER BY hops, requests.seq DESC LIMIT 50",
        (name, name, key, key),
    ).fetchall()
    if not rows:
        return None
    marks = ", ".join("?" * len(rows))
    said = connection.execute(
        f"SELECT * FROM feedback WHERE request_id IN ({marks}) OR (trace_id = ? AND trace_id != '') "  # noqa: S608
        "ORDER BY seq DESC LIMIT 100",
        (*(row["id"] for row in rows), name),
    )
    return {
        "id": name,
        "requests": [_document(row) for row in rows],
        "feedback": [feedback.document(row) for row in said],
    }


def _document(row: sqlite3.Row) -> dict[str, Any]:
    document = {name: bool(row[name]) if name in _FLAGS else row[name] for name in COLUMNS}
    return {
        **document,
        "seq": row["seq"],
        "features": msgspec.json.decode(row["features"]),
        "prompt": row["prompt"],
        "answer": row["answer"],
    }


def _quantiles(connection: sqlite3.Connection, column: str, where: str, values: tuple[Any, ...]) -> dict[str, Any]:
    chosen = f"FROM requests WHERE {where} AND {column} IS NOT NULL AND outcome = 'ok' AND status < 400"
    (count,) = connection.execute(f"SELECT count(*) {chosen}", values).fetchone()
    found: dict[str, Any] = {}
    for name, quantile in _QUANTILES.items():
        row = connection.execute(
            f"SELECT {column} {chosen} ORDER BY {column} LIMIT 1 OFFSET ?", (*values, int(count * quantile))
        ).fetchone()
        found[name] = row[0] if row else None
    return found

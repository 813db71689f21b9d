"""What goes: by a user, by a key, by age. Sums of cost stay."""

import sqlite3
from dataclasses import asdict, dataclass

from services.tracking.writing import DELETED_KEY

_PORTION = 2000
"""Rows that are deleted in one transaction by age: what is to be stored need not wait for more."""

_MOVE_SUMS = """
    INSERT INTO costs SELECT day, ?, model, requests, inner_requests, failed, prompt_tokens, completion_tokens,
                             estimated, seconds, joules FROM costs WHERE key = ?
    ON CONFLICT (day, key, model) DO UPDATE SET
        requests = requests + excluded.requests, inner_requests = inner_requests + excluded.inner_requests,
        failed = failed + excluded.failed, prompt_tokens = prompt_tokens + excluded.prompt_tokens,
        completion_tokens = completion_tokens + excluded.completion_tokens,
        estimated = estimated + excluded.estimated, seconds = seconds + excluded.seconds,
        joules = joules + excluded.joules
"""


@dataclass(frozen=True)
class Erased:
    """How many rows went. Texts and vectors go with their requests and are not counted apart."""

    requests: int
    feedback: int
    seqs: frozenset[int] = frozenset()

    def document(self) -> dict[str, int]:
        """Return it for JSON."""
        numbers = asdict(self)
        del numbers["seqs"]
        return numbers


def erase_user(connection: sqlite3.Connection, user: str, now: float, key: str | None = None) -> Erased:
    """Delete a user's requests and the feedback on them; what is still on its way is not stored either.

    Args:
        user: the digest.
        now: Unix time; later requests of the same user are stored again.
        key: only what was asked with this key.
    """
    where, values = "user = ? AND (? IS NULL OR key = ?)", (user, key, key)
    seqs, feedback = _erase(connection, where, values)
    # What came before its request, or by import, knows its user alone.
    if key is None:
        feedback += connection.execute("DELETE FROM feedback WHERE user = ?", (user,)).rowcount
    name = user if key is None else f"{user}/{key}"
    _forget(connection, "user", name, now)
    return Erased(len(seqs), feedback, frozenset(seqs))


def erase_key(connection: sqlite3.Connection, key: str, now: float, *, keeps_sums: bool = False) -> Erased:
    """Delete a key's requests, the feedback on them and the feedback that it gave; its sums become nobody's.

    Args:
        keeps_sums: they stay under its name: who may not see to the accounts does not change them.
    """
    seqs, feedback = _erase(connection, "key = ?", (key,))
    feedback += connection.execute("DELETE FROM feedback WHERE caller = ?", (key,)).rowcount
    if not keeps_sums:
        connection.execute(_MOVE_SUMS, (DELETED_KEY, key))
        connection.execute("DELETE FROM costs WHERE key = ?", (key,))
    _forget(connection, "records" if keeps_sums else "key", key, now)
    return Erased(len(seqs), feedback, frozenset(seqs))


def erase_old(connection: sqlite3.Connection, requests_before: float, texts_before: float) -> tuple[int, int]:
    """Delete a portion of what is too old; return rows and texts that went, 0 and 0 where nothing is left to do."""
    rows = 0
    for table in ("requests", "feedback"):
        rows += connection.execute(
            f"DELETE FROM {table} WHERE seq IN (SELECT seq FROM {table} WHERE at < ? LIMIT ?)",  # noqa: S608
            (requests_before, _PORTION),
        ).rowcount
    texts = connection.execute(
        "DELETE FROM texts WHERE seq IN (SELECT seq FROM texts WHERE at < ? LIMIT ?)", (texts_before, _PORTION)
    ).rowcount
    connection.execute("DELETE FROM forgotten WHERE at < ?", (requests_before,))
    return rows, texts


def _erase(connection: sqlite3.Connection, where: str, values: tuple[str | None, ...]) -> tuple[list[int], int]:
    chosen = f"SELECT id FROM requests WHERE {where}"  # noqa: S608 - our own text
    feedback = connection.execute(
        f"DELETE FROM feedback WHERE request_id != '' AND request_id IN ({chosen})",  # noqa: S608
        values,
    ).rowcount
    gone = connection.execute(f"DELETE FROM requests WHERE {where} RETURNING seq", values)  # noqa: S608
    return [seq for (seq,) in gone], feedback


def _forget(connection: sqlite3.Connection, kind: str, name: str, now: float) -> None:
    connection.execute("INSERT OR REPLACE INTO forgotten (kind, name, at) VALUES (?, ?, ?)", (kind, name, now))

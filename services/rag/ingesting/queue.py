"""The queue in the registry: what is claimed, and what is written down when its work has ended."""

import sqlite3
import time
from collections.abc import Collection as Container
from collections.abc import Sequence
from dataclasses import dataclass

from services.rag.ingesting.jobs import settle
from services.rag.ingesting.rows import DocumentRow, document_row

Key = tuple[str, str]
"""A collection's id and a document's id."""


@dataclass(frozen=True)
class Indexed:
    """A document of which every chunk of the wanted version is in the store, and none of another."""

    document: DocumentRow
    chunks: int
    tokens: int
    characters: int
    title: str
    media_type: str


def resume(connection: sqlite3.Connection) -> int:
    """Put back what a process that ended had begun; return how much that was."""
    return connection.execute("UPDATE documents SET state = 'queued' WHERE state = 'working'").rowcount


def claim(connection: sqlite3.Connection, limit: int, busy: Container[Key]) -> list[DocumentRow]:
    """Take documents that wait, the oldest first, leaving out those on which something still works.

    A claimed row comes as it was: `dirty` says whether an earlier work may have left points.
    """
    rows = connection.execute(
        """SELECT documents.* FROM documents JOIN collections ON collections.id = documents.collection
        WHERE documents.state = 'queued' AND collections.state = 'live' ORDER BY documents.seq LIMIT ?""",
        (limit + len(busy),),
    ).fetchall()
    found = [document_row(row) for row in rows if (row["collection"], row["id"]) not in busy][:limit]
    for row in found:
        connection.execute(
            "UPDATE documents SET state = 'working', dirty = 1 WHERE collection = ? AND id = ?",
            (row.collection, row.id),
        )
    return found


def to_remove(connection: sqlite3.Connection, limit: int, busy: Container[Key]) -> list[DocumentRow]:
    """Return documents that are to go, or whose unfinished points are: `deleting` and `cancelling`."""
    rows = connection.execute(
        """SELECT documents.* FROM documents JOIN collections ON collections.id = documents.collection
        WHERE documents.state IN ('deleting', 'cancelling') AND collections.state != 'deleting'
        ORDER BY documents.seq LIMIT ?""",
        (limit + len(busy),),
    ).fetchall()
    return [document_row(row) for row in rows if (row["collection"], row["id"]) not in busy][:limit]


def waiting(connection: sqlite3.Connection) -> int:
    """Return how many documents wait."""
    return int(connection.execute("SELECT COUNT(*) FROM documents WHERE state = 'queued'").fetchone()[0])


def finish(connection: sqlite3.Connection, done: Sequence[Indexed]) -> list[Key]:
    """Write down documents that are searchable now, and that their collections have changed.

    Returns those for which this still was wanted; others have a newer order, which clears away what was written.
    """
    finished: list[Key] = []
    for each in done:
        row = each.document
        changed = connection.execute(
            """UPDATE documents SET state = 'ready', live_version = version, dirty = 0, chunks = ?, tokens = ?,
                characters = ?, title = ?, media_type = ?, error_code = '', error = '', updated = ?
            WHERE collection = ? AND id = ? AND generation = ? AND state = 'working'""",
            (
                each.chunks,
                each.tokens,
                each.characters,
                each.title,
                each.media_type,
                int(time.time()),
                row.collection,
                row.id,
                row.generation,
            ),
        )
        if changed.rowcount:
            finished.append((row.collection, row.id))
            settle(connection, row.collection, row.id, "completed", chunks=each.chunks, characters=each.characters)
    revise(connection, {collection for collection, _ in finished})
    return finished


def put_back(connection: sqlite3.Connection, rows: Sequence[DocumentRow]) -> None:
    """Queue again what was let go of although no newer order stands: it was claimed just after that order."""
    for row in rows:
        connection.execute(
            """UPDATE documents SET state = 'queued'
            WHERE collection = ? AND id = ? AND generation = ? AND state = 'working'""",
            (row.collection, row.id, row.generation),
        )


def fail(connection: sqlite3.Connection, row: DocumentRow, code: str, message: str) -> bool:
    """Write down that a document can't be ingested; its points of other versions than the live one are gone."""
    if row.live_version:
        message = f"{message}; what was indexed of it before stays searchable"
    changed = connection.execute(
        """UPDATE documents SET state = 'failed', dirty = 0, error_code = ?, error = ?, updated = ?
        WHERE collection = ? AND id = ? AND generation = ? AND state = 'working'""",
        (code, message, int(time.time()), row.collection, row.id, row.generation),
    )
    if changed.rowcount:
        settle(connection, row.collection, row.id, "failed", error=(code, message))
    return bool(changed.rowcount)


def removed(connection: sqlite3.Connection, rows: Sequence[DocumentRow]) -> list[str]:
    """Write down that points are gone: rows that were to go go too. Return the contents that they named."""
    released = []
    for row in rows:
        same = (row.collection, row.id, row.generation)
        if row.state == "cancelling":
            connection.execute(
                """UPDATE documents SET state = 'cancelled', dirty = 0
                WHERE collection = ? AND id = ? AND generation = ? AND state = 'cancelling'""",
                same,
            )
            continue
        gone = connection.execute(
            "DELETE FROM documents WHERE collection = ? AND id = ? AND generation = ? AND state = 'deleting'", same
        )
        if gone.rowcount:
            released.append(row.hash)
        else:
            # It was ordered anew meanwhile: nothing of it is in the store.
            connection.execute(
                "UPDATE documents SET live_version = '', chunks = 0, tokens = 0 WHERE collection = ? AND id = ?",
                (row.collection, row.id),
            )
    revise(connection, {row.collection for row in rows if row.state == "deleting"})
    return released


def revise(connection: sqlite3.Connection, collections: Container[str]) -> None:
    """Note that what these collections hold has changed."""
    for collection in collections:
        connection.execute(
            "UPDATE collections SET revision = revision + 1, last_active = ? WHERE id = ?",
            (int(time.time()), collection),
        )


def forget_points(connection: sqlite3.Connection, collection: str) -> int:
    """Order every document of a collection whose points were lost anew; return how many these are."""
    lost = connection.execute(
        """UPDATE documents SET live_version = '', chunks = 0, tokens = 0, generation = generation + 1,
            state = CASE WHEN state IN ('ready', 'working') THEN 'queued' ELSE state END
        WHERE collection = ? AND state != 'deleting'""",
        (collection,),
    )
    return lost.rowcount

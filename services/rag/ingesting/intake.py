"""What comes in: files become rows that wait for their ingest, or that have nothing to wait for."""

import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.rag.ingesting.content import ContentStore
from services.rag.ingesting.jobs import add_item, settle
from services.rag.ingesting.rows import DocumentRow, chunk_text, document_row, version_of
from services.rag.library import ChunkOptions, Collection
from services.rag.registry import insert, new_id


@dataclass(frozen=True)
class Received:
    """One file at the door.

    Args:
        hash: SHA-256 of its content.
        uploaded: where its content lies; None where it is in the content store already, or was refused.
        file: id of the file that it is made of; empty where it came by its name.
        chunking: its own way of being cut; None: the collection's.
        error: code and sentence, where it was refused.
    """

    name: str
    hash: str = ""
    bytes: int = 0
    uploaded: Path | None = None
    file: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    chunking: ChunkOptions | None = None
    error: tuple[str, str] | None = None

    @property
    def key(self) -> str:
        """What makes it one document beside collection and tenant."""
        return self.file or self.name


@dataclass(frozen=True)
class Intake:
    """Where files come in: a collection, a tenant, a job.

    Args:
        replace: new content replaces a document of the same name; else what is there stays.
    """

    content: ContentStore
    collection: Collection
    tenant: str
    job: str
    replace: bool = True


@dataclass
class Accepted:
    """What has come of a number of files.

    Args:
        discarded: documents whose ingest under way is void now.
        released: contents that may no longer be named by any row.
    """

    documents: list[str] = field(default_factory=list)
    unchanged: int = 0
    discarded: list[str] = field(default_factory=list)
    released: list[str] = field(default_factory=list)


def accept(connection: sqlite3.Connection, intake: Intake, received: Sequence[Received]) -> Accepted:
    """Write down files in one transaction; each is an item of the job."""
    accepted = Accepted()
    for file in received:
        if file.error is not None:
            add_item(connection, intake.job, intake.collection.id, file.name, file.bytes, "failed", error=file.error)
            continue
        if file.uploaded is not None:
            intake.content.adopt(file.uploaded, file.hash)
        found = connection.execute(
            "SELECT * FROM documents WHERE collection = ? AND tenant = ? AND key = ?",
            (intake.collection.id, intake.tenant, file.key),
        ).fetchone()
        state, document = _place(connection, intake, file, document_row(found) if found else None, accepted)
        add_item(connection, intake.job, intake.collection.id, file.name, file.bytes, state, document=document)
        accepted.unchanged += state == "unchanged"
        accepted.documents.append(document)
    return accepted


def _place(
    connection: sqlite3.Connection, intake: Intake, file: Received, there: DocumentRow | None, accepted: Accepted
) -> tuple[str, str]:
    """Return the state of the job's item, and the document's id."""
    if there is None:
        return "in_progress", _insert(connection, intake, file)
    version = version_of(intake.collection, there.id, file.hash, file.chunking, file.attributes)
    on_its_way_out = there.state in ("deleting", "cancelling", "cancelled")
    if not intake.replace and not on_its_way_out:
        accepted.released.append(file.hash)
        return "unchanged", there.id
    if there.version == version and there.state in ("queued", "working"):
        return "in_progress", there.id
    if there.version == version and there.state == "ready":
        return "unchanged", there.id
    accepted.discarded.append(there.id)
    accepted.released.append(there.hash)
    reorder(connection, there, file, version)
    return "in_progress", there.id


def _insert(connection: sqlite3.Connection, intake: Intake, file: Received) -> str:
    now = int(time.time())
    document = file.file or new_id("file-")
    columns = {
        "collection": intake.collection.id,
        "id": document,
        "tenant": intake.tenant,
        "key": file.key,
        "name": file.name,
        "file": file.file,
        "hash": file.hash,
        "bytes": file.bytes,
        "attributes": json.dumps(dict(file.attributes)),
        "chunking": chunk_text(file.chunking),
        "version": version_of(intake.collection, document, file.hash, file.chunking, file.attributes),
        "state": "queued",
        "created": now,
        "updated": now,
    }
    insert(connection, "documents", columns)
    return document


def reorder(connection: sqlite3.Connection, there: DocumentRow, file: Received, version: str) -> None:
    """Order another version of a document; what is under way for it is void."""
    connection.execute(
        """UPDATE documents SET name = ?, hash = ?, bytes = ?, attributes = ?, chunking = ?, version = ?,
            state = 'queued', generation = generation + 1, error_code = '', error = '', updated = ?
        WHERE collection = ? AND id = ?""",
        (
            file.name,
            file.hash,
            file.bytes,
            json.dumps(dict(file.attributes)),
            chunk_text(file.chunking),
            version,
            int(time.time()),
            there.collection,
            there.id,
        ),
    )


def order_removal(connection: sqlite3.Connection, collection: str, documents: Sequence[str]) -> None:
    """Order that documents go: they are gone for every list at once, and from the store when their turn comes."""
    for document in documents:
        connection.execute(
            """UPDATE documents SET state = 'deleting', generation = generation + 1, updated = ?
            WHERE collection = ? AND id = ? AND state != 'deleting'""",
            (int(time.time()), collection, document),
        )
        settle(connection, collection, document, "cancelled", error=("deleted", "it was deleted"))


def order_cancel(connection: sqlite3.Connection, collection: str, documents: Sequence[str]) -> list[str]:
    """Order that ingests that have not ended do not go on; return those that this changes."""
    changed = []
    for document in documents:
        found = connection.execute(
            """UPDATE documents SET generation = generation + 1, updated = ?,
                state = CASE WHEN dirty THEN 'cancelling' ELSE 'cancelled' END
            WHERE collection = ? AND id = ? AND state IN ('queued', 'working')""",
            (int(time.time()), collection, document),
        )
        if found.rowcount:
            changed.append(document)
            settle(connection, collection, document, "cancelled", error=("cancelled", "its ingest was cancelled"))
    return changed


def names_missing(connection: sqlite3.Connection, intake: Intake, prefix: str) -> list[str]:
    """Return the documents under a prefix that this job has not named, by id."""
    rows = connection.execute(
        """SELECT id FROM documents WHERE collection = ? AND tenant = ? AND state != 'deleting' AND file = ''
            AND substr(name, 1, length(?)) = ?
            AND name NOT IN (SELECT name FROM job_items WHERE job = ?)""",
        (intake.collection.id, intake.tenant, prefix, prefix, intake.job),
    )
    return [row["id"] for row in rows]

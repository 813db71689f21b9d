"""What the routes order: files in, documents out, jobs to look at. The pipeline does it."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from services.kit.errors import InvalidRequest, NotFound
from services.rag.errors import VectorStoreUnavailable
from services.rag.ingesting import intake as taking
from services.rag.ingesting import jobs as job_rows
from services.rag.ingesting.changes import heard
from services.rag.ingesting.content import ContentStore
from services.rag.ingesting.database import Database
from services.rag.ingesting.intake import Accepted, Intake, Received
from services.rag.ingesting.jobs import Job
from services.rag.ingesting.paging import Cursor, Page, read_page
from services.rag.ingesting.pipeline import Pipeline
from services.rag.ingesting.rows import DocumentRow, document_row, tenant_of, version_of
from services.rag.library import Collection
from services.rag.ports import Caller
from services.rag.registry import Record

T = TypeVar("T")
_REMOVAL_S = 10.0
_STATUSES = {
    "in_progress": "state IN ('queued', 'working')",
    "completed": "state = 'ready'",
    "failed": "state = 'failed'",
    "cancelled": "state IN ('cancelling', 'cancelled')",
}


class Desk:
    """Takes orders. What it answers for is written down before it answers."""

    def __init__(self, database: Database, content: ContentStore, pipeline: Pipeline) -> None:
        self.content = content
        self.pipeline = pipeline
        self._database = database

    # --- files in -----------------------------------------------------------------------------------------------

    async def start_job(self, collection: Collection, caller: Caller, kind: str, prefix: str = "job_") -> str:
        """Write down a job; return its id."""
        tenant = tenant_of(collection, caller.name)
        return await self._database.write(lambda each: job_rows.start_job(each, collection.id, tenant, kind, prefix))

    async def accept(self, intake: Intake, received: Sequence[Received]) -> Accepted:
        """Take files; when this returns they are safe, and their ingest goes on whatever happens."""
        accepted = await self._database.write(lambda each: taking.accept(each, intake, received))
        await self.pipeline.release(accepted.released)
        self.pipeline.discard(intake.collection.id, accepted.discarded)
        return accepted

    async def close_job(self, intake: Intake, *, sync: bool = False, prefix: str = "") -> None:
        """Note that a job gets no more files.

        Args:
            sync: remove the documents under `prefix` that the job has not named.
        """

        def work(connection: sqlite3.Connection) -> list[str]:
            gone = taking.names_missing(connection, intake, prefix) if sync else []
            taking.order_removal(connection, intake.collection.id, gone)
            job_rows.close_job(connection, intake.job, len(gone))
            return gone

        gone = await self._database.write(work)
        self.pipeline.discard(intake.collection.id, gone)

    # --- jobs ---------------------------------------------------------------------------------------------------

    async def job(self, collection: Collection, caller: Caller, job: str) -> Job:
        """Return a job.

        Raises:
            NotFound
        """
        tenant = tenant_of(collection, caller.name)
        return await self._database.read(lambda each: job_rows.find_job(each, collection.id, job, tenant))

    async def jobs(self, collection: Collection, caller: Caller, limit: int = 20) -> list[Job]:
        """Return the newest jobs of a collection."""
        tenant = tenant_of(collection, caller.name)
        return await self._database.read(lambda each: job_rows.list_jobs(each, collection.id, tenant, limit))

    async def chunks_under_way(self, job: Job) -> int:
        """Return how many chunks of the job's unfinished documents are in the store."""
        documents = await self._database.read(lambda each: job_rows.open_documents(each, job.id))
        return self.pipeline.written(job.collection, documents)

    async def cancel_job(self, collection: Collection, caller: Caller, job: str) -> Job:
        """End a job: what of it is not yet searchable will not be."""
        found = await self.job(collection, caller, job)

        def work(connection: sqlite3.Connection) -> list[str]:
            if found.finished:
                return []
            connection.execute("UPDATE jobs SET cancelled = 1 WHERE id = ?", (job,))
            stopped = taking.order_cancel(connection, collection.id, job_rows.open_documents(connection, job))
            job_rows.close_job(connection, job)
            return stopped

        self.pipeline.discard(collection.id, await self._database.write(work))
        return await self.job(collection, caller, job)

    # --- documents ----------------------------------------------------------------------------------------------

    async def documents(
        self,
        collection: Collection,
        caller: Caller,
        cursor: Cursor,
        *,
        status: str = "",
        job: str = "",
        prefix: str = "",
    ) -> Page[DocumentRow]:
        """Return a page of a collection's documents, as far as the caller sees them."""
        where = ["collection = ?", "tenant = ?", "state != 'deleting'"]
        values: list[object] = [collection.id, tenant_of(collection, caller.name)]
        if status:
            where.append(_STATUSES[status])
        if job:
            where.append("id IN (SELECT document FROM job_items WHERE job = ?)")
            values.append(job)
        if prefix:
            where.append("substr(name, 1, length(?)) = ?")
            values += [prefix, prefix]

        def work(connection: sqlite3.Connection) -> Page[DocumentRow]:
            page = read_page(connection, "documents", " AND ".join(where), values, cursor)
            return Page([document_row(row) for row in page.data], page.has_more)

        return await self._database.read(work)

    async def document(self, collection: Collection, caller: Caller, name: str) -> DocumentRow:
        """Return a document by its id or name.

        Raises:
            NotFound
        """
        tenant = tenant_of(collection, caller.name)

        def work(connection: sqlite3.Connection) -> DocumentRow:
            row = connection.execute(
                """SELECT * FROM documents WHERE collection = ? AND tenant = ? AND (id = ? OR name = ?)
                    AND state != 'deleting' ORDER BY id = ? DESC, seq DESC""",
                (collection.id, tenant, name, name, name),
            ).fetchone()
            if row is None:
                raise NotFound(
                    f"there is no document {name!r} in {collection.name}; "
                    f"`sparkstack rag show {collection.name}` lists them"
                )
            return document_row(row)

        return await self._database.read(work)

    async def change_attributes(
        self, collection: Collection, caller: Caller, document: DocumentRow, attributes: Mapping[str, Any]
    ) -> DocumentRow:
        """Give a document other attributes; its points get them by an ingest of the same content."""
        version = version_of(collection, document.id, document.hash, document.chunking, attributes)
        file = Received(
            document.name,
            document.hash,
            document.bytes,
            file=document.file,
            attributes=attributes,
            chunking=document.chunking,
        )
        if version != document.version:
            await self._database.write(lambda each: taking.reorder(each, document, file, version))
            self.pipeline.discard(collection.id, [document.id])
        return await self.document(collection, caller, document.id)

    async def remove(self, collection: Collection, documents: Sequence[str]) -> None:
        """Remove documents with all that was made of them; nothing finds them when this returns.

        Raises:
            VectorStoreUnavailable: the store is down. They are on no list any more, and go when it is back.
        """
        await self._database.write(lambda each: taking.order_removal(each, collection.id, documents))
        await self.remove_from(collection.id, documents)

    async def remove_from(self, collection: str, documents: Sequence[str]) -> None:
        """Wait until documents whose removal is ordered are gone.

        Raises:
            VectorStoreUnavailable
        """
        self.pipeline.discard(collection, documents)
        places = ", ".join("?" * len(documents))

        async def gone() -> bool:
            left = await self._database.read(
                lambda each: each.execute(
                    f"SELECT 1 FROM documents WHERE collection = ? AND state = 'deleting' AND id IN ({places})",  # noqa: S608
                    [collection, *documents],
                ).fetchone()
            )
            return left is None

        await self._until(gone, "the documents")

    async def recut(self, record: Record, caller: Caller) -> str | None:
        """Order every document anew whose version is another one now; return the job, None where there is nothing."""
        collection = record.collection
        tenant = tenant_of(collection, caller.name)

        def work(connection: sqlite3.Connection) -> tuple[str | None, list[str]]:
            rows = connection.execute(
                "SELECT * FROM documents WHERE collection = ? AND state IN ('queued', 'working', 'ready', 'failed')",
                (collection.id,),
            ).fetchall()
            changed: list[str] = []
            job: str | None = None
            for row in map(document_row, rows):
                version = version_of(collection, row.id, row.hash, row.chunking, row.attributes)
                if version == row.version:
                    continue
                job = job or job_rows.start_job(connection, collection.id, tenant, "recut", "job_")
                same = Received(row.name, row.hash, row.bytes, None, row.file, row.attributes, row.chunking)
                taking.reorder(connection, row, same, version)
                job_rows.add_item(connection, job, collection.id, row.name, row.bytes, "in_progress", document=row.id)
                changed.append(row.id)
            if job:
                job_rows.close_job(connection, job)
            return job, changed

        job, changed = await self._database.write(work)
        self.pipeline.discard(collection.id, changed)
        return job

    async def _until(self, done: Callable[[], Awaitable[bool]], what: str) -> None:
        try:
            async with asyncio.timeout(_REMOVAL_S):
                while True:
                    bell = self.pipeline.changes.listen()
                    if await done():
                        return
                    await heard(bell, 1.0)
        except TimeoutError:
            reason = self.pipeline.patience.waiting_for or "other work is in front of it"
            raise VectorStoreUnavailable(
                f"{what} are marked as removed, and go from the vector store as soon as it does the work: {reason}",
                retry_after_s=5,
            ) from None


def check_live(record: Record) -> None:
    """Refuse what an expired collection can't do.

    Raises:
        InvalidRequest
    """
    if record.state == "expired":
        raise InvalidRequest(
            f"the vector store {record.title!r} has expired (after {record.expires_days} days without use); "
            "make another one"
        )

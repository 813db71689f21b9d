"""The files of OpenAI's vector stores, one by one and in batches. What the openai client polls is here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from services.kit.errors import InvalidRequest
from services.rag.attributes import check_attributes
from services.rag.collection_routes import within
from services.rag.files_routes import list_document
from services.rag.identity import CallerOf
from services.rag.ingesting.desk import check_live
from services.rag.ingesting.files import StoredFile
from services.rag.ingesting.intake import Intake, Received
from services.rag.ingesting.jobs import Job
from services.rag.ingesting.paging import Cursor
from services.rag.ingesting.rows import DocumentRow, tenant_of
from services.rag.library import ChunkOptions, Collection
from services.rag.ports import Caller, EmbeddingModel
from services.rag.registry import Record
from services.rag.service import Service, ServiceOf
from services.rag.settings import RagSettings
from services.rag.vectors.filters import eq

router = APIRouter(prefix="/v1/vector_stores/{store_id}", tags=["vector stores"])
_POLL_AFTER = {"openai-poll-after-ms": "250"}
"""What the openai client waits between two looks, where it isn't told otherwise."""
_Status = Literal["", "in_progress", "completed", "failed", "cancelled"]
# OpenAI knows three codes; ours say more, and stand in the message's place of a job.
_INVALID = frozenset({"damaged", "encrypted", "empty", "scanned", "too_large", "refused", "bad_name", "unsafe"})


@dataclass(frozen=True)
class FileOrder:
    """A file that is to be added, with its attributes and its own way of being cut."""

    file: StoredFile
    attributes: dict[str, Any]
    chunking: ChunkOptions | None


class FileBody(BaseModel):
    """A file to add."""

    file_id: str
    attributes: dict[str, Any] | None = None
    chunking_strategy: dict[str, Any] | None = None


class AttributesBody(BaseModel):
    """A file's attributes, all of them."""

    attributes: dict[str, Any] | None


class BatchBody(BaseModel):
    """Files to add: `file_ids`, all in the same way, or `files`, each in its own."""

    file_ids: list[str] = Field(default_factory=list, max_length=2000)
    files: list[FileBody] = Field(default_factory=list, max_length=2000)
    attributes: dict[str, Any] | None = None
    chunking_strategy: dict[str, Any] | None = None


# --- files ----------------------------------------------------------------------------------------------------------


@router.post("/files", summary="Add a file to a vector store")
async def create_store_file(
    store_id: str, body: FileBody, service: ServiceOf, caller: CallerOf, response: Response
) -> dict[str, Any]:
    """Its ingest goes on by itself; poll the file for its status."""
    record = await _live(service, store_id)
    order = await _order(service, caller, body)
    await attach_files(service, record, caller, [order], "upload", "job_")
    response.headers.update(_POLL_AFTER)
    return await _file_document(service, record.collection, caller, order.file.id)


@router.get("/files", summary="List a vector store's files")
async def list_store_files(
    store_id: str,
    service: ServiceOf,
    caller: CallerOf,
    after: str = "",
    before: str = "",
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
    filter: _Status = "",  # noqa: A002 - OpenAI's name
) -> dict[str, Any]:
    """In pages; documents that were uploaded to the collection by their names are files here, too."""
    collection = await service.registry.collection(store_id)
    cursor = Cursor(limit, order, after, before)
    page = await service.desk.documents(collection, caller, cursor, status=filter)
    return list_document(page, [store_file_document(collection, row) for row in page.data])


@router.get("/files/{file_id}", summary="Show a file of a vector store")
async def retrieve_store_file(
    store_id: str, file_id: str, service: ServiceOf, caller: CallerOf, response: Response
) -> dict[str, Any]:
    """`last_error` says why it failed."""
    collection = await service.registry.collection(store_id)
    response.headers.update(_POLL_AFTER)
    return await _file_document(service, collection, caller, file_id)


@router.post("/files/{file_id}", summary="Change a file's attributes")
async def update_store_file(
    store_id: str, file_id: str, body: AttributesBody, service: ServiceOf, caller: CallerOf
) -> dict[str, Any]:
    """Searches filter by the new ones when its status is `completed` again."""
    collection = (await _live(service, store_id)).collection
    row = await service.desk.document(collection, caller, file_id)
    attributes = check_attributes(body.attributes, "attributes")
    return store_file_document(collection, await service.desk.change_attributes(collection, caller, row, attributes))


@router.delete("/files/{file_id}", summary="Take a file out of a vector store")
async def delete_store_file(store_id: str, file_id: str, service: ServiceOf, caller: CallerOf) -> dict[str, Any]:
    """The file of `/v1/files` stays."""
    collection = await service.registry.collection(store_id)
    row = await service.desk.document(collection, caller, file_id)
    await service.desk.remove(collection, [row.id])
    return {"id": row.id, "object": "vector_store.file.deleted", "deleted": True}


@router.get("/files/{file_id}/content", summary="Get a file's text")
async def store_file_content(store_id: str, file_id: str, service: ServiceOf, caller: CallerOf) -> dict[str, Any]:
    """As it is indexed: the passages in their order; what two of them share is in both."""
    collection = await service.registry.collection(store_id)
    row = await service.desk.document(collection, caller, file_id)
    hits = await service.store.fetch(collection.id, eq("document_id", row.id), limit=max(1, row.chunks))
    hits.sort(key=lambda hit: int(hit.payload["index"]))
    data = [{"type": "text", "text": hit.payload["text"]} for hit in hits if hit.payload["version"] == row.live_version]
    return {
        "object": "vector_store.file_content.page",
        "file_id": row.id,
        "filename": row.name,
        "attributes": dict(row.attributes),
        "data": data,
        "content": data,
        "has_more": False,
        "next_page": None,
    }


# --- batches --------------------------------------------------------------------------------------------------------


@router.post("/file_batches", summary="Add files to a vector store")
async def create_batch(
    store_id: str, body: BatchBody, service: ServiceOf, caller: CallerOf, response: Response
) -> dict[str, Any]:
    """One job for all of them."""
    record = await _live(service, store_id)
    if bool(body.file_ids) == bool(body.files):
        raise InvalidRequest("send either file_ids or files, with at least one", param="file_ids")
    bodies = body.files or [
        FileBody(file_id=each, attributes=body.attributes, chunking_strategy=body.chunking_strategy)
        for each in body.file_ids
    ]
    orders = [await _order(service, caller, each) for each in bodies]
    job = await attach_files(service, record, caller, orders, "batch", "vsfb_")
    response.headers.update(_POLL_AFTER)
    return batch_document(record.collection, await service.desk.job(record.collection, caller, job))


@router.get("/file_batches/{batch_id}", summary="Show a batch")
async def retrieve_batch(
    store_id: str, batch_id: str, service: ServiceOf, caller: CallerOf, response: Response
) -> dict[str, Any]:
    """`file_counts` says how far it is."""
    collection = await service.registry.collection(store_id)
    response.headers.update(_POLL_AFTER)
    return batch_document(collection, await service.desk.job(collection, caller, batch_id))


@router.post("/file_batches/{batch_id}/cancel", summary="Cancel a batch")
async def cancel_batch(store_id: str, batch_id: str, service: ServiceOf, caller: CallerOf) -> dict[str, Any]:
    """What is searchable already stays."""
    collection = await service.registry.collection(store_id)
    return batch_document(collection, await service.desk.cancel_job(collection, caller, batch_id))


@router.get("/file_batches/{batch_id}/files", summary="List a batch's files")
async def list_batch_files(
    store_id: str,
    batch_id: str,
    service: ServiceOf,
    caller: CallerOf,
    after: str = "",
    before: str = "",
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
    filter: _Status = "",  # noqa: A002 - OpenAI's name
) -> dict[str, Any]:
    """In pages, as those of the store."""
    collection = await service.registry.collection(store_id)
    await service.desk.job(collection, caller, batch_id)
    cursor = Cursor(limit, order, after, before)
    page = await service.desk.documents(collection, caller, cursor, status=filter, job=batch_id)
    return list_document(page, [store_file_document(collection, row) for row in page.data])


# --- forms ----------------------------------------------------------------------------------------------------------


async def attach_files(
    service: Service, record: Record, caller: Caller, orders: Sequence[FileOrder], kind: str, prefix: str
) -> str:
    """Add files to a collection; return the job."""
    collection = record.collection
    job = await service.desk.start_job(collection, caller, kind, prefix)
    intake = Intake(service.content, collection, tenant_of(collection, caller.name), job)
    received = [
        Received(
            each.file.filename,
            each.file.hash,
            each.file.bytes,
            file=each.file.id,
            attributes=each.attributes,
            chunking=each.chunking,
        )
        for each in orders
    ]
    await service.desk.accept(intake, received)
    await service.desk.close_job(intake)
    return job


def parse_chunking(given: dict[str, Any] | None, model: EmbeddingModel, settings: RagSettings) -> ChunkOptions | None:
    """Return a chunking strategy, None for `auto`. Chunks never exceed what the embedding model takes.

    Raises:
        InvalidRequest
    """
    if given is None or given.get("type") == "auto":
        return None
    static = given.get("static")
    if given.get("type") != "static" or not isinstance(static, dict):
        raise InvalidRequest(
            "chunking_strategy must be of type auto, or static with `static`", param="chunking_strategy"
        )
    tokens, overlap = static.get("max_chunk_size_tokens"), static.get("chunk_overlap_tokens")
    if not isinstance(tokens, int) or not 100 <= tokens <= 4096:
        raise InvalidRequest(
            f"max_chunk_size_tokens={tokens!r} must be a whole number from 100 to 4096", param="chunking_strategy"
        )
    if not isinstance(overlap, int) or not 0 <= overlap <= tokens // 2:
        raise InvalidRequest(
            f"chunk_overlap_tokens={overlap!r} must be a whole number from 0 to {tokens // 2}, half of the chunk",
            param="chunking_strategy",
        )
    return within(ChunkOptions(settings.chunker, tokens, overlap), model)


def store_file_document(collection: Collection, row: DocumentRow) -> dict[str, Any]:
    """Return OpenAI's vector store file object."""
    options = row.chunking or collection.chunking
    error = None
    if row.error_code:
        code = "invalid_file" if row.error_code in _INVALID else "unsupported_file"
        error = {"code": "server_error" if row.error_code == "internal" else code, "message": row.error}
    return {
        "id": row.id,
        "object": "vector_store.file",
        "created_at": row.created,
        "vector_store_id": collection.id,
        "status": row.status,
        "usage_bytes": row.bytes if row.live_version else 0,
        "last_error": error,
        "attributes": dict(row.attributes),
        "chunking_strategy": {
            "type": "static",
            "static": {"max_chunk_size_tokens": options.tokens, "chunk_overlap_tokens": options.overlap_tokens},
        },
    }


def batch_document(collection: Collection, job: Job) -> dict[str, Any]:
    """Return OpenAI's file batch object."""
    return {
        "id": job.id,
        "object": "vector_store.files_batch",
        "created_at": int(job.created),
        "vector_store_id": collection.id,
        "status": job.status,
        "file_counts": {
            "in_progress": job.in_progress,
            "completed": job.completed + job.unchanged,
            "failed": job.failed,
            "cancelled": job.stopped,
            "total": job.total,
        },
    }


async def _live(service: Service, store_id: str) -> Record:
    record = await service.registry.record(store_id)
    check_live(record)
    return record


async def _order(service: Service, caller: Caller, body: FileBody) -> FileOrder:
    model = await service.embedding_model()
    return FileOrder(
        await service.files.get(caller, body.file_id),
        check_attributes(body.attributes, "attributes"),
        parse_chunking(body.chunking_strategy, model, service.settings),
    )


async def _file_document(service: Service, collection: Collection, caller: Caller, file_id: str) -> dict[str, Any]:
    return store_file_document(collection, await service.desk.document(collection, caller, file_id))

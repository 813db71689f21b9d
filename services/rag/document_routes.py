"""A collection's documents and the jobs that bring them: uploads of many files, lists, removal, progress."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from services.kit.errors import InvalidRequest
from services.kit.sse import KEEP_ALIVE
from services.rag.attributes import check_attributes
from services.rag.files_routes import list_document
from services.rag.identity import CallerOf
from services.rag.ingesting.changes import heard
from services.rag.ingesting.desk import check_live
from services.rag.ingesting.intake import Intake, Received
from services.rag.ingesting.jobs import Job
from services.rag.ingesting.paging import Cursor
from services.rag.ingesting.rows import DocumentRow, tenant_of
from services.rag.ingesting.uploads import Upload, receive
from services.rag.library import Collection
from services.rag.loading.limits import LoadError
from services.rag.loading.names import clean_name
from services.rag.ports import Caller
from services.rag.service import Service, ServiceOf

router = APIRouter(prefix="/v1/collections/{name}", tags=["collections"])
_AT_ONCE = 64
_EVENT_S = 0.5
_KEEP_ALIVE_S = 10.0
_FORM = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "properties": {
                    "attributes": {"type": "string", "description": "JSON object, for the files after it"},
                    "files": {"type": "array", "items": {"type": "string", "format": "binary"}},
                },
            }
        }
    },
}


@router.post("/documents", status_code=202, summary="Upload documents", openapi_extra={"requestBody": _FORM})
async def upload_documents(
    name: str,
    request: Request,
    service: ServiceOf,
    caller: CallerOf,
    replace: bool = True,
    sync: bool = False,
    prefix: str = "",
    job: str = "",
    more: bool = False,
) -> dict[str, Any]:
    """Each file is one document, named by its relative path; the answer is the job, which goes on by itself.

    The same name with other content replaces the document (`replace=false`: it stays as it is); the same content again
    does nothing. A folder in several requests is one job: `more=true` on all but the last, `job` on all but the first.
    `sync=true` on the last removes the documents under `prefix` that the job has not named.
    """
    record = await service.registry.record(name)
    check_live(record)
    collection = record.collection
    if job:
        _check_open(await service.desk.job(collection, caller, job))
    else:
        job = await service.desk.start_job(collection, caller, "upload")
    intake = Intake(service.content, collection, tenant_of(collection, caller.name), job, replace)
    whole = False
    try:
        await _take(request, service, intake)
        whole = True
    finally:
        # What has come is taken, whatever became of the rest; only a whole folder says what is no longer in it.
        if not (more and whole):
            await service.desk.close_job(intake, sync=sync and whole, prefix=prefix)
    return await _job_document(service, await service.desk.job(collection, caller, job))


async def _take(request: Request, service: Service, intake: Intake) -> None:
    limit = service.settings.max_file_mb * 1_000_000
    attributes: dict[str, Any] = {}
    waiting: list[Received] = []
    async for part in receive(request, service.content.incoming, limit):
        if isinstance(part, Upload):
            waiting.append(_received(part, attributes, limit))
            if len(waiting) >= _AT_ONCE:
                await service.desk.accept(intake, waiting)
                waiting = []
        elif part.name == "attributes":
            attributes = check_attributes(_json(part.value), "attributes")
    if waiting:
        await service.desk.accept(intake, waiting)


def _received(upload: Upload, attributes: dict[str, Any], limit: int) -> Received:
    try:
        name = clean_name(upload.filename)
    except LoadError as error:
        return Received(upload.filename[:200] or "(no name)", bytes=upload.size, error=(error.code, error.message))
    if upload.path is None:
        message = (
            f"{name!r} has {upload.size / 1e6:,.1f} MB, more than the limit of {limit / 1e6:,.0f} MB; split it, "
            "or raise RAG_MAX_FILE_MB"
        )
        return Received(name, bytes=upload.size, error=("too_large", message))
    return Received(name, upload.hash, upload.size, upload.path, attributes=attributes)


@router.get("/documents", summary="List documents")
async def list_documents(
    name: str,
    service: ServiceOf,
    caller: CallerOf,
    status: Literal["", "in_progress", "completed", "failed", "cancelled"] = "",
    prefix: str = "",
    after: str = "",
    before: str = "",
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    order: Literal["asc", "desc"] = "asc",
) -> dict[str, Any]:
    """In pages; `after` is the id of the last one of the page before."""
    collection = await service.registry.collection(name)
    cursor = Cursor(limit, order, after, before)
    page = await service.desk.documents(collection, caller, cursor, status=status, prefix=prefix)
    return list_document(page, [document_document(row) for row in page.data])


@router.get("/documents/{document:path}", summary="Show a document")
async def show_document(name: str, document: str, service: ServiceOf, caller: CallerOf) -> dict[str, Any]:
    """By its id or its name."""
    collection = await service.registry.collection(name)
    return document_document(await service.desk.document(collection, caller, document))


@router.delete("/documents/{document:path}", summary="Remove a document")
async def remove_document(name: str, document: str, service: ServiceOf, caller: CallerOf) -> dict[str, Any]:
    """By its id or its name; nothing finds it when this answers."""
    collection = await service.registry.collection(name)
    row = await service.desk.document(collection, caller, document)
    await service.desk.remove(collection, [row.id])
    return {"id": row.id, "name": row.name, "object": "document.deleted", "deleted": True}


# --- jobs -----------------------------------------------------------------------------------------------------------


@router.get("/jobs", summary="List jobs")
async def list_jobs(
    name: str, service: ServiceOf, caller: CallerOf, limit: Annotated[int, Query(ge=1, le=100)] = 20
) -> dict[str, Any]:
    """The newest first."""
    collection = await service.registry.collection(name)
    jobs = await service.desk.jobs(collection, caller, limit)
    return {"object": "list", "data": [await _job_document(service, job) for job in jobs]}


@router.get("/jobs/{job_id}", summary="Show a job, or follow it", response_model=None)
async def show_job(
    name: str, job_id: str, request: Request, service: ServiceOf, caller: CallerOf, stream: bool = False
) -> Response:
    """With `stream=true` or `Accept: text/event-stream`: an event `progress` whenever it gets on, at last `done`."""
    collection = await service.registry.collection(name)
    job = await service.desk.job(collection, caller, job_id)
    if stream or "text/event-stream" in request.headers.get("accept", ""):
        events = _progress(service, collection, caller, job_id)
        return StreamingResponse(events, media_type="text/event-stream", headers={"cache-control": "no-store"})
    return JSONResponse(await _job_document(service, job))


@router.post("/jobs/{job_id}/cancel", summary="Cancel a job")
async def cancel_job(name: str, job_id: str, service: ServiceOf, caller: CallerOf) -> dict[str, Any]:
    """What is searchable already stays; what was being replaced stays as it was before."""
    collection = await service.registry.collection(name)
    return await _job_document(service, await service.desk.cancel_job(collection, caller, job_id))


async def _progress(service: Service, collection: Collection, caller: Caller, job_id: str) -> AsyncIterator[bytes]:
    said, silent_s = b"", 0.0
    while True:
        bell = service.pipeline.changes.listen()
        job = await service.desk.job(collection, caller, job_id)
        document = await _job_document(service, job)
        if job.finished:
            yield _event("done", document)
            return
        event = _event("progress", document)
        if event != said:
            yield event
            said, silent_s = event, 0.0
        elif silent_s >= _KEEP_ALIVE_S:
            yield KEEP_ALIVE
            silent_s = 0.0
        await heard(bell, _EVENT_S)
        await asyncio.sleep(_EVENT_S)  # a bell rings at every batch; nobody reads faster than this
        silent_s += _EVENT_S


def _event(name: str, document: dict[str, Any]) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), msgspec.json.encode(document))


async def _job_document(service: Service, job: Job) -> dict[str, Any]:
    under_way = 0 if job.finished else await service.desk.chunks_under_way(job)
    elapsed_s = max(0.001, (job.finished or time.time()) - job.created)
    ended = job.total - job.in_progress
    waiting_for = "" if job.finished else service.pipeline.patience.waiting_for
    left = job.bytes - job.bytes_done
    return {
        "object": "job",
        "id": job.id,
        "kind": job.kind,
        "status": job.status,
        "stage": _stage(job, under_way, waiting_for),
        "waiting_for": waiting_for or None,
        "documents": {
            "total": job.total,
            "in_progress": job.in_progress,
            "completed": job.completed,
            "unchanged": job.unchanged,
            "failed": job.failed,
            "cancelled": job.stopped,
            "deleted": job.deleted,
        },
        "chunks": job.chunks + under_way,
        "bytes": job.bytes,
        "bytes_done": job.bytes_done,
        "documents_per_s": round(ended / elapsed_s, 2),
        "chunks_per_s": round((job.chunks + under_way) / elapsed_s, 2),
        # By bytes: files differ in size a thousandfold. None while it would be a guess.
        "eta_s": None if job.open or 20 * job.bytes_done < job.bytes else round(left * elapsed_s / job.bytes_done, 1),
        "elapsed_s": round(elapsed_s, 2),
        "created_at": int(job.created),
        "finished_at": int(job.finished) or None,
        "errors": [{"name": each.name, "code": each.code, "message": each.message} for each in job.errors],
    }


def _stage(job: Job, under_way: int, waiting_for: str) -> str:
    if job.finished:
        return "done"
    if waiting_for:
        return "waiting"
    if job.open:
        return "receiving"
    return "indexing" if under_way or job.completed else "reading"


def document_document(row: DocumentRow) -> dict[str, Any]:
    """Return a document as clients see it."""
    return {
        "object": "document",
        "id": row.id,
        "name": row.name,
        "status": row.status,
        "title": row.title or None,
        "media_type": row.media_type or None,
        "bytes": row.bytes,
        "sha256": row.hash,
        "chunks": row.chunks,
        "tokens": row.tokens,
        "characters": row.characters,
        "attributes": dict(row.attributes),
        "created_at": row.created,
        "updated_at": row.updated,
        "error": {"code": row.error_code, "message": row.error} if row.error_code else None,
    }


def _check_open(job: Job) -> None:
    if not job.open:
        raise InvalidRequest(f"the job {job.id} takes no more files: it was sent without more=true; leave `job` out")


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidRequest(f"attributes is not JSON: {error}", param="attributes") from None

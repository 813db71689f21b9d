"""OpenAI's `/v1/files`: what callers upload before it is added to a vector store."""

import re
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse

from services.kit.errors import BodyTooLarge, InvalidRequest
from services.rag.identity import CallerOf
from services.rag.ingesting.files import StoredFile
from services.rag.ingesting.paging import Cursor, Page
from services.rag.ingesting.uploads import Upload, receive
from services.rag.loading.limits import LoadError
from services.rag.loading.names import clean_name
from services.rag.service import ServiceOf

router = APIRouter(prefix="/v1/files", tags=["files"])
_PURPOSES = ("assistants", "batch", "fine-tune", "vision", "user_data", "evals")
_EXPIRY_S = range(3600, 2_592_000 + 1)
_FORM = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file", "purpose"],
                "properties": {
                    "file": {"type": "string", "format": "binary"},
                    "purpose": {"type": "string", "enum": list(_PURPOSES)},
                    "expires_after[anchor]": {"type": "string", "enum": ["created_at"]},
                    "expires_after[seconds]": {"type": "integer", "minimum": 3600, "maximum": 2592000},
                },
            }
        }
    },
}


@router.post("", summary="Upload a file", openapi_extra={"requestBody": _FORM})
async def create_file(request: Request, service: ServiceOf, caller: CallerOf) -> dict[str, Any]:
    """The file is kept until it is deleted, or until it expires; it is searchable once a vector store has it."""
    limit = service.settings.max_file_mb * 1_000_000
    upload: Upload | None = None
    fields: dict[str, str] = {}
    async for part in receive(request, service.content.incoming, limit):
        if isinstance(part, Upload):
            if upload is not None:
                raise InvalidRequest("send one file at a time", param="file")
            upload = part
        else:
            fields[part.name] = part.value
    if upload is None:
        raise InvalidRequest("the form has no file; send one as `file`", param="file")
    if upload.path is None:
        raise BodyTooLarge(
            f"{upload.filename!r} has {upload.size:,} bytes, the limit is {limit:,}; split it, or raise RAG_MAX_FILE_MB"
        )
    file = await service.files.add(
        caller,
        filename=_clean(upload.filename),
        purpose=_purpose(fields),
        uploaded=upload.path,
        content=upload.hash,
        size=upload.size,
        expires_s=_expiry_s(fields),
    )
    return file_document(file)


@router.get("", summary="List the caller's files")
async def list_files(
    service: ServiceOf,
    caller: CallerOf,
    purpose: str = "",
    after: str = "",
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Literal["asc", "desc"] = "desc",
) -> dict[str, Any]:
    """In pages; `after` is the id of the last one of the page before."""
    page = await service.files.page(caller, Cursor(limit, order, after), purpose)
    return list_document(page, [file_document(file) for file in page.data])


@router.get("/{file_id}", summary="Show a file")
async def retrieve_file(file_id: str, service: ServiceOf, caller: CallerOf) -> dict[str, Any]:
    """A document that was added to a collection by its name is found by its id here, too."""
    return file_document(await service.files.get(caller, file_id))


@router.get("/{file_id}/content", summary="Get a file's content", response_class=FileResponse)
async def file_content(file_id: str, service: ServiceOf, caller: CallerOf) -> FileResponse:
    """Byte for byte what was uploaded."""
    file = await service.files.get(caller, file_id)
    # Never shown in place: what was uploaded may be a page with scripts.
    return FileResponse(
        service.files.path(file),
        media_type="application/octet-stream",
        filename=file.filename.rpartition("/")[2],
        headers={"x-content-type-options": "nosniff"},
    )


@router.delete("/{file_id}", summary="Delete a file")
async def delete_file(file_id: str, service: ServiceOf, caller: CallerOf) -> dict[str, Any]:
    """The vector stores that have it lose it too; nothing finds it when this answers."""
    await service.files.remove(caller, file_id)
    return {"id": file_id, "object": "file", "deleted": True}


def file_document(file: StoredFile) -> dict[str, Any]:
    """Return OpenAI's file object."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": file.created,
        "expires_at": file.expires or None,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def list_document(page: Page[Any], data: list[dict[str, Any]]) -> dict[str, Any]:
    """Return OpenAI's list of a page's elements."""
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": page.has_more,
    }


def _clean(filename: str) -> str:
    try:
        return clean_name(filename)
    except LoadError as error:
        raise InvalidRequest(error.message, param="file") from None


def _purpose(fields: dict[str, str]) -> str:
    purpose = fields.get("purpose", "")
    if purpose not in _PURPOSES:
        raise InvalidRequest(f"purpose={purpose!r} is none of {', '.join(_PURPOSES)}", param="purpose")
    return purpose


def _expiry_s(fields: dict[str, str]) -> int:
    given = {
        name.removeprefix("expires_after[")[:-1]: value for name, value in fields.items() if "expires_after[" in name
    }
    if not given:
        return 0
    seconds = given.get("seconds", "")
    if given.get("anchor") != "created_at" or not re.fullmatch(r"\d{1,9}", seconds) or int(seconds) not in _EXPIRY_S:
        raise InvalidRequest(
            f"expires_after={given} must be anchor created_at and seconds from {_EXPIRY_S[0]:,} to {_EXPIRY_S[-1]:,}",
            param="expires_after",
        )
    return int(seconds)

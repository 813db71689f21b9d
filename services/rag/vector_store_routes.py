"""OpenAI's `/v1/vector_stores`: the same collections under the names of OpenAI's API."""

import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from services.kit.errors import InvalidRequest
from services.rag.attributes import check_attributes
from services.rag.collection_routes import check_owner, default_chunking
from services.rag.files_routes import list_document
from services.rag.identity import CallerOf
from services.rag.ingesting.desk import check_live
from services.rag.ingesting.paging import Cursor
from services.rag.ingesting.rows import tenant_of
from services.rag.library import Collection, Visibility
from services.rag.registry import Counts, Record, new_id
from services.rag.retrieving.client_filters import parse_filter
from services.rag.service import ServiceOf
from services.rag.vector_store_file_routes import FileOrder, attach_files, parse_chunking

router = APIRouter(prefix="/v1/vector_stores", tags=["vector stores"])


class ExpiresAfter(BaseModel):
    """When a store goes by itself."""

    anchor: Literal["last_active_at"]
    days: int = Field(ge=1, le=365)


class StoreBody(BaseModel):
    """A new vector store. `visibility` is ours: private stores show each caller its own files alone."""

    name: str = Field("", max_length=256)
    description: str = ""
    file_ids: list[str] = Field(default_factory=list, max_length=500)
    chunking_strategy: dict[str, Any] | None = None
    expires_after: ExpiresAfter | None = None
    metadata: dict[str, str] | None = None
    visibility: Visibility = "shared"


class StoreChanges(BaseModel):
    """What is changed; a null clears."""

    name: str | None = Field(None, max_length=256)
    expires_after: ExpiresAfter | None = None
    metadata: dict[str, str] | None = None


class RankingOptions(BaseModel):
    """How results are ranked, and how good they must be."""

    ranker: str = "auto"
    score_threshold: float = Field(0.0, ge=0.0, le=1.0)


class StoreSearch(BaseModel):
    """What is looked for."""

    query: str | list[str]
    filters: Any = None
    max_num_results: int = Field(10, ge=1, le=50)
    ranking_options: RankingOptions = Field(default_factory=RankingOptions)
    rewrite_query: bool = False


@router.post("", summary="Make a vector store")
async def create_store(body: StoreBody, service: ServiceOf, caller: CallerOf) -> dict[str, Any]:
    """It is the collection, and the model `rag/<name>`, whose name `sparkstack.collection` of the answer says."""
    model = await service.embedding_model()
    files = await service.files.several(caller, body.file_ids)
    chunking = parse_chunking(body.chunking_strategy, model, service.settings)
    identifier = new_id("vs_")
    collection = Collection(
        id=identifier,
        name=await service.registry.free_name(body.name) if body.name else identifier,
        owner=caller.name,
        embedding_model=model.id,
        dimensions=model.dimensions,
        visibility=body.visibility,
        chunking=default_chunking(service, model),
        quantization=service.settings.quantization,
        metadata=check_attributes(body.metadata, "metadata"),
    )
    days = body.expires_after.days if body.expires_after else 0
    record = await service.keeper.create(collection, title=body.name or identifier, expires_days=days)
    if files:
        await attach_files(service, record, caller, [FileOrder(file, {}, chunking) for file in files], "upload", "job_")
    return await _shown(service, await service.registry.record(identifier), caller.name)


@router.get("", summary="List the vector stores")
async def list_stores(
    service: ServiceOf,
    caller: CallerOf,
    after: str = "",
    before: str = "",
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Literal["asc", "desc"] = "desc",
) -> dict[str, Any]:
    """In pages; `after` is the id of the last one of the page before."""
    page = await service.registry.page(Cursor(limit, order, after, before))
    return list_document(page, [await _shown(service, record, caller.name) for record in page.data])


@router.get("/{store_id}", summary="Show a vector store")
async def retrieve_store(store_id: str, service: ServiceOf, caller: CallerOf) -> dict[str, Any]:
    """`file_counts` says what has become of its files."""
    return await _shown(service, await service.registry.record(store_id), caller.name)


@router.post("/{store_id}", summary="Change a vector store")
async def update_store(store_id: str, body: StoreChanges, service: ServiceOf, caller: CallerOf) -> dict[str, Any]:
    """Another name is another title: the model keeps the name that it was made with."""
    record = await service.registry.record(store_id)
    check_owner(record, caller)
    changes: dict[str, Any] = {}
    if body.name is not None:
        changes["title"] = body.name
    if "metadata" in body.model_fields_set:
        changes["metadata"] = check_attributes(body.metadata, "metadata")
    if "expires_after" in body.model_fields_set:
        changes["expires_days"] = body.expires_after.days if body.expires_after else 0
    changed = await service.registry.change(record.collection.id, changes)
    return await _shown(service, changed, caller.name)


@router.delete("/{store_id}", summary="Delete a vector store")
async def delete_store(store_id: str, service: ServiceOf, caller: CallerOf) -> dict[str, Any]:
    """The files of `/v1/files` stay."""
    record = await service.registry.record(store_id)
    check_owner(record, caller)
    await service.keeper.drop(record)
    return {"id": record.collection.id, "object": "vector_store.deleted", "deleted": True}


@router.post("/{store_id}/search", summary="Search a vector store")
async def search_store(store_id: str, body: StoreSearch, service: ServiceOf, caller: CallerOf) -> dict[str, Any]:
    """`ranker: none` leaves out reranking. The score is the cosine of question and passage, where there is one."""
    record = await service.registry.record(store_id)
    check_live(record)
    queries = [body.query] if isinstance(body.query, str) else body.query
    if not 1 <= len(queries) <= 8:
        raise InvalidRequest(f"query has {len(queries)} texts; ask for 1 to 8 at a time", param="query")
    wanted = None if body.filters is None else parse_filter(body.filters)
    best: dict[str, dict[str, Any]] = {}
    for query in queries:
        found = await service.answering.retriever.retrieve(
            query,
            record.collection,
            caller,
            preset="fast" if body.ranking_options.ranker == "none" else None,
            filter=wanted,
            limit=body.max_num_results,
        )
        for passage in found.passages:
            score = passage.score if passage.similarity is None else passage.similarity
            result = {
                "file_id": passage.document_id,
                "filename": passage.name,
                "score": max(0.0, min(1.0, float(score))),
                "attributes": dict(passage.attributes),
                "content": [{"type": "text", "text": passage.text}],
            }
            if passage.id not in best or best[passage.id]["score"] < result["score"]:
                best[passage.id] = result
    await service.registry.touch(record)
    passed = [each for each in best.values() if each["score"] >= body.ranking_options.score_threshold]
    if len(queries) > 1:  # one query's results stay in the order that the retrieval gave them
        passed.sort(key=lambda each: -each["score"])
    return {
        "object": "vector_store.search_results.page",
        "search_query": queries,
        "data": passed[: body.max_num_results],
        "has_more": False,
        "next_page": None,
    }


async def _shown(service: ServiceOf, record: Record, caller: str) -> dict[str, Any]:
    counts = await service.registry.counts(record, tenant_of(record.collection, caller))
    return store_document(record, counts)


def store_document(record: Record, counts: Counts) -> dict[str, Any]:
    """Return OpenAI's vector store object; `sparkstack` holds what it has no field for."""
    collection = record.collection
    expired = record.state == "expired" or (record.expires_at is not None and record.expires_at <= time.time())
    status = "expired" if expired else "in_progress" if counts.in_progress else "completed"
    return {
        "id": collection.id,
        "object": "vector_store",
        "created_at": collection.created,
        "name": record.title,
        "status": status,
        "usage_bytes": counts.bytes,
        "file_counts": {
            "in_progress": counts.in_progress,
            "completed": counts.ready,
            "failed": counts.failed,
            "cancelled": counts.cancelled,
            "total": counts.total,
        },
        "expires_after": {"anchor": "last_active_at", "days": record.expires_days} if record.expires_days else None,
        "expires_at": record.expires_at,
        "last_active_at": record.last_active,
        "metadata": dict(collection.metadata),
        "sparkstack": {
            "collection": collection.name,
            "model": f"rag/{collection.name}",
            "visibility": collection.visibility,
        },
    }

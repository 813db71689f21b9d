"""Collections: make them, look at them, change them, search them, drop them."""

from typing import Any, Literal

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from services.kit.errors import InvalidRequest, PermissionDenied, UnsupportedParameter
from services.rag.documents import Passage
from services.rag.identity import CallerOf
from services.rag.ingesting.desk import check_live
from services.rag.ingesting.rows import tenant_of
from services.rag.library import Chunker, ChunkOptions, Collection, Visibility
from services.rag.ports import Caller, EmbeddingModel
from services.rag.registry import NAME, Counts, Record, new_id
from services.rag.retrieving.client_filters import parse_filter
from services.rag.service import Service, ServiceOf

router = APIRouter(prefix="/v1/collections", tags=["collections"])
# Beside a passage's own tokens a model takes a first and a last one; headings get what is left.
_ROOM_TOKENS = 16


class ChunkingBody(BaseModel):
    """How documents are cut; what is left out is as the service's settings say."""

    model_config = ConfigDict(extra="forbid")

    chunker: Chunker | None = None
    tokens: int | None = Field(None, ge=16, le=8192, description="in a chunk, at most")
    overlap_tokens: int | None = Field(None, ge=0, le=4096, description="that a chunk repeats of the one before")


class CollectionBody(BaseModel):
    """A new collection."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(description="letters, digits, `.`, `_`, `-`; `rag/<name>` is the model")
    visibility: Visibility = Field("shared", description="private: each caller sees its own documents alone")
    chunking: ChunkingBody = Field(default_factory=ChunkingBody)
    quantization: Literal["none", "scalar", "binary"] | None = None
    preset: str = Field("", description="how it retrieves, where a request doesn't say")
    answer_model: str = Field("", description="model that answers, where a request doesn't say")
    metadata: dict[str, str] = Field(default_factory=dict, max_length=16)


class ChangesBody(BaseModel):
    """What is changed; what is left out stays. Another way of cutting cuts every document anew."""

    model_config = ConfigDict(extra="forbid")

    chunking: ChunkingBody | None = None
    preset: str | None = None
    answer_model: str | None = None
    metadata: dict[str, str] | None = Field(None, max_length=16)


class SearchBody(BaseModel):
    """What is looked for."""

    model_config = ConfigDict(extra="forbid")

    query: str = Field(min_length=1)
    preset: str | None = None
    filters: Any = Field(None, description="on attributes, in the form of OpenAI's vector store search")
    limit: int | None = Field(None, ge=1, le=100)


@router.get("", summary="List the collections")
async def list_collections(service: ServiceOf, caller: CallerOf) -> dict[str, Any]:
    """The oldest first, each with what of it the caller sees."""
    counts = await service.registry.all_counts()
    data = []
    for record in await service.registry.records():
        private = record.collection.visibility == "private"
        seen = await service.registry.counts(record, caller.name) if private else None
        data.append(collection_document(record, seen or counts.get(record.collection.id, Counts())))
    return {"object": "list", "data": data}


@router.post("", status_code=201, summary="Make a collection")
async def create_collection(body: CollectionBody, service: ServiceOf, caller: CallerOf) -> dict[str, Any]:
    """Its embedding model is the service's, for as long as it lives: its vectors can be compared with no other's."""
    if not NAME.match(body.name):
        raise InvalidRequest(
            f"name={body.name!r} must begin with a letter or digit, and have up to 64 letters, digits, '.', '_', '-'",
            param="name",
        )
    await _check_preset(service, body.preset)
    model = await service.embedding_model()
    collection = Collection(
        id=new_id("vs_"),
        name=body.name,
        owner=caller.name,
        embedding_model=model.id,
        dimensions=model.dimensions,
        visibility=body.visibility,
        chunking=_chunking(body.chunking, default_chunking(service, model), model),
        quantization=body.quantization or service.settings.quantization,
        preset=body.preset,
        model=body.answer_model,
        metadata=body.metadata,
    )
    return collection_document(await service.keeper.create(collection), Counts())


@router.get("/{name}", summary="Show a collection")
async def show_collection(name: str, service: ServiceOf, caller: CallerOf) -> dict[str, Any]:
    """By its name or its id."""
    return await _shown(service, await service.registry.record(name), caller.name)


@router.patch("/{name}", summary="Change a collection")
async def change_collection(name: str, body: ChangesBody, service: ServiceOf, caller: CallerOf) -> dict[str, Any]:
    """Where its documents are cut anew, `job` is the id of the job that does it; searches go on meanwhile."""
    record = await service.registry.record(name)
    check_owner(record, caller)
    given = body.model_dump(exclude_none=True, exclude={"chunking"})
    if "answer_model" in given:
        given["model"] = given.pop("answer_model")
    await _check_preset(service, given.get("preset", ""))
    if body.chunking is not None:
        given["chunking"] = _chunking(body.chunking, record.collection.chunking, await service.embedding_model())
    changed = await service.registry.change(record.collection.id, given)
    job = await service.desk.recut(changed, caller) if body.chunking is not None else None
    return {**await _shown(service, changed, caller.name), "job": job}


@router.delete("/{name}", summary="Drop a collection")
async def drop_collection(name: str, service: ServiceOf, caller: CallerOf) -> dict[str, Any]:
    """With all documents in it, of every caller, and whatever is under way for them."""
    record = await service.registry.record(name)
    check_owner(record, caller)
    await service.keeper.drop(record)
    return {"id": record.collection.id, "name": record.collection.name, "object": "collection.deleted", "deleted": True}


@router.post("/{name}/search", summary="Search a collection")
async def search_collection(name: str, body: SearchBody, service: ServiceOf, caller: CallerOf) -> dict[str, Any]:
    """Passages, best first, and each step that found them with its milliseconds."""
    record = await service.registry.record(name)
    check_live(record)
    found = await service.answering.retriever.retrieve(
        body.query,
        record.collection,
        caller,
        preset=body.preset,
        filter=None if body.filters is None else parse_filter(body.filters),
        limit=body.limit,
    )
    await service.registry.touch(record)
    return {
        "object": "list",
        "collection": record.collection.name,
        "question": found.question,
        "preset": found.preset,
        "best_similarity": found.best_similarity,
        "data": [_passage_document(passage) for passage in found.passages],
        "steps": [step.document() for step in found.steps],
        "ms": round(found.ms, 2),
    }


def collection_document(record: Record, counts: Counts) -> dict[str, Any]:
    """Return a collection as clients see it."""
    collection = record.collection
    return {
        "object": "collection",
        "id": collection.id,
        "name": collection.name,
        "model": f"rag/{collection.name}",
        "owner": collection.owner,
        "visibility": collection.visibility,
        "embedding_model": collection.embedding_model,
        "dimensions": collection.dimensions,
        "chunking": {
            "chunker": collection.chunking.chunker,
            "tokens": collection.chunking.tokens,
            "overlap_tokens": collection.chunking.overlap_tokens,
        },
        "quantization": collection.quantization,
        "preset": collection.preset,
        "answer_model": collection.model,
        "revision": collection.revision,
        "created_at": collection.created,
        "documents": {
            "total": counts.total,
            "ready": counts.ready,
            "in_progress": counts.in_progress,
            "failed": counts.failed,
            "cancelled": counts.cancelled,
        },
        "chunks": counts.chunks,
        "bytes": counts.bytes,
        "metadata": dict(collection.metadata),
    }


def check_owner(record: Record, caller: Caller) -> None:
    """Let only its maker change or drop a private collection: others' documents are in it.

    Raises:
        PermissionDenied
    """
    collection = record.collection
    if collection.visibility == "private" and collection.owner != caller.name:
        raise PermissionDenied(
            f"{collection.name} is private, and only {collection.owner}, who made it, can change or drop it; "
            "you can remove your own documents"
        )


def default_chunking(service: Service, model: EmbeddingModel) -> ChunkOptions:
    """Return how the service cuts where nobody says, within what the embedding model takes."""
    settings = service.settings
    wanted = ChunkOptions(settings.chunker, settings.chunk_tokens, settings.chunk_overlap_tokens)
    return within(wanted, model)


def within(options: ChunkOptions, model: EmbeddingModel) -> ChunkOptions:
    """Return a way of cutting whose chunks fit the embedding model."""
    tokens = min(options.tokens, max(16, model.max_tokens - _ROOM_TOKENS))
    return ChunkOptions(options.chunker, tokens, min(options.overlap_tokens, tokens // 2))


def _chunking(body: ChunkingBody, default: ChunkOptions, model: EmbeddingModel) -> ChunkOptions:
    tokens = body.tokens or default.tokens
    overlap = min(default.overlap_tokens, tokens // 2) if body.overlap_tokens is None else body.overlap_tokens
    wanted = ChunkOptions(body.chunker or default.chunker, tokens, overlap)
    if wanted.overlap_tokens * 2 > wanted.tokens:
        raise InvalidRequest(
            f"overlap_tokens={overlap} is more than half of tokens={tokens}; ask for at most {tokens // 2}",
            param="chunking.overlap_tokens",
        )
    if within(wanted, model).tokens < wanted.tokens:
        raise UnsupportedParameter(
            f"tokens={tokens} is more than the embedding model {model.id} takes: at most "
            f"{within(wanted, model).tokens}, its {model.max_tokens} less {_ROOM_TOKENS} for its own",
            param="chunking.tokens",
        )
    return wanted


async def _check_preset(service: Service, preset: str) -> None:
    if preset:
        # Of no collection in particular: only whether there is one of this name.
        nowhere = Collection("", "", "", "", 0)
        await service.answering.retriever.preset_of(nowhere, preset)


async def _shown(service: Service, record: Record, caller: str) -> dict[str, Any]:
    tenant = tenant_of(record.collection, caller)
    return collection_document(record, await service.registry.counts(record, tenant))


def _passage_document(passage: Passage) -> dict[str, Any]:
    return {
        "id": passage.id,
        "document_id": passage.document_id,
        "name": passage.name,
        "title": passage.title,
        "index": passage.index,
        "page": passage.page,
        "heading_path": list(passage.heading_path),
        "text": passage.text,
        "tokens": passage.tokens,
        "score": passage.score,
        "similarity": passage.similarity,
        "attributes": dict(passage.attributes),
    }

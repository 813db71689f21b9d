"""`rag/<collection>` as a model: OpenAI's chat completions and list of models."""

from typing import Any

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response

from services.kit.asgi import read_body
from services.kit.errors import InvalidRequest
from services.kit.middleware import LOG_FIELDS
from services.rag.answering.requests import ChatBody, parse_body, read_question
from services.rag.answering.responses import EventStream, WholeAnswer
from services.rag.answering.service import Answering
from services.rag.identity import CallerOf
from services.rag.settings import RagSettings

router = APIRouter()


def answering_of(request: Request) -> Answering:
    """Return what answers; the lifespan puts it into the app's state."""
    answering: Answering = request.app.state.answering
    return answering


@router.get("/v1/models", tags=["openai"], summary="Each collection that has something to find, as a model")
async def list_models(request: Request, _caller: CallerOf) -> dict[str, Any]:
    """`sparkstack` holds what OpenAI's form has no field for."""
    return await answering_of(request).models()


@router.post(
    "/v1/chat/completions",
    tags=["openai"],
    summary="Answer a question from a collection's documents, with citations",
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": ChatBody.model_json_schema()}}}
    },
)
async def chat(request: Request, caller: CallerOf) -> Response:
    """Streamed with `stream: true`; `message.annotations` (in streams on the last delta) are the citations."""
    settings: RagSettings = request.app.state.settings
    most = settings.max_file_mb * 1_000_000
    body = await read_body(request.scope, request.receive, most, "RAG_MAX_FILE_MB")  # type: ignore[arg-type]
    try:
        document = msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"the body is not JSON: {error}") from None
    question = read_question(parse_body(document))
    request.scope[LOG_FIELDS].update(collection=question.collection, streamed=question.stream)
    answering = answering_of(request)
    if question.stream:
        return EventStream(answering.stream(question, caller))
    return WholeAnswer(lambda: answering.answer(question, caller))

"""Getting and deleting models' files, in the form that Ollama's clients read."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from services.engines.files.hub import PullError
from services.engines.recipes import Recipe, RecipeError, find_recipe
from services.engines.routes import check_key, service_of
from services.kit.errors import InvalidRequest, ModelNotFound

router = APIRouter(dependencies=[Depends(check_key)])


class PullRequest(BaseModel):
    """Which model: a recipe's id or alias."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(min_length=1)


@router.post("/pull", summary="Get a model's files, with progress", response_class=StreamingResponse)
async def pull(request: Request, body: PullRequest) -> Response:
    """One JSON document a line; the last is `{"status": "success"}` or `{"error": …}`. Leaving stops the pull."""
    service = service_of(request)
    recipe = _find(request, body.model)

    async def lines() -> AsyncIterator[bytes]:
        documents: AsyncGenerator[dict[str, Any], None] = service.pulls.pull(recipe)
        try:
            async for document in documents:
                yield json.dumps(document).encode() + b"\n"
        finally:
            await documents.aclose()
            await service.look_for_files()

    return StreamingResponse(lines(), media_type="application/x-ndjson")


@router.delete("/models/{model:path}/files", status_code=204, summary="Delete a model's files")
async def delete(request: Request, model: str) -> None:
    """Of a loaded model they stay: unload it first."""
    service = service_of(request)
    recipe = _find(request, model)
    loaded = [o.id for o in service.controller.offers.values() if o.recipe.id == recipe.id and service.is_loaded(o)]
    if loaded:
        raise InvalidRequest(f"{loaded[0]} is loaded: `sparkstack unload {loaded[0]}` first", param="model")
    try:
        await service.pulls.delete(recipe)
    except PullError as error:
        raise InvalidRequest(str(error), param="model") from None
    await service.look_for_files()


def _find(request: Request, name: str) -> Recipe:
    try:
        return find_recipe(name, service_of(request).recipes)
    except RecipeError as error:
        raise ModelNotFound(str(error), param="model") from None

import contextlib
from collections.abc import AsyncIterator

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from services.gateway.adapters.openai_compatible import OpenAICompatible, Pool
from services.kit.errors import ModelLoading
from tests.testkit.server import running


async def loading(_request: Request) -> JSONResponse:
    """What llama.cpp says to everything until its model is in memory."""
    error = {"code": 503, "message": "Loading model", "type": "unavailable_error"}
    return JSONResponse({"error": error}, status_code=503)


@contextlib.asynccontextmanager
async def pool() -> AsyncIterator[Pool]:
    made = Pool(1)
    try:
        yield made
    finally:
        await made.close()


async def test_an_engine_that_loads_its_model_is_not_taken_for_a_broken_one() -> None:
    app = Starlette(routes=[Route("/v1/models", loading)])
    async with running(app, lifespan="off") as url, pool() as connections:
        with pytest.raises(ModelLoading, match="Loading model") as raised:
            await OpenAICompatible(connections, "llama", url).models(5)

    assert raised.value.retry_after_s == 1

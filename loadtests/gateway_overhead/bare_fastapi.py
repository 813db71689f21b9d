"""The least that a gateway in Python can be: one FastAPI route that passes everything on by aiohttp.

It checks no key, reads no model, counts nothing. It is here as a reference, not as something to use.
"""

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse


def create_app(engine_url: str) -> FastAPI:
    """Return the app in front of one engine."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)
        ) as session:
            app.state.session = session
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        body = await request.body()
        answer = await request.app.state.session.post(
            f"{engine_url}/v1/chat/completions", data=body, headers={"content-type": "application/json"}
        )
        content_type = answer.headers["content-type"]
        if not content_type.startswith("text/event-stream"):
            return Response(await answer.read(), status_code=answer.status, media_type=content_type)
        return StreamingResponse(answer.content.iter_any(), status_code=answer.status, media_type=content_type)

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A bare pass-through, for comparison.")
    parser.add_argument("--engine", required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    uvicorn.run(create_app(arguments.engine), host="127.0.0.1", port=arguments.port, access_log=False)

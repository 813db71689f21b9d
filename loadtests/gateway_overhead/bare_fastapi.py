"""The least that a gateway in Python can be: one FastAPI route that passes everything on, by aiohttp or by httpx.

It checks no key, reads no model, counts nothing. It is here as a reference, not as something to use: with aiohttp for
what ours adds, with httpx for why ours does not use that (docs/decisions/0004-aiohttp-on-the-data-path.md).
"""

import argparse
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import httpx
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

_HEADERS = {"content-type": "application/json"}
_STREAM = "text/event-stream"
PassOn = Callable[[bytes], Awaitable[Response]]


@asynccontextmanager
async def by_aiohttp(url: str) -> AsyncIterator[PassOn]:
    """Give a function that sends a body to `url` and returns the answer, over one aiohttp session."""
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:

        async def pass_on(body: bytes) -> Response:
            answer = await session.post(url, data=body, headers=_HEADERS)
            content_type = answer.headers["content-type"]
            if not content_type.startswith(_STREAM):
                return Response(await answer.read(), status_code=answer.status, media_type=content_type)
            return StreamingResponse(answer.content.iter_any(), status_code=answer.status, media_type=content_type)

        yield pass_on


@asynccontextmanager
async def by_httpx(url: str) -> AsyncIterator[PassOn]:
    """Give the same over one httpx client."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(limits=limits, timeout=None, trust_env=False) as client:

        async def pass_on(body: bytes) -> Response:
            request = client.build_request("POST", url, content=body, headers=_HEADERS)
            answer = await client.send(request, stream=True)
            content_type = answer.headers["content-type"]
            if not content_type.startswith(_STREAM):
                return Response(await answer.aread(), status_code=answer.status_code, media_type=content_type)
            return StreamingResponse(answer.aiter_raw(), status_code=answer.status_code, media_type=content_type)

        yield pass_on


CLIENTS = {"aiohttp": by_aiohttp, "httpx": by_httpx}


def create_app(engine_url: str, client: str) -> FastAPI:
    """Return the app in front of one engine; `client` is a name of `CLIENTS`."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with CLIENTS[client](f"{engine_url}/v1/chat/completions") as pass_on:
            app.state.pass_on = pass_on
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        answer: Response = await request.app.state.pass_on(await request.body())
        return answer

    return app


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A bare pass-through, for comparison.")
    parser.add_argument("--engine", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--client", choices=sorted(CLIENTS), default="aiohttp")
    arguments = parser.parse_args()
    app = create_app(arguments.engine, arguments.client)
    uvicorn.run(app, host="127.0.0.1", port=arguments.port, access_log=False)

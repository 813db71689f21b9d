"""What is read of an engine's response that is not relayed: an error, or something that is no stream."""

import asyncio

import aiohttp

from services.gateway.errors import from_engine, from_own
from services.kit.errors import AppError, EngineInvalidResponse

_MAX_ERROR_BYTES = 256 * 1024
_BRIEFLY_S = 0.5
"""For the body of a refusal: the client learns of a 429 within a second, whatever the engine does."""


async def read_refusal(response: aiohttp.ClientResponse, engine: str, *, own: bool = False) -> AppError:
    """Return our error for a status other than 200; `own`: of one of the stack's services, which say it our way."""
    body = await read_briefly(response)
    if response.status < 400:
        return EngineInvalidResponse(f"{engine} answered with status {response.status}")
    if own:
        return from_own(response.status, body, response.headers, engine)
    return from_engine(response.status, body, response.headers.get("Retry-After"), engine)


async def read_briefly(response: aiohttp.ClientResponse) -> bytes:
    """Return what comes at once of a body that is not relayed; what is known without it tells enough."""
    body = b""
    try:
        async with asyncio.timeout(_BRIEFLY_S):
            while len(body) < _MAX_ERROR_BYTES and (chunk := await response.content.readany()):
                body += chunk
    except (TimeoutError, aiohttp.ClientError, ConnectionError):
        pass
    return body

"""Who asks: the key at the door, and the caller that the gateway vouches for."""

import hmac
from typing import Annotated

from fastapi import Depends, Request

from services.kit.errors import InvalidApiKey
from services.kit.middleware import REQUEST_ID
from services.kit.on_behalf import HEADER, sign, verify
from services.rag.ports import Caller
from services.rag.settings import RagSettings

_PASSED_ON = ("x-sparkstack-hops", "traceparent", "tracestate")


async def caller_of(request: Request) -> Caller:
    """Return who asks, with the headers that its inner calls carry.

    Raises:
        InvalidApiKey: no key was sent where one is wanted, or a wrong one.
    """
    settings: RagSettings = request.app.state.settings
    _check_key(request, settings.api_key)
    signed = request.headers.get(HEADER, "")
    # Without a key nobody can have signed anything: whoever reaches the port is the one user of this machine.
    name = (verify(signed, settings.api_key) if signed and settings.api_key else None) or "default"
    headers = {header: request.headers[header] for header in _PASSED_ON if header in request.headers}
    headers["x-request-id"] = request.scope[REQUEST_ID].decode()
    if settings.gateway_key:
        headers[HEADER] = sign(name, settings.gateway_key)
    return Caller(name, headers)


def _check_key(request: Request, wanted: str) -> None:
    if not wanted:
        return
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), wanted.encode()):
        raise InvalidApiKey(
            "the RAG service wants its key: send `Authorization: Bearer <RAG_API_KEY>`, or ask the gateway"
        )


CallerOf = Annotated[Caller, Depends(caller_of)]
"""A route's parameter: who asks."""

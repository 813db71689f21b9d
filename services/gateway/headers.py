"""Which headers go on: neither hop-by-hop ones, nor anything that could be the caller's credentials."""

import re
from collections.abc import Iterable
from functools import lru_cache

from services.gateway.errors import TooManyHops
from services.kit.asgi import Scope
from services.kit.middleware import REQUEST_ID
from services.kit.tracing import Tracer

MAX_HOPS = 4
HOPS = "X-Sparkstack-Hops"
_HOPS = b"x-sparkstack-hops"

_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding "
    b"upgrade".split()
)
_REQUEST_DROPPED = _HOP_BY_HOP | frozenset(
    b"host content-length content-type content-encoding accept accept-encoding accept-language origin referer expect "
    b"user-agent forwarded via x-real-ip x-request-id x-sparkstack-hops x-sparkstack-on-behalf-of".split()
)
_RESPONSE_DROPPED = _HOP_BY_HOP | frozenset(
    b"content-length content-type content-encoding server date cache-control x-accel-buffering x-request-id "
    b"alt-svc strict-transport-security".split()
)
_SECRET = re.compile(rb"auth|key|token|secret|cookie|jwt|password|session")


@lru_cache(maxsize=1024)
def _goes_up(name: bytes) -> bool:
    if name in _REQUEST_DROPPED or name.startswith((b"x-forwarded-", b"sec-", b"x-openwebui-", b"x-stainless-")):
        return False
    return _SECRET.search(name) is None


@lru_cache(maxsize=1024)
def _goes_down(name: bytes) -> bool:
    return name not in _RESPONSE_DROPPED and not name.startswith(b"access-control-") and b"cookie" not in name


def request_headers(scope: Scope, tracer: Tracer | None) -> dict[str, str]:
    """Return the headers for the engine: the client's harmless ones, the request id, the trace, the hop count.

    Raises:
        TooManyHops: the request has been through the gateway too often.
    """
    headers = {"Content-Type": "application/json", "X-Request-Id": scope[REQUEST_ID].decode()}
    hops = 0
    named: frozenset[bytes] = frozenset()
    for name, value in scope["headers"]:
        if name == b"connection" and value.lower() not in (b"keep-alive", b"close"):
            named = frozenset(part.strip().lower() for part in value.split(b","))
        elif name == _HOPS and value.isdigit() and len(value) < 4:
            hops = int(value)
        elif _goes_up(name):
            headers[name.decode("latin-1")] = value.decode("latin-1")
    for name in named:
        headers.pop(name.decode("latin-1"), None)
    if hops >= MAX_HOPS:
        raise TooManyHops(
            f"this request went through the gateway {hops} times, the limit is {MAX_HOPS}: a backend or a model "
            "leads back to the gateway"
        )
    headers[HOPS] = str(hops + 1)
    if tracer is not None:
        headers.update(tracer.outgoing_headers())
    return headers


def response_headers(raw: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return the engine's headers that the client gets, lower-case."""
    return [(lower, value) for name, value in raw if _goes_down(lower := name.lower())]

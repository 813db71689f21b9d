"""The engines service over HTTP. Calls are few and far from the hot path: each has a fresh connection."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec

from services.gateway.adapters.openai_compatible import Pool
from services.gateway.control import Grant, ManagedList, Progress, Renewal
from services.gateway.errors import from_envelope
from services.kit import tracing
from services.kit.errors import AppError, EngineInvalidResponse, EngineUnreachable
from services.kit.sse import EventSplitter, EventTooLarge, event_data, event_name

T = TypeVar("T")

_CALL_S = 5.0
_SILENCE_S = 15.0
"""Progress comes every two seconds; a service that says nothing for so long is not there any more."""
_LOAD_S = 3600.0
_MAX_REASON = 1000
_MAX_LINE_BYTES = 1024 * 1024

_progress = msgspec.json.Decoder(Progress)
_grant = msgspec.json.Decoder(Grant)


class HttpEnginesService:
    """The engines service at an address; see `services.gateway.control` for what is asked."""

    def __init__(self, pool: Pool, url: str, api_key: str = "") -> None:
        self._session = pool.fresh
        self.url = url
        self._headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"

    async def models(self) -> ManagedList:
        return _decode(await self._call("GET", "/models"), ManagedList)

    async def lease(self, model: str, holder: str) -> AsyncGenerator[Progress | Grant, None]:
        document = {"model": model, "holder": holder, "wait": True}
        async with self._response("POST", "/leases", document, _SILENCE_S) as response:
            splitter = EventSplitter()
            while chunk := await response.content.readany():
                for event in splitter.feed(chunk):
                    said = _read_event(event)
                    if said is not None:
                        yield said
        raise EngineUnreachable(f"the engines service at {self.url} ended in the middle of a load; ask again")

    async def lease_now(self, model: str, holder: str) -> Grant:
        document = {"model": model, "holder": holder, "wait": False}
        return _decode(await self._call("POST", "/leases", document), Grant)

    async def renew(self, lease_id: str, in_flight: int) -> Renewal:
        body = await self._call("PUT", f"/leases/{quote(lease_id, safe='')}", {"in_flight": in_flight})
        return _decode(body, Renewal)

    async def release(self, lease_id: str, keep_alive_s: float | None) -> None:
        query = "" if keep_alive_s is None else f"?keep_alive_s={keep_alive_s:g}"
        await self._call("DELETE", f"/leases/{quote(lease_id, safe='')}{query}")

    async def lost(self, lease_id: str, reason: str) -> None:
        await self._call("POST", f"/leases/{quote(lease_id, safe='')}/lost", {"reason": reason[:_MAX_REASON]})

    async def load(self, model: str, *, pin: bool | None, wait: bool) -> dict[str, Any]:
        document = {"pin": pin, "wait": wait}
        return _object(await self._call("POST", f"{_path(model)}/load", document, _LOAD_S if wait else _CALL_S))

    async def unload(self, model: str, *, force: bool) -> dict[str, Any]:
        return _object(await self._call("POST", f"{_path(model)}/unload", {"force": force}))

    async def pull(self, model: str) -> AsyncIterator[bytes]:
        async with self._response("POST", "/pull", {"model": model}, None) as response:
            pending = b""
            while chunk := await response.content.readany():
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield line + b"\n"
                if len(pending) > _MAX_LINE_BYTES:
                    raise EngineInvalidResponse(f"the engines service sent a line of over {_MAX_LINE_BYTES:,} bytes")
            if pending.strip():
                yield pending + b"\n"

    async def delete_files(self, model: str) -> None:
        await self._call("DELETE", f"{_path(model)}/files")

    async def _call(self, method: str, path: str, document: Any = None, timeout_s: float = _CALL_S) -> bytes:
        async with self._response(method, path, document, timeout_s, total=True) as response:
            return bytes(await response.read())

    @asynccontextmanager
    async def _response(
        self, method: str, path: str, document: Any, timeout_s: float | None, *, total: bool = False
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Open a response of status 200 to 299; it is closed, not drained, when the caller is done.

        Args:
            timeout_s: for silence, or with `total` for the whole call.

        Raises:
            EngineUnreachable: no connection, or it was lost, or silence.
            AppError: what the service says with a status of 400 or above.
        """
        body = b"" if document is None else msgspec.json.encode(document)
        timeout = aiohttp.ClientTimeout(
            total=timeout_s if total else None, sock_connect=_CALL_S, sock_read=None if total else timeout_s
        )
        headers = {**self._headers, **tracing.outgoing_headers()}
        response = None
        try:
            response = await self._session.request(
                method, self.url + path, data=body, headers=headers, timeout=timeout, allow_redirects=False
            )
            if response.status >= 300:
                said = await response.read()
                raise from_envelope(response.status, said, response.headers, "the engines service")
            yield response
        except TimeoutError:
            raise self._unreachable(f"it did not answer within {timeout_s:g} s" if timeout_s else "no answer") from None
        except aiohttp.ClientConnectorError as error:
            raise self._unreachable((error.os_error.strerror or str(error.os_error)).lower()) from None
        except (aiohttp.ClientError, ConnectionError, EventTooLarge) as error:
            raise self._unreachable(str(error) or type(error).__name__) from None
        finally:
            if response is not None:
                response.close()

    def _unreachable(self, reason: str) -> EngineUnreachable:
        return EngineUnreachable(
            f"the engines service at {self.url} can't be reached: {reason}; see `sparkstack status`"
        )


def _path(model: str) -> str:
    return f"/models/{quote(model, safe='@')}"


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise EngineInvalidResponse(f"the engines service answered with no {kind.__name__}: {error}") from None


def _object(body: bytes) -> dict[str, Any]:
    return _decode(body, dict[str, Any]) if body.strip() else {}


def _read_event(event: bytes) -> Progress | Grant | None:
    """Return what an event of a waiting lease says.

    Raises:
        AppError: of an `error` event.
    """
    data, name = event_data(event), event_name(event)
    if data is None:
        return None
    try:
        if name == b"progress":
            return _progress.decode(data)
        if name == b"granted":
            return _grant.decode(data)
        if name == b"error":
            raise _failure(data)
    except msgspec.DecodeError as error:
        raise EngineInvalidResponse(f"the engines service sent a {name.decode()} that is none: {error}") from None
    return None


def _failure(data: bytes) -> AppError:
    document = msgspec.json.decode(data, type=dict[str, Any])
    status, retry = document.get("status"), document.get("retry_after_s")
    headers = {"Retry-After": str(retry)} if isinstance(retry, int | float) else {}
    return from_envelope(status if isinstance(status, int) else 500, data, headers, "the engines service")

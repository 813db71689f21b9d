"""Any server that speaks OpenAI's wire format, over pooled aiohttp sessions.

aiohttp and not httpx: on this path it costs a ninth (docs/decisions/0004-aiohttp-on-the-data-path.md).
"""

import asyncio
import io
import os
from collections.abc import AsyncIterator, Mapping
from typing import Any

import aiohttp
import msgspec
from yarl import URL

from services.gateway.errors import from_engine
from services.kit.errors import EngineInvalidResponse, EngineTimeout, EngineUnreachable

_LOST = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, ConnectionError)
_TOKENIZE_S = 2.0
_ONE_WRITE_BYTES = 256 * 1024


class Pool:
    """Connections to engines: one kept-alive pool, and fresh sockets for a second try."""

    def __init__(self, connect_timeout_s: float) -> None:
        self.connect_timeout_s = connect_timeout_s
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout_s, sock_read=None)
        self.kept = _session(aiohttp.TCPConnector(limit=0, keepalive_timeout=30), timeout)
        self.fresh = _session(aiohttp.TCPConnector(limit=0, force_close=True), timeout)

    async def close(self) -> None:
        """Close every connection."""
        await self.kept.close()
        await self.fresh.close()


def _session(connector: aiohttp.TCPConnector, timeout: aiohttp.ClientTimeout) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=connector,
        timeout=timeout,
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        read_bufsize=256 * 1024,
        max_line_size=64 * 1024,
        max_field_size=64 * 1024,
    )


class OpenAICompatible:
    """One server's address and key, and what the gateway asks of it."""

    def __init__(self, pool: Pool, name: str, url: str, api_key: str = "") -> None:
        self._pool = pool
        self._name = name
        self.url = url
        self._headers = {"Accept-Encoding": "identity"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._urls: dict[str, URL] = {}

    async def open(
        self, path: str, body: bytes, headers: Mapping[str, str], head_timeout_s: float
    ) -> aiohttp.ClientResponse:
        """POST `body` and return the response once its head is there; the caller closes it.

        A connection that fails before the head is tried once more on a fresh socket: servers drop kept-alive
        ones without a word. A status is never tried again.

        Raises:
            EngineUnreachable: no connection, twice.
            EngineTimeout: no head within `head_timeout_s`.
        """
        url = self._url(path)
        all_headers = {**self._headers, **headers}
        try:
            async with asyncio.timeout(head_timeout_s):
                try:
                    return await self._post(self._pool.kept, url, body, all_headers)
                except _LOST:
                    return await self._post(self._pool.fresh, url, body, all_headers)
        except aiohttp.ConnectionTimeoutError:
            raise self._no_connection() from None
        except TimeoutError:
            raise EngineTimeout(
                f"{self._name} sent no answer within {head_timeout_s:g} s (GATEWAY_FIRST_TOKEN_TIMEOUT_S for streams, "
                "GATEWAY_RESPONSE_TIMEOUT_S for plain requests)"
            ) from None
        except _LOST as error:
            raise self._unreachable(error) from None
        except (aiohttp.ClientError, ValueError) as error:
            raise EngineInvalidResponse(f"{self._name} did not answer in HTTP: {error}") from None

    async def pass_on(
        self, method: str, target: str, headers: Mapping[str, str], body: AsyncIterator[bytes] | None
    ) -> aiohttp.ClientResponse:
        """Send a request of any method and return the response once its head is there; the caller closes it.

        The body is read as the server takes it, so that nothing is tried again, and each call has a fresh socket.

        Args:
            target: path and query, encoded.

        Raises:
            EngineUnreachable: no connection, or it was lost; also where the body ended with an error.
        """
        url = URL(self.url + target, encoded=True)
        all_headers = {**self._headers, **headers}
        try:
            return await self._pool.fresh.request(method, url, data=body, headers=all_headers, allow_redirects=False)
        except aiohttp.ConnectionTimeoutError:
            raise self._no_connection() from None
        except _LOST as error:
            raise self._unreachable(error) from None
        except (aiohttp.ClientError, ValueError) as error:
            raise EngineInvalidResponse(f"{self._name} did not answer in HTTP: {error}") from None

    def _no_connection(self) -> EngineUnreachable:
        return EngineUnreachable(
            f"{self._name} at {self.url} took no connection within {self._pool.connect_timeout_s:g} s "
            "(GATEWAY_CONNECT_TIMEOUT_S); see `sparkstack status`"
        )

    def _unreachable(self, error: Exception) -> EngineUnreachable:
        return EngineUnreachable(
            f"{self._name} at {self.url} can't be reached: {_reason(error)}; see `sparkstack status`"
        )

    async def _post(
        self, session: aiohttp.ClientSession, url: URL, body: bytes, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse:
        return await session.post(url, data=in_pieces(body), headers=headers, allow_redirects=False)

    async def models(self, timeout_s: float) -> list[dict[str, Any]]:
        """Return the items of the server's `/v1/models`.

        Raises:
            EngineUnreachable, EngineTimeout, EngineInvalidResponse
            ModelLoading, Overloaded: it is there but not yet of use.
        """
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._pool.fresh.get(self._url("/v1/models"), headers=self._headers) as response,
            ):
                body = await response.read()
                if response.status == 503:
                    raise from_engine(503, body, response.headers.get("Retry-After"), self._name)
                if response.status != 200:
                    raise EngineInvalidResponse(f"GET {self.url}/v1/models answers {response.status}")
                document = msgspec.json.decode(body)
                return [item for item in document["data"] if isinstance(item, dict)]
        except TimeoutError:
            raise EngineTimeout(f"{self.url} did not list its models within {timeout_s:g} s") from None
        except _LOST as error:
            raise EngineUnreachable(f"{self.url} can't be reached: {_reason(error)}") from None
        except (aiohttp.ClientError, msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
            raise EngineInvalidResponse(f"GET {self.url}/v1/models gives no list of models: {error}") from None

    async def count_tokens(self, model: str, text: str) -> int | None:
        """Return how many tokens `text` has; None where the server can't say within 2 s.

        llama.cpp reads `content`, vLLM `prompt`.
        """
        answer = await self._ask("/tokenize", {"model": model, "content": text, "prompt": text})
        if isinstance(answer, dict):
            count, tokens = answer.get("count"), answer.get("tokens")
            if isinstance(count, int):
                return count
            if isinstance(tokens, list):
                return len(tokens)
        return None

    async def apply_template(self, model: str, messages: Any) -> str | None:
        """Return the prompt that the server makes of chat messages; None where it can't say."""
        answer = await self._ask("/apply-template", {"model": model, "messages": messages})
        prompt = answer.get("prompt") if isinstance(answer, dict) else None
        return prompt if isinstance(prompt, str) else None

    async def _ask(self, path: str, document: dict[str, Any]) -> Any:
        body = msgspec.json.encode(document)
        headers = {**self._headers, "Content-Type": "application/json"}
        try:
            async with (
                asyncio.timeout(_TOKENIZE_S),
                self._pool.fresh.post(self._url(path), data=in_pieces(body), headers=headers) as response,
            ):
                return msgspec.json.decode(await response.read()) if response.status == 200 else None
        except (aiohttp.ClientError, TimeoutError, OSError, msgspec.DecodeError):
            return None

    def _url(self, path: str) -> URL:
        url = self._urls.get(path)
        if url is None:
            url = self._urls[path] = URL(self.url + path)
        return url


def in_pieces(body: bytes) -> bytes | io.BytesIO:
    """Return a large body in the form that aiohttp writes in pieces: one write would hold up the other streams."""
    return io.BytesIO(body) if len(body) > _ONE_WRITE_BYTES else body


def _reason(error: Exception) -> str:
    """Return why a connection failed, without aiohttp's inner details."""
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno
        return os.strerror(number).lower() if number else str(error.os_error)
    return str(error) or type(error).__name__

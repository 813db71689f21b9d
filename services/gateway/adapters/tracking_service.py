"""The tracking service over HTTP. Calls are few and far from the hot path: each has a fresh connection."""

import aiohttp

from services.gateway.adapters.openai_compatible import Pool, in_pieces
from services.gateway.sending import NeverTaken, NotTaken

_CALL_S = 10.0
_WRONG = frozenset({400, 413, 422})
"""What is wrong with the batch itself; any other refusal, a wrong key's too, may be over one day."""


class HttpTrackingService:
    """The tracking service at an address."""

    def __init__(self, pool: Pool, url: str, api_key: str = "") -> None:
        self._session = pool.fresh
        self._url = f"{url}/v1/tracking/records"
        self._headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._timeout = aiohttp.ClientTimeout(total=_CALL_S, sock_connect=pool.connect_timeout_s)

    async def take(self, batch: bytes) -> None:
        try:
            async with self._session.post(
                self._url, data=in_pieces(batch), headers=self._headers, timeout=self._timeout, allow_redirects=False
            ) as response:
                status, after = response.status, response.headers.get("Retry-After", "")
        except TimeoutError:
            raise NotTaken(f"no answer from {self._url} within {_CALL_S:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise NotTaken(f"{self._url} can't be reached: {error or type(error).__name__}") from None
        if status in _WRONG:
            raise NeverTaken(f"{self._url} answers {status}")
        if not 200 <= status < 300:
            raise NotTaken(f"{self._url} answers {status}", float(after) if after.isdecimal() else 0.0)

"""The data path: one answer from an engine to a client, by the seven rules of streaming.

See docs/decisions/0003-streaming-rules.md. Bytes are relayed event by event as they come; what is read of them
(first token, usage, errors) is read beside the relay. One task reads and writes; a second waits for the client to
leave; one timer, armed once and not once a chunk, watches for silence.
"""

import asyncio
import time
from collections.abc import Mapping

import aiohttp

from services.gateway.backends import Backends
from services.gateway.errors import from_engine
from services.gateway.exchange import Exchange, Live
from services.gateway.formats import AnswerFormat
from services.gateway.headers import response_headers
from services.gateway.metrics import GatewayMetrics
from services.gateway.reading import AnswerReader
from services.gateway.settings import GatewaySettings
from services.gateway.usage import count_usage, estimate_usage
from services.kit.asgi import Receive, Send, send_response
from services.kit.errors import AppError, EngineInvalidResponse, EngineTimeout, EngineUnreachable

_MAX_ERROR_BYTES = 256 * 1024
_MAX_PLAIN_BYTES = 512 * 1024 * 1024
_LAST_BYTES_S = 1.0
_BRIEFLY_S = 0.5
"""For the body of a refusal: the client learns of a 429 within a second, whatever the engine does."""


class Relay:
    """Carries one exchange; used once."""

    def __init__(
        self,
        exchange: Exchange,
        answer_format: AnswerFormat,
        send: Send,
        *,
        settings: GatewaySettings,
        backends: Backends,
        live: Live,
        metrics: GatewayMetrics,
    ) -> None:
        self._exchange = exchange
        self._format = answer_format
        self._send = send
        self._settings = settings
        self._backends = backends
        self._backend = backends[exchange.target.backend]
        self._live = live
        self._metrics = metrics
        self._response: aiohttp.ClientResponse | None = None
        self._reader = AnswerReader(exchange, answer_format, live, self._backend.name)
        self._head_sent = False
        self._ended = False
        self._interruption: AppError | str | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._active_at = 0.0
        self._sending = False

    async def run(self, receive: Receive, path: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Send the request upstream and the answer down; settle the usage whatever happens.

        Raises:
            AppError: a failure before the first byte of the answer; later ones go into the stream.
        """
        self._task = task = asyncio.current_task()
        assert task is not None
        watcher = asyncio.create_task(self._watch_client(receive, task))
        self._live.begin(self._exchange)
        try:
            await self._relay(path, body, headers)
        except asyncio.CancelledError:
            self._exchange.outcome = "cancelled"
            if self._interruption is None:  # the server itself is ending: no time to ask anyone
                estimate_usage(self._exchange)
                raise
            task.uncancel()
            await self._interrupted()
        except AppError as error:
            await self._fail(error)
        finally:
            self._ended = True
            watcher.cancel()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._close_upstream()
            await self._settle()

    async def _relay(self, path: str, body: bytes, headers: Mapping[str, str]) -> None:
        settings = self._settings
        bound = settings.first_token_timeout_s if self._exchange.stream else settings.plain_head_timeout_s
        response = self._response = await self._backend.api.open(path, body, headers, bound)
        if response.status != 200:
            raise await self._refusal(response)
        if self._exchange.stream:
            await self._relay_stream(response)
        else:
            await self._relay_plain(response)

    async def _refusal(self, response: aiohttp.ClientResponse) -> AppError:
        body = await self._read_briefly(response)
        if response.status < 400:
            return EngineInvalidResponse(f"{self._backend.name} answered with status {response.status}")
        return from_engine(response.status, body, response.headers.get("Retry-After"), self._backend.name)

    async def _read_briefly(self, response: aiohttp.ClientResponse) -> bytes:
        """Return what comes at once of a body that is not relayed; what is known without it tells enough."""
        body = b""
        try:
            async with asyncio.timeout(_BRIEFLY_S):
                while len(body) < _MAX_ERROR_BYTES and (chunk := await response.content.readany()):
                    body += chunk
        except (TimeoutError, aiohttp.ClientError, ConnectionError):
            pass
        return body

    # Plain answers

    async def _relay_plain(self, response: aiohttp.ClientResponse) -> None:
        self._watch_for_silence()
        parts = []
        size = 0
        try:
            while chunk := await response.content.readany():
                self._active_at = time.monotonic()
                parts.append(chunk)
                size += len(chunk)
                if size > _MAX_PLAIN_BYTES:
                    raise EngineInvalidResponse(f"{self._backend.name} answered with over {_MAX_PLAIN_BYTES:,} bytes")
        except (aiohttp.ClientError, ConnectionError):
            raise self._lost() from None
        body = b"".join(parts)
        self._reader.read_plain(body, response.content_type)
        self._head_sent = self._sending = True
        self._ended = True
        headers = [(b"content-type", b"application/json"), *response_headers(response.raw_headers)]
        await send_response(self._send, 200, headers, self._format.plain(body, self._exchange))

    # Streams

    async def _relay_stream(self, response: aiohttp.ClientResponse) -> None:
        if response.content_type != "text/event-stream":
            body = await self._read_briefly(response)
            if response.content_type == "application/json":
                self._reader.read_plain(body, response.content_type)
            raise EngineInvalidResponse(
                f"{self._backend.name} answered a stream with {response.content_type}, not text/event-stream"
            )
        await self._send_head(response)
        try:
            while not self._reader.begun:
                await self._forward(await self._read_before_first_token(response.content))
            self._watch_for_silence()
            while not self._reader.done:
                await self._forward(await response.content.readany())
        except (aiohttp.ClientError, ConnectionError):
            raise self._lost() from None
        if self._exchange.usage is None and self._format.ends_with_usage:
            await count_usage(self._exchange, self._backend.api)
        await self._send_last(self._format.finish(self._exchange))
        await self._read_to_end(response)

    async def _send_head(self, response: aiohttp.ClientResponse) -> None:
        self._head_sent = True
        headers = [
            (b"content-type", self._format.content_type),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
            *response_headers(response.raw_headers),
        ]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _read_before_first_token(self, content: aiohttp.StreamReader) -> bytes:
        """Return the next bytes; meanwhile keep the client's connection alive, up to the bound of rule 1."""
        bound = self._settings.first_token_timeout_s
        deadline = self._exchange.started + bound
        while (left := deadline - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(min(self._settings.keep_alive_s, left)):
                    return await content.readany()
            except TimeoutError:
                if self._format.keep_alive:
                    await self._send_part(self._format.keep_alive)
        raise EngineTimeout(f"{self._backend.name} sent no token within {bound:g} s (GATEWAY_FIRST_TOKEN_TIMEOUT_S)")

    async def _forward(self, chunk: bytes) -> None:
        self._active_at = now = time.monotonic()
        out, failure = self._reader.feed(chunk, now)
        if out:  # what came before a failure belongs to the client
            await self._send_part(out)
        if failure is not None:
            raise failure

    async def _read_to_end(self, response: aiohttp.ClientResponse) -> None:
        """Read what follows `[DONE]`, nothing as a rule, so that the connection can be used again."""
        try:
            async with asyncio.timeout(_LAST_BYTES_S):
                while await response.content.readany():
                    pass
        except (TimeoutError, aiohttp.ClientError, ConnectionError):
            self._close_upstream()

    # Sending, and the ways in which an exchange is interrupted

    async def _send_part(self, body: bytes) -> None:
        self._sending = True
        await self._send({"type": "http.response.body", "body": body, "more_body": True})
        self._sending = False
        self._active_at = time.monotonic()

    async def _send_last(self, body: bytes) -> None:
        self._ended = True
        await self._send({"type": "http.response.body", "body": body})

    async def _watch_client(self, receive: Receive, task: "asyncio.Task[None]") -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        if not self._ended:
            self._interrupt("the client left", task)

    def _interrupt(self, reason: AppError | str, task: "asyncio.Task[None]") -> None:
        if self._interruption is None:
            self._interruption = reason
            task.cancel()

    def _watch_for_silence(self) -> None:
        """Arm the one timer that ends the exchange after `GATEWAY_IDLE_TIMEOUT_S` without a byte moving.

        It calls a method: a function made here would hold itself and the whole exchange in a cycle that only the
        garbage collector frees.
        """
        self._active_at = time.monotonic()
        self._arm(self._settings.idle_timeout_s)

    def _arm(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._check_silence)

    def _check_silence(self) -> None:
        bound = self._settings.idle_timeout_s
        left = self._active_at + bound - time.monotonic()
        if left > 0:
            self._arm(left)
        elif not self._ended:
            assert self._task is not None
            self._interrupt("the client took nothing" if self._sending else self._silent(bound), self._task)

    def _silent(self, bound: float) -> EngineTimeout:
        return EngineTimeout(
            f"{self._backend.name} fell silent in the middle of the answer for {bound:g} s (GATEWAY_IDLE_TIMEOUT_S)"
        )

    async def _interrupted(self) -> None:
        reason = self._interruption
        self._close_upstream()
        if isinstance(reason, AppError):
            await self._fail(reason)

    async def _fail(self, error: AppError) -> None:
        self._close_upstream()
        self._exchange.outcome = "failed"
        self._exchange.error_code = error.code
        if isinstance(error, EngineUnreachable):
            self._backends.lost(self._backend.name)
        if not self._head_sent:
            raise error
        await self._send_last(self._format.error(error))

    def _lost(self) -> EngineUnreachable:
        return EngineUnreachable(
            f"the connection to {self._backend.name} was lost in the middle of the answer, which is incomplete; "
            "ask again, or see `sparkstack status`"
        )

    def _close_upstream(self) -> None:
        if self._response is not None:
            self._response.close()

    async def _settle(self) -> None:
        exchange = self._exchange
        try:
            if exchange.usage is None and (exchange.outcome != "failed" or self._head_sent):
                try:
                    await count_usage(exchange, self._backend.api)
                except asyncio.CancelledError:
                    estimate_usage(exchange)
        finally:
            self._live.end(exchange)
            self._metrics.settle(exchange, time.monotonic() - exchange.started)

"""The data path: one answer from an engine to a client, by the seven rules of streaming.

See docs/decisions/0003-streaming-rules.md. Bytes are relayed event by event as they come; what is read of them
(first token, usage, errors) is read beside the relay. One task reads and writes; a second waits for the client to
leave; one timer, armed once and not once a chunk, watches for silence.
"""

import asyncio
import time
from collections.abc import Mapping

import aiohttp

from services.gateway.adapters.openai_compatible import OpenAICompatible
from services.gateway.asking import Asking
from services.gateway.backends import OWN, Backends
from services.gateway.control import Progress
from services.gateway.demands import Patience
from services.gateway.exchange import Exchange, Live
from services.gateway.formats import AnswerFormat, Forward
from services.gateway.headers import response_headers
from services.gateway.holding import BoundedPatience, LeaseHolder, SilentPatience, TalkingPatience
from services.gateway.leases import Leases
from services.gateway.metrics import GatewayMetrics
from services.gateway.reading import AnswerReader
from services.gateway.refusals import read_briefly, read_refusal
from services.gateway.settings import GatewaySettings
from services.gateway.usage import count_usage, estimate_usage
from services.kit.asgi import Headers, Receive, Send, send_response
from services.kit.errors import (
    AppError,
    EngineInvalidResponse,
    EngineTimeout,
    EngineUnreachable,
    Internal,
    ModelLoading,
    waiting_headers,
)

_MAX_PLAIN_BYTES = 512 * 1024 * 1024
_LAST_BYTES_S = 1.0


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
        leases: Leases | None,
        live: Live,
        metrics: GatewayMetrics,
    ) -> None:
        self._exchange = exchange
        self._format = answer_format
        self._send = send
        self._settings = settings
        self._backends = backends
        self._asking = Asking(exchange)
        self._holder = LeaseHolder(exchange, leases, metrics) if exchange.target.managed and leases else None
        self._live = live
        self._metrics = metrics
        self._name = exchange.target.backend
        self._api: OpenAICompatible | None = None
        """The engine that has got the request; None before one has."""
        self._asked_at = 0.0
        self._response: aiohttp.ClientResponse | None = None
        self._reader: AnswerReader
        self._head_sent = False
        self._answered = False
        """The client has got a byte of an answer: from here on there is no second try."""
        self._ended = False
        self._interruption: AppError | str | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._active_at = 0.0
        self._sending = False

    async def run(self, receive: Receive, forward: Forward, headers: Mapping[str, str]) -> None:
        """Send the request upstream and the answer down; settle the usage whatever happens.

        Raises:
            AppError: a failure before the first byte of the answer; later ones go into the stream.
        """
        self._task = task = asyncio.current_task()
        assert task is not None
        watcher = asyncio.create_task(self._watch_client(receive, task))
        self._live.begin(self._exchange)
        try:
            if self._holder is None:
                await self._relay_to_backend(forward, headers)
            else:
                await self._relay_leased(self._holder, forward, headers)
        except asyncio.CancelledError:
            self._exchange.outcome = "cancelled"
            if self._interruption is None:  # the server itself is ending: no time to ask anyone
                self._estimate()
                raise
            task.uncancel()
            await self._interrupted()
        except AppError as error:
            await self._fail(error)
        except Exception:
            self._note_failure(Internal.code, Internal.status)
            raise
        finally:
            self._ended = True
            watcher.cancel()
            self._disarm()
            self._close_upstream()
            try:
                await self._settle()
            finally:
                self._asking.end()
                if self._holder is not None:
                    self._holder.give_back(forward.keep_alive_s)

    # Where it goes

    async def _relay_to_backend(self, forward: Forward, headers: Mapping[str, str]) -> None:
        exchange = self._exchange
        backend = self._backends[exchange.target.backend]
        exchange.engine, exchange.upstream_id = backend.engine, exchange.target.upstream_id
        await self._relay(backend.name, backend.api, forward, headers)

    async def _relay_leased(self, holder: LeaseHolder, forward: Forward, headers: Mapping[str, str]) -> None:
        """Relay to the engine that a lease names; one that is lost before a byte of its answer has a successor."""
        lease = await holder.take(self._patience)
        try:
            await self._relay(lease.name, lease.api, forward, headers)
        except EngineUnreachable as error:
            if self._answered or self._exchange.deltas:
                raise
            self._disarm()
            self._close_upstream()
            self._asking.lost(error)
            self._response = self._api = None
            lease = await holder.replace(error.message, self._patience)
            await self._relay(lease.name, lease.api, forward, headers)

    def _patience(self) -> Patience:
        if not self._exchange.stream:
            return BoundedPatience(self._settings.load_wait_s)
        if not self._format.keep_alive:
            return SilentPatience()
        return TalkingPatience(self._exchange.model, self._say_why, self._settings.keep_alive_s)

    async def _say_why(self, comment: bytes, progress: Progress) -> None:
        if not self._head_sent:
            await self._send_head(waiting_headers(progress.position, progress.eta_s))
        await self._send_part(comment)

    # What comes back

    async def _relay(self, name: str, api: OpenAICompatible, forward: Forward, headers: Mapping[str, str]) -> None:
        settings, exchange = self._settings, self._exchange
        self._name, self._api = name, api
        self._reader = AnswerReader(exchange, self._format, self._live, self._name)
        self._asked_at = time.monotonic()
        bound = settings.first_token_timeout_s if exchange.stream else settings.plain_head_timeout_s
        body = self._reader.request(forward.encoded(exchange.upstream_id))
        headers = self._asking.begin(api.url, headers)
        response = self._response = await api.open(forward.path, body, headers, bound)
        if response.status != 200:
            raise await self._refusal(response)
        if exchange.stream:
            await self._relay_stream(response)
        else:
            await self._relay_plain(response)

    async def _refusal(self, response: aiohttp.ClientResponse) -> AppError:
        error = await read_refusal(response, self._name, own=self._exchange.engine == OWN)
        if self._holder is not None and (response.status in (401, 403) or isinstance(error, ModelLoading)):
            # It was ready and took our key when it was leased: another process has its port now.
            return EngineUnreachable(f"{self._name} is not the engine that was leased: {error.message}")
        return error

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
                    raise EngineInvalidResponse(f"{self._name} answered with over {_MAX_PLAIN_BYTES:,} bytes")
        except (aiohttp.ClientError, ConnectionError):
            raise self._lost() from None
        body = b"".join(parts)
        body = self._reader.read_plain(body, response.content_type)
        self._head_sent = self._answered = self._sending = True
        self._ended = True
        self._exchange.status = 200
        headers = [(b"content-type", b"application/json"), *response_headers(response.raw_headers)]
        await send_response(self._send, 200, headers, self._format.plain(body, self._exchange))

    # Streams

    async def _relay_stream(self, response: aiohttp.ClientResponse) -> None:
        if response.content_type != "text/event-stream":
            body = await read_briefly(response)
            if response.content_type == "application/json":
                self._reader.read_plain(body, response.content_type)
            raise EngineInvalidResponse(
                f"{self._name} answered a stream with {response.content_type}, not text/event-stream"
            )
        if not self._head_sent:
            await self._send_head(response_headers(response.raw_headers))
        try:
            while not self._reader.begun:
                await self._forward(await self._read_before_first_token(response.content))
            self._watch_for_silence()
            while not self._reader.done:
                await self._forward(await response.content.readany())
        except (aiohttp.ClientError, ConnectionError):
            raise self._lost() from None
        if self._exchange.usage is None and self._format.ends_with_usage:
            assert self._api is not None
            await count_usage(self._exchange, self._api)
        await self._send_last(self._format.finish(self._exchange))
        await self._read_to_end(response)

    async def _send_head(self, more: Headers) -> None:
        self._head_sent = True
        self._exchange.status = 200
        headers = [
            (b"content-type", self._format.content_type),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
            *more,
        ]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _read_before_first_token(self, content: aiohttp.StreamReader) -> bytes:
        """Return the next bytes; meanwhile keep the client's connection alive, up to the bound of rule 1."""
        bound = self._settings.first_token_timeout_s
        deadline = self._asked_at + bound
        while (left := deadline - time.monotonic()) > 0:
            try:
                async with asyncio.timeout(min(self._settings.keep_alive_s, left)):
                    return await content.readany()
            except TimeoutError:
                if self._format.keep_alive:
                    await self._send_part(self._format.keep_alive)
        raise EngineTimeout(f"{self._name} sent no token within {bound:g} s (GATEWAY_FIRST_TOKEN_TIMEOUT_S)")

    async def _forward(self, chunk: bytes) -> None:
        self._active_at = now = time.monotonic()
        out, failure = self._reader.feed(chunk, now)
        if out:  # what came before a failure belongs to the client
            self._answered = True
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
            f"{self._name} fell silent in the middle of the answer for {bound:g} s (GATEWAY_IDLE_TIMEOUT_S)"
        )

    async def _interrupted(self) -> None:
        reason = self._interruption
        self._close_upstream()
        if isinstance(reason, AppError):
            await self._fail(reason)

    async def _fail(self, error: AppError) -> None:
        self._close_upstream()
        self._note_failure(error.code, error.status)
        if self._holder is None:
            if isinstance(error, EngineUnreachable) or error.status == 404:  # its list of models may be another now
                self._backends.changed(self._exchange.target.backend)
        elif isinstance(error, EngineUnreachable):
            self._holder.lost(error.message)
        if not self._head_sent:
            raise error
        await self._send_last(self._format.error(error))

    def _note_failure(self, code: str, status: int) -> None:
        self._exchange.outcome, self._exchange.error_code = "failed", code
        if not self._head_sent:
            self._exchange.status = status

    def _lost(self) -> EngineUnreachable:
        return EngineUnreachable(
            f"the connection to {self._name} was lost in the middle of the answer, which is incomplete; "
            "ask again, or see `sparkstack status`"
        )

    def _close_upstream(self) -> None:
        if self._response is not None:
            self._response.close()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _estimate(self) -> None:
        if self._api is not None:
            estimate_usage(self._exchange)

    async def _settle(self) -> None:
        """Account for the exchange; what no engine has got has used nothing."""
        exchange = self._exchange
        try:
            used = exchange.billed and self._api is not None and (exchange.outcome != "failed" or self._head_sent)
            if exchange.usage is None and used:
                assert self._api is not None
                try:
                    await count_usage(exchange, self._api)
                except asyncio.CancelledError:
                    estimate_usage(exchange)
        finally:
            self._live.end(exchange)
            self._metrics.settle(exchange, time.monotonic() - exchange.started)

"""Chat models behind the gateway, over one aiohttp session: whole answers, streams, and what is known of a model."""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec

from services.kit import genai, tracing
from services.kit.errors import AppError, EngineInvalidResponse, EngineUnreachable
from services.kit.sse import EventSplitter, EventTooLarge, event_data
from services.kit.tracing import Span
from services.rag.errors import ModelRefused
from services.rag.ports import Caller, Generated

_CONNECT_S = 5.0
_FACTS_S = 2.0
_FACTS_KEPT_S = 30.0
_GUESS_KEPT_S = 3.0
_DEFAULT_CONTEXT_TOKENS = 4096
"""Where the gateway does not say what a model's context is: what nearly every chat model has at least."""
_SIZE_IN_NAME = re.compile(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)([bm])(?![a-z0-9])", re.IGNORECASE)
_LOST = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, ConnectionError)


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a model that answers.

    Args:
        id: the gateway's own, where an alias was asked for.
        parameters: None where neither the catalogue nor the name says.
    """

    id: str
    context_tokens: int
    parameters: int | None


def parameters_in_name(name: str) -> int | None:
    """Return the parameters that a model's name tells: 135,000,000 of `smollm2-135m`, 35,000,000,000 of `x-35b-a3b`."""
    found = _SIZE_IN_NAME.search(name)
    if found is None:
        return None
    return int(float(found[1]) * (1_000_000_000 if found[2] in "bB" else 1_000_000))


class HttpGenerator:
    """The gateway's `/v1/chat/completions`, as a service of the stack calls it.

    Args:
        url: of the gateway, without a path.
        key: that the gateway wants of the stack's services; empty for none.
        model: that answers where a call doesn't name one.
    """

    def __init__(self, url: str, key: str, model: str) -> None:
        self.model = model
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._session: aiohttp.ClientSession | None = None
        self._facts: dict[str, tuple[float, ModelFacts]] = {}
        """Until when it holds, by name."""

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()

    async def generate(
        self, messages: Sequence[Mapping[str, Any]], caller: Caller, *, max_tokens: int, **options: Any
    ) -> Generated:
        """Return a whole answer; `model` and the fields of OpenAI's API go as options.

        Raises:
            AppError: the gateway's own, as it came.
        """
        body = self._body(messages, max_tokens, options)
        with self._span(options, max_tokens) as span:
            return await self._whole(body, caller, span)

    async def _whole(self, body: bytes, caller: Caller, span: Span) -> Generated:
        try:
            async with self._post(body, caller, span) as response:
                document = await response.read()
                if response.status != 200:
                    raise _refusal(response.status, document, response.headers.get("Retry-After"))
        except _LOST as error:
            raise self._lost(error) from None
        try:
            answer = msgspec.json.decode(document)
            choice, usage = answer["choices"][0], answer.get("usage") or {}
            return Generated(
                text=choice["message"].get("content") or "",
                finish_reason=choice.get("finish_reason") or "stop",
                prompt_tokens=int(usage.get("prompt_tokens", 0)),
                completion_tokens=int(usage.get("completion_tokens", 0)),
            )
        except (msgspec.DecodeError, KeyError, IndexError, TypeError, AttributeError, ValueError):
            raise EngineInvalidResponse("the gateway's answer is not a chat completion") from None

    async def stream(
        self, messages: Sequence[Mapping[str, Any]], caller: Caller, *, max_tokens: int, **options: Any
    ) -> AsyncIterator[dict[str, Any]]:
        """Yield the events of a streamed answer; `{}` for a comment: it says that the answer is still being waited for.

        Raises:
            AppError: the gateway's own, as it came; also one in the middle of the stream.
        """
        streamed = {"stream": True, "stream_options": {"include_usage": True}}
        body = self._body(messages, max_tokens, {**options, **streamed})
        # Never the current span: whoever reads this generator runs between its pieces.
        with tracing.ending(self._span({**options, **streamed}, max_tokens)) as span:
            async with aclosing(self._events(body, caller, span)) as events:
                async for event in events:
                    yield event

    async def _events(self, body: bytes, caller: Caller, span: Span) -> AsyncGenerator[dict[str, Any], None]:
        splitter = EventSplitter()
        try:
            async with self._post(body, caller, span) as response:
                try:
                    if response.status != 200:
                        error = await response.read()
                        raise _refusal(response.status, error, response.headers.get("Retry-After"))
                    async for chunk in response.content.iter_any():
                        for event in splitter.feed(chunk):
                            data = event_data(event)
                            if data == b"[DONE]":
                                return
                            yield {} if data is None else _read_event(data)
                finally:
                    response.close()  # not released: an answer that nobody reads must end upstream at once
        except _LOST as error:
            raise self._lost(error) from None
        except EventTooLarge as error:
            raise EngineInvalidResponse(f"the gateway's stream: {error}") from None
        raise EngineUnreachable("the gateway's stream ended before the answer did")

    async def facts(self, model: str, caller: Caller | None = None) -> ModelFacts:
        """Return what is known of a model; asked again after half a minute, and guessed where nobody says."""
        name = model or self.model
        now = time.monotonic()
        kept = self._facts.get(name)
        if kept is not None and now < kept[0]:
            return kept[1]
        facts, good_for_s = await self._ask_facts(name, caller or Caller()), _FACTS_KEPT_S
        if facts is None:
            facts, good_for_s = ModelFacts(name, _DEFAULT_CONTEXT_TOKENS, parameters_in_name(name)), _GUESS_KEPT_S
            facts = kept[1] if kept else facts
        self._facts[name] = (now + good_for_s, facts)
        return facts

    async def _ask_facts(self, name: str, caller: Caller) -> ModelFacts | None:
        listed = await self._get(f"/v1/models/{quote(name)}", caller)
        if not isinstance(listed, dict):
            return None
        own = listed.get("sparkstack") or {}
        model = str(listed.get("id", name))
        parameters = own.get("parameters")
        if parameters is None:
            status = await self._get("/status", caller)
            models = status.get("models", []) if isinstance(status, dict) else []
            parameters = next((each.get("parameters") for each in models if each.get("id") == model), None)
        context = own.get("context_tokens")
        return ModelFacts(
            id=model,
            context_tokens=context if isinstance(context, int) and context > 0 else _DEFAULT_CONTEXT_TOKENS,
            parameters=parameters if isinstance(parameters, int) else parameters_in_name(model),
        )

    async def _get(self, path: str, caller: Caller) -> Any:
        try:
            async with (
                asyncio.timeout(_FACTS_S),
                self._open_session().get(
                    self._url + path, headers={**self._headers, **caller.headers, **tracing.outgoing_headers()}
                ) as response,
            ):
                return msgspec.json.decode(await response.read()) if response.status == 200 else None
        except (aiohttp.ClientError, OSError, TimeoutError, msgspec.DecodeError):
            return None

    def _body(self, messages: Sequence[Mapping[str, Any]], max_tokens: int, options: Mapping[str, Any]) -> bytes:
        given = {"model": self.model, **{name: value for name, value in options.items() if value is not None}}
        return msgspec.json.encode({**given, "messages": list(messages), "max_tokens": max_tokens})

    def _span(self, options: Mapping[str, Any], max_tokens: int) -> Span:
        model = str(options.get("model") or self.model)
        about = genai.request("chat", model, {**options, "max_tokens": max_tokens})
        return tracing.client_span(genai.name_of("chat", model), about)

    def _post(self, body: bytes, caller: Caller, span: Span) -> Any:
        headers = {"Content-Type": "application/json", **caller.headers, **span.headers(), **self._headers}
        return self._open_session().post(f"{self._url}/v1/chat/completions", data=body, headers=headers)

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    def _lost(self, error: BaseException) -> EngineUnreachable:
        return EngineUnreachable(
            f"the gateway at {self._url} (RAG_GATEWAY_URL) can't be reached, or the connection was lost: "
            f"{type(error).__name__}; see `sparkstack status`"
        )


def _read_event(data: bytes) -> dict[str, Any]:
    try:
        event = msgspec.json.decode(data)
    except msgspec.DecodeError:
        raise EngineInvalidResponse("an event of the gateway's stream is not JSON") from None
    if not isinstance(event, dict):
        raise EngineInvalidResponse("an event of the gateway's stream is not a JSON object")
    if event.get("error"):
        raise _refusal(502, data, None)
    return event


def _refusal(status: int, body: bytes, retry_after: str | None) -> AppError:
    try:
        error = msgspec.json.decode(body)["error"]
        message, kind, code = str(error["message"]), error.get("type"), error.get("code")
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
        return ModelRefused(f"the gateway answers {status} without a reason").told(status)
    wait_s = float(retry_after) if retry_after and retry_after.isdigit() else None
    return ModelRefused(message, retry_after_s=wait_s).told(
        status, kind if isinstance(kind, str) else None, code if isinstance(code, str) else None
    )

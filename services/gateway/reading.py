"""What is read of an engine's answer beside its relay: tokens, usage, errors, the end."""

import msgspec

from services.gateway.adapters.normaliser import normaliser_for
from services.gateway.errors import from_error_event
from services.gateway.exchange import Exchange, Live
from services.gateway.formats import AnswerFormat
from services.kit.errors import AppError, EngineInvalidResponse
from services.kit.openai import Answer, Choice, Delta, Usage, read_answer
from services.kit.sse import EventSplitter, EventTooLarge, event_data, event_name

_NO_JSON = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)


class AnswerReader:
    """Reads one answer, and writes down in the exchange what it says.

    Args:
        engine: the backend's name, for messages.
    """

    def __init__(self, exchange: Exchange, answer_format: AnswerFormat, live: Live, engine: str) -> None:
        self.done = False
        """`[DONE]` has come, or the engine has closed a finished stream."""
        self.begun = False
        """A content event has come, or the answer has ended without one."""
        self._exchange = exchange
        self._format = answer_format
        self._live = live
        self._engine = engine
        self._splitter = EventSplitter()
        self._finished = False
        self._normaliser = normaliser_for(exchange.engine, exchange)
        self._noting = exchange.keeps_answer or "tools" in exchange.fields

    def request(self, body: bytes) -> bytes:
        """Return the body as this engine can be asked.

        Raises:
            AppError: the engine can't do what is asked, and would not say so.
        """
        return body if self._normaliser is None else self._normaliser.request(body)

    def read_plain(self, body: bytes, content_type: str) -> bytes:
        """Read a whole answer; return it as every engine would have written it.

        Raises:
            AppError: it is an error after all, or no JSON.
        """
        try:
            answer = read_answer(body)
        except _NO_JSON:
            raise EngineInvalidResponse(
                f"{self._engine} answered with {len(body)} bytes of {content_type} that are no JSON"
            ) from None
        if answer is None:
            return body
        error = _error_of(answer)
        if error is not None:
            raise from_error_event(error, self._engine)
        exchange = self._exchange
        exchange.usage, exchange.timings = _whole(answer.usage), answer.timings
        for choice in answer.choices:
            if answer.usage is None:
                exchange.keep_text(_text_of(choice))
            exchange.finish_reason = choice.finish_reason or exchange.finish_reason
        if self._normaliser is not None:
            body = self._normaliser.plain(body, answer)
        if self._noting and (said := read_answer(body)) is not None:
            self._note(said)
        return body

    def feed(self, chunk: bytes, now: float) -> tuple[bytes, AppError | None]:
        """Return what the client gets for the next bytes of a stream, and the failure behind it, if any.

        The tail of an unfinished event waits for its rest. An empty chunk is the stream's end.
        """
        if not chunk:
            return b"", self._ended()
        out = b""
        try:
            for event in self._splitter.feed(chunk):
                out += self._event(event, now)
                if self.done:
                    break
        except EventTooLarge as error:
            return out, EngineInvalidResponse(f"{self._engine} sent {error}")
        except AppError as error:
            return out, error
        return out, None

    def _ended(self) -> AppError | None:
        """The engine closed the stream without `[DONE]`: good only where the answer had been finished."""
        if self._splitter.pending.strip():
            return EngineInvalidResponse(f"{self._engine} ended the stream in the middle of an event")
        if not self._finished:
            return EngineInvalidResponse(f"{self._engine} ended the stream before the answer was finished")
        self.done = True
        return None

    def _event(self, event: bytes, now: float) -> bytes:
        """Take from an event what the gateway accounts for; return what the client gets."""
        data = event_data(event)
        if data is None:
            return self._format.event(event, None) if self._format.keep_alive else b""
        if data == b"[DONE]":
            self.done = self.begun = True
            return b""
        answer = self._answer(event, data)
        if answer is not None:
            if answer.usage is not None:
                self._exchange.usage, self._exchange.usage_source = answer.usage, "engine"
            if answer.timings is not None:
                self._exchange.timings = answer.timings
            for choice in answer.choices:
                self._choice(choice, now)
            if self._normaliser is not None:
                event, answer = self._normaliser.event(event, answer)
            if self._noting and answer is not None:
                self._note(answer)
        return self._format.event(event, answer)

    def _answer(self, event: bytes, data: bytes) -> Answer | None:
        try:
            answer = read_answer(data)
        except _NO_JSON:
            if event_name(event) == b"error":
                text = msgspec.json.encode(data.decode("utf-8", "replace"))
                raise from_error_event(text, self._engine) from None
            raise EngineInvalidResponse(f"{self._engine} sent an event of {len(data)} bytes that is no JSON") from None
        error = _error_of(answer)
        if error is None and not event.startswith(b"data:") and event_name(event) == b"error":
            error = data  # without an envelope
        if error is not None:
            raise from_error_event(error, self._engine)
        return answer

    def _choice(self, choice: Choice, now: float) -> None:
        exchange = self._exchange
        if choice.finish_reason:
            self._finished = self.begun = True
            exchange.finish_reason = choice.finish_reason
        text = _text_of(choice)
        if not text:
            return
        self.begun = True
        if exchange.first_token_at is None:
            exchange.first_token_at = now
        exchange.last_token_at = now
        exchange.deltas += 1
        exchange.keep_text(text)
        if exchange.billed:
            self._live.streamed_tokens += 1

    def _note(self, said: Answer) -> None:
        """Note what the client reads, as every engine would have written it: the first answer, and all tool calls."""
        exchange = self._exchange
        for choice in said.choices:
            part = choice.delta or choice.message
            if part is not None and part.tool_calls:
                # The name comes with the first piece of a call, and not again.
                exchange.tool_calls += sum(1 for call in part.tool_calls if call.function and call.function.name)
            text = choice.text if part is None else part.content
            if text and exchange.keeps_answer and not choice.index:
                exchange.keep_answer(text)


def _error_of(answer: Answer | None) -> bytes | None:
    """Return the error of an answer as JSON; `null` is none."""
    if answer is None or answer.error is msgspec.UNSET or bytes(answer.error) == b"null":
        return None
    return bytes(answer.error)


def _whole(usage: Usage | None) -> Usage | None:
    """Rerankers tell the sum alone: all of it went in."""
    if usage is None or usage.prompt_tokens or usage.completion_tokens:
        return usage
    return Usage(usage.total_tokens, 0, usage.total_tokens)


def _text_of(choice: Choice) -> str:
    """Return what a choice adds to the answer, whatever it is: text, reasoning or a tool call's arguments."""
    part: Delta | None = choice.delta or choice.message
    if part is None:
        return choice.text or ""
    text = part.content or part.reasoning_content or part.reasoning or ""
    if not text and part.tool_calls:
        names = (call.function for call in part.tool_calls if call.function is not None)
        text = "".join((function.name or "") + (function.arguments or "") for function in names)
    return text

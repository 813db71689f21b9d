"""One request and its answer, from the first byte to the settled usage; and the set of those under way."""

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from services.gateway.catalogue import Target
from services.kit.openai import Timings, Usage

Outcome = Literal["ok", "cancelled", "failed"]
UsageSource = Literal["engine", "tokenizer", "estimate"]

_MAX_TEXT_PIECES = 200_000
_MAX_ANSWER = 32_768


@dataclass(slots=True, eq=False)
class Exchange:
    """What is known of a request while it is relayed. Times are `time.monotonic()` seconds."""

    request_id: str
    client: str
    target: Target
    operation: str
    stream: bool
    fields: dict[str, Any]
    """The request's top-level fields, values still JSON bytes; read again only when tokens must be counted."""
    started: float = field(default_factory=time.monotonic)
    first_token_at: float | None = None
    last_token_at: float | None = None
    deltas: int = 0
    text: list[str] = field(default_factory=list)
    """Generated pieces, kept for counting tokens where the engine does not say; bounded."""
    usage: Usage | None = None
    usage_source: UsageSource = "engine"
    timings: Timings | None = None
    finish_reason: str | None = None
    tool_calls: int = 0
    """How many the answer asks for."""
    outcome: Outcome = "ok"
    status: int = 499
    """What the client was told; 499 where it had left before (nginx's number for it)."""
    error_code: str | None = None
    engine: str = ""
    """What serves it, once that is known: llamacpp, vllm, openai for any other server."""
    upstream_id: str = ""
    """What the model is called there."""
    billed: bool = True
    """Its tokens count here; not where a service behind asks the gateway again, which counts them then."""
    held: bool = False
    """It is waiting for its model to be loaded."""
    held_s: float = 0.0
    """How long it has waited for that."""
    hops: int = 0
    """How many of the stack's own services it has come through."""
    trace_id: str = ""
    sampled: bool = False
    """Its text is told to the tracking service."""
    keeps_answer: bool = False
    """What the client reads is kept, for a record or a trace."""
    _answer: list[str] = field(default_factory=list)
    _answer_room: int = _MAX_ANSWER

    @property
    def model(self) -> str:
        """The model's public id."""
        return self.target.public_id

    @property
    def first_token_s(self) -> float | None:
        """Time to first token (TTFT) in seconds."""
        return None if self.first_token_at is None else self.first_token_at - self.started

    @property
    def per_token_s(self) -> float | None:
        """Mean time between tokens after the first, in seconds; None for fewer than two."""
        if self.first_token_at is None or self.last_token_at is None or self.deltas < 2:
            return None
        return (self.last_token_at - self.first_token_at) / (self.deltas - 1)

    def keep_text(self, piece: str) -> None:
        """Remember a generated piece, up to a bound above which the count is an estimate anyway."""
        if len(self.text) < _MAX_TEXT_PIECES:
            self.text.append(piece)

    def keep_answer(self, piece: str) -> None:
        """Remember a piece of what the client reads, up to the length that records and traces have room for."""
        if self._answer_room > 0:
            self._answer.append(piece)
            self._answer_room -= len(piece)

    @property
    def answer_text(self) -> str:
        """What the client has read, where it is kept; cut."""
        return "".join(self._answer)[:_MAX_ANSWER]


@dataclass(slots=True)
class Totals:
    """Counts since the gateway started."""

    requests: int = 0
    failed: int = 0
    cancelled: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Live:
    """The exchanges under way, and rates over the last ten seconds, for the page and its `/status`."""

    def __init__(self) -> None:
        self.totals = Totals()
        self.streamed_tokens = 0
        self._exchanges: set[Exchange] = set()
        self._samples: deque[tuple[float, int, int]] = deque(maxlen=11)
        self._waiting: set[asyncio.Future[None]] = set()

    def __len__(self) -> int:
        return len(self._exchanges)

    def __iter__(self) -> Iterator[Exchange]:
        return iter(sorted(self._exchanges, key=lambda exchange: exchange.started))

    def begin(self, exchange: Exchange) -> None:
        """Count a request in."""
        self.totals.requests += 1
        self._exchanges.add(exchange)

    def end(self, exchange: Exchange) -> None:
        """Count a request out, with its outcome and tokens."""
        self._exchanges.discard(exchange)
        while self._waiting:
            waiting = self._waiting.pop()
            if not waiting.done():
                waiting.set_result(None)
        if exchange.outcome == "failed":
            self.totals.failed += 1
        elif exchange.outcome == "cancelled":
            self.totals.cancelled += 1
        if exchange.usage is not None and exchange.billed:
            self.totals.prompt_tokens += exchange.usage.prompt_tokens
            self.totals.completion_tokens += exchange.usage.completion_tokens
            if not exchange.stream:
                self.streamed_tokens += exchange.usage.completion_tokens

    def in_flight(self, model: str) -> int:
        """Return how many requests of a model are under way."""
        return sum(1 for exchange in self._exchanges if exchange.model == model)

    async def next_end(self) -> None:
        """Wait until a request has ended."""
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(ended)
        try:
            await ended
        finally:
            self._waiting.discard(ended)

    def sample(self) -> None:
        """Remember the counts of this second; called once a second."""
        self._samples.append((time.monotonic(), self.totals.requests, self.streamed_tokens))

    def rates(self) -> tuple[float, float]:
        """Return requests and tokens a second over the last ten seconds."""
        if not self._samples:
            return 0.0, 0.0
        then, requests, tokens = self._samples[0]
        seconds = max(time.monotonic() - then, 1.0)
        return (self.totals.requests - requests) / seconds, (self.streamed_tokens - tokens) / seconds

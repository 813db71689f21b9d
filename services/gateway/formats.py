"""The port between the relay and the APIs: what is sent to an engine, how its answer is written for a client."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from services.gateway.exchange import Exchange
from services.kit.errors import AppError
from services.kit.openai import Answer


@dataclass(slots=True)
class Forward:
    """What is sent to the engine: always one of OpenAI's requests.

    Args:
        encoded: returns the body for an engine that calls the model so.
        fields: the request's top-level fields as JSON bytes, for counting tokens where the engine does not.
        keep_alive_s: how long the model shall stay afterwards (0: not at all, -1: for good); None: as it is set.
    """

    path: str
    encoded: Callable[[str], bytes]
    operation: str
    stream: bool
    fields: dict[str, Any]
    keep_alive_s: float | None = None


class AnswerFormat(Protocol):
    """How an engine's answer is written for the client's API."""

    content_type: bytes
    """Of a stream."""
    keep_alive: bytes
    """What may be sent while nothing comes; empty where the format has no such thing."""
    ends_with_usage: bool
    """The end of the stream tells the usage: where the engine has none, it must be counted before."""

    def event(self, event: bytes, answer: Answer | None) -> bytes:
        """Return what the client gets for one upstream event, often the same bytes, or nothing."""

    def finish(self, exchange: Exchange) -> bytes:
        """Return the end of a good stream."""

    def error(self, error: AppError) -> bytes:
        """Return the end of a stream that failed."""

    def plain(self, body: bytes, exchange: Exchange) -> bytes:
        """Return the client's form of a whole answer."""

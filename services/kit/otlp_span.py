"""A span that is recorded: a small object, which becomes OTLP's bytes when it ends."""

import asyncio
import random
import time
from collections.abc import Iterable, Sequence
from contextvars import Token
from typing import Any, Protocol

from services.kit import otlp_wire, tracing
from services.kit.errors import AppError
from services.kit.otlp_wire import KINDS, SAMPLED
from services.kit.tracing import Attributes, Kind, Span, Value

random_bits = random.Random().getrandbits  # noqa: S311  (not the module's own, which anybody may seed)


class Home(Protocol):
    """What a span needs of its tracer."""

    @property
    def captures_content(self) -> bool:
        """Whether prompts and answers may be set."""

    def send(self, span: bytes) -> None:
        """Take a span that has ended; at once."""


class Recorded(Span):
    """A span that is going to be sent. Its fields are those of `otlp_wire.Ended`."""

    __slots__ = (
        "_token",
        "_tracer",
        "attributes",
        "began",
        "captures_content",
        "ended",
        "failed",
        "flags",
        "is_root",
        "kind",
        "links",
        "message",
        "name",
        "parent",
        "remote",
        "span",
        "state",
        "trace",
    )

    recording = True

    def __init__(
        self,
        tracer: Home,
        name: str,
        kind: Kind,
        attributes: Attributes | None,
        *,
        trace: bytes,
        parent: bytes = b"",
        remote: bool = False,
        flags: int = SAMPLED,
        state: str = "",
    ) -> None:
        self._tracer = tracer
        self._token: Token[Span] | None = None
        self.captures_content = tracer.captures_content
        self.is_root = not parent
        self.trace = trace
        self.span = (random_bits(64) or 1).to_bytes(8, "big")
        self.parent = parent
        self.remote = remote
        self.flags = flags
        self.state = state
        self.name = name
        self.kind = KINDS[kind]
        self.attributes: dict[str, Value] = dict(attributes) if attributes else {}
        self.links: Sequence[tuple[bytes, bytes]] = ()
        self.failed = False
        self.message = ""
        self.ended = 0
        self.began = time.time_ns()

    @property
    def trace_id(self) -> str:  # type: ignore[override]
        """32 hexadecimal digits."""
        return self.trace.hex()

    def set(self, attributes: Attributes) -> None:
        """Attach values."""
        self.attributes.update(attributes)

    def rename(self, name: str) -> None:
        """Give it another name."""
        self.name = name

    def record_error(self, kind: str, message: str = "") -> None:
        """Say that it failed."""
        self.attributes["error.type"] = kind
        self.failed = True
        self.message = message or kind

    def fail(self, error: BaseException) -> None:
        """Say by which exception it ended."""
        if isinstance(error, AppError):
            self.record_error(error.code, error.message)
        elif isinstance(error, asyncio.CancelledError | GeneratorExit):
            self.attributes["sparkstack.cancelled"] = True
        else:  # its text may hold anything
            self.record_error(type(error).__name__)

    def child(self, name: str, attributes: Attributes | None = None, *, kind: Kind = "internal") -> Span:
        """Begin a span below this one."""
        return self._below(name, attributes, kind)

    def record(
        self,
        name: str,
        began: float,
        ended: float,
        attributes: Attributes | None = None,
        links: Iterable[Span] = (),
    ) -> None:
        """Write down a step below this one that is over."""
        step = self._below(name, attributes, "internal")
        since_epoch = time.time_ns() - time.perf_counter_ns()
        step.began = since_epoch + int(began * 1e9)
        for other in links:
            step.link(other)
        step.end(since_epoch + int(ended * 1e9))

    def link(self, other: Span) -> None:
        """Say that it is work for another span, too."""
        if isinstance(other, Recorded) and other is not self:
            self.links = [*self.links, (other.trace, other.span)]

    def headers(self) -> dict[str, str]:
        """Return the headers that make the next service's spans children of this one."""
        found = {"traceparent": f"00-{self.trace.hex()}-{self.span.hex()}-{self.flags:02x}"}
        if self.state:
            found["tracestate"] = self.state
        return found

    def end(self, at_ns: int | None = None) -> None:
        """Hand it over for sending."""
        if not self.ended:
            # A clock that was set back meanwhile makes it short, and not shorter than nothing.
            self.ended = max(self.began, at_ns or time.time_ns())
            self._tracer.send(otlp_wire.encode(self))

    def __enter__(self) -> Span:
        self._token = tracing.enter(self)
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if self._token is not None:
            tracing.leave(self._token)
            self._token = None
        if error is not None:
            self.fail(error)
        self.end()

    def _below(self, name: str, attributes: Attributes | None, kind: Kind) -> "Recorded":
        return Recorded(
            self._tracer, name, kind, attributes, trace=self.trace, parent=self.span, flags=self.flags, state=self.state
        )

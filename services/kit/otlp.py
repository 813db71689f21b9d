"""Spans that are recorded: what `kit.tracing` promises, for those who have a collector.

A span is a small object of ours; when it ends `kit.otlp_wire` writes it down as bytes, and `kit.otlp_sending` gets
those to the collector. Why it is not OpenTelemetry's SDK: docs/decisions/0011-spans-of-our-own.md.
"""

import asyncio
import os
import random
import re
import time
import uuid
from collections.abc import Iterable, Sequence
from contextvars import Token
from typing import Any, Protocol

from services import __version__
from services.kit import otlp_wire, tracing
from services.kit.errors import AppError
from services.kit.otlp_posting import Posting
from services.kit.otlp_sending import Sender
from services.kit.otlp_variables import batching_from, collector_from, resource_from
from services.kit.otlp_wire import KINDS, RANDOM, SAMPLED
from services.kit.sampling import sampling_from
from services.kit.tracing import Attributes, Kind, Span, Unsampled, Value

CONTENT = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_CAPTURED = frozenset({"true", "1", "span_only", "span_and_event"})
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?\Z")
_random_bits = random.Random().getrandbits  # noqa: S311  (not the module's own, which anybody may seed)


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
        tracer: "OtlpTracer",
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
        self.span = (_random_bits(64) or 1).to_bytes(8, "big")
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


class TakesSpans(Protocol):
    """Who takes encoded spans: `otlp_sending.Sender`."""

    def put(self, span: bytes) -> None:
        """Take a span; at once."""

    def shutdown(self) -> None:
        """Send what is waiting."""


class OtlpTracer:
    """Begins traces, or continues those of callers, and sends what is recorded.

    Args:
        sender: takes the ended spans; where none is given they go to the OTLP endpoint, in batches.

    Raises:
        SettingsError: the variables of the sampling or of the sending are wrong.
    """

    def __init__(self, service: str, version: str, sender: TakesSpans | None = None) -> None:
        self._sampling = sampling_from(os.environ)
        self.captures_content = os.environ.get(CONTENT, "").strip().lower() in _CAPTURED
        self._sender = _sender_from_environment(service, version) if sender is None else sender
        self.send = self._sender.put

    @property
    def sender(self) -> TakesSpans:
        """Who takes the spans."""
        return self._sender

    def server_span(self, name: str, headers: Iterable[tuple[bytes, bytes]]) -> Span:
        """Begin the span of one request, below the caller's where its headers (lower-case names) name one."""
        parent = None
        states: list[bytes] = []
        for key, value in headers:
            if key == b"traceparent":
                parent = _TRACEPARENT.match(value)
            elif key == b"tracestate":
                states.append(value)
        if parent is None:
            return self.root_span(name, kind="server")
        flags = int(parent[3], 16)
        if not self._sampling.takes(int(parent[1], 16), flags & SAMPLED == SAMPLED):
            return Unsampled(_as_it_came(parent, states))
        return Recorded(
            self,
            name,
            "server",
            None,
            trace=bytes.fromhex(parent[1].decode()),
            parent=bytes.fromhex(parent[2].decode()),
            remote=True,
            flags=flags & RANDOM | SAMPLED,
            state=_state(states),
        )

    def root_span(self, name: str, attributes: Attributes | None = None, *, kind: Kind = "internal") -> Span:
        """Begin a trace: of a request without one, or of work that no request waits for."""
        trace_id = _random_bits(128) or 1
        if not self._sampling.takes(trace_id, None):
            return _unsampled(trace_id)
        return Recorded(self, name, kind, attributes, trace=trace_id.to_bytes(16, "big"))

    def no_span(self) -> Span:
        """Begin nothing, and have nobody who is asked meanwhile begin anything."""
        return _unsampled(_random_bits(128) or 1)

    def outgoing_headers(self) -> dict[str, str]:
        """Return the headers that make the next service's spans children of the current one."""
        return tracing.outgoing_headers()

    def shutdown(self) -> None:
        """Send what is waiting; a collector that is gone holds the end of the service for two seconds, not for ten."""
        self._sender.shutdown()


def _sender_from_environment(service: str, version: str) -> Sender:
    own = {
        "service.name": service,
        "service.version": version,
        "service.instance.id": str(uuid.uuid4()),
        "telemetry.sdk.language": "python",
        "telemetry.sdk.name": "sparkstack",
        "telemetry.sdk.version": __version__,
    }
    head = otlp_wire.resource_and_scope(resource_from(os.environ, own), "sparkstack", version)
    return Sender(head, Posting(collector_from(os.environ)), batching_from(os.environ))


def _unsampled(trace_id: int) -> Unsampled:
    return Unsampled({"traceparent": f"00-{trace_id:032x}-{_random_bits(64) or 1:016x}-00"})


def _as_it_came(parent: re.Match[bytes], states: list[bytes]) -> dict[str, str]:
    """Return the headers of a trace that goes on without us."""
    found = {"traceparent": parent[0].decode()}
    if state := _state(states):
        found["tracestate"] = state
    return found


def _state(values: list[bytes]) -> str:
    """Return what other tracing systems have noted, as it came; several headers are one list."""
    state = b",".join(values).decode("latin-1")
    return state if state.isascii() and state.isprintable() else ""

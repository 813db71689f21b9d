"""Spans that are recorded: what `kit.tracing` promises, for those who have a collector.

A span is a small object of ours (`kit.otlp_span`); when it ends `kit.otlp_wire` writes it down as bytes, and
`kit.otlp_sending` gets those to the collector. Why this is not the SDK: docs/decisions/0011-spans-of-our-own.md.
"""

import os
import re
import uuid
from collections.abc import Iterable
from typing import Protocol

from prometheus_client import CollectorRegistry

from services import __version__
from services.kit import otlp_wire, tracing
from services.kit.otlp_posting import Posting
from services.kit.otlp_sending import Sender
from services.kit.otlp_span import Recorded, random_bits
from services.kit.otlp_variables import batching_from, collector_from, resource_from
from services.kit.otlp_wire import RANDOM, SAMPLED
from services.kit.sampling import sampling_from
from services.kit.tracing import Attributes, Kind, Span, Unsampled

CONTENT = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_CAPTURED = frozenset({"true", "1", "span_only", "span_and_event"})
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?\Z")


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

    def count_in(self, registry: CollectorRegistry) -> None:
        """Have a service's metrics say what has become of the spans, where they are sent."""
        if isinstance(self._sender, Sender):
            registry.register(self._sender)

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
        trace_id = random_bits(128) or 1
        if not self._sampling.takes(trace_id, None):
            return _unsampled(trace_id)
        return Recorded(self, name, kind, attributes, trace=trace_id.to_bytes(16, "big"))

    def no_span(self) -> Span:
        """Begin nothing, and have nobody who is asked meanwhile begin anything."""
        return _unsampled(random_bits(128) or 1)

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
    return Unsampled({"traceparent": f"00-{trace_id:032x}-{random_bits(64) or 1:016x}-00"})


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

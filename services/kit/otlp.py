"""Spans that are recorded, and how they get to a collector: OpenTelemetry's SDK behind `kit.tracing`."""

import asyncio
import os
import random
import re
import threading
import time
from collections.abc import Iterable
from contextvars import Token
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.propagation import set_span_in_context
from opentelemetry.trace.span import TraceState

from services.kit import tracing
from services.kit.errors import AppError
from services.kit.sampling import sampling_from
from services.kit.tracing import Attributes, Kind, Span, Unsampled, Value

CONTENT = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_CAPTURED = frozenset({"true", "1", "span_only", "span_and_event"})
_LAST_SPANS_S = 2.0
_TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?\Z")
_KINDS = {"internal": SpanKind.INTERNAL, "server": SpanKind.SERVER, "client": SpanKind.CLIENT}
_NO_CONTEXT = Context()


class Recorded(Span):
    """A span that is going to be sent. Its values are kept here and given to the SDK once, when it ends."""

    __slots__ = ("_attributes", "_span", "_token", "_tracer", "captures_content", "is_root")

    recording = True

    def __init__(self, tracer: "OtlpTracer", span: trace.Span, attributes: Attributes | None, *, root: bool) -> None:
        self._tracer = tracer
        self._span = span
        self._attributes: dict[str, Value] = dict(attributes) if attributes else {}
        self._token: Token[Span] | None = None
        self.is_root = root
        self.captures_content = tracer.captures_content

    @property
    def context(self) -> SpanContext:
        """What others name it by."""
        return self._span.get_span_context()

    @property
    def trace_id(self) -> str:  # type: ignore[override]
        """32 hexadecimal digits."""
        return f"{self.context.trace_id:032x}"

    def set(self, attributes: Attributes) -> None:
        """Attach values."""
        self._attributes.update(attributes)

    def rename(self, name: str) -> None:
        """Give it another name."""
        self._span.update_name(name)

    def record_error(self, kind: str, message: str = "") -> None:
        """Say that it failed."""
        self._attributes["error.type"] = kind
        self._span.set_status(Status(StatusCode.ERROR, message or kind))

    def fail(self, error: BaseException) -> None:
        """Say by which exception it ended."""
        if isinstance(error, AppError):
            self.record_error(error.code, error.message)
        elif isinstance(error, asyncio.CancelledError | GeneratorExit):
            self._attributes["sparkstack.cancelled"] = True
        else:  # its text may hold anything
            self.record_error(type(error).__name__)

    def child(self, name: str, attributes: Attributes | None = None, *, kind: Kind = "internal") -> Span:
        """Begin a span below this one."""
        span = self._tracer.start(name, self._span, kind)
        return Recorded(self._tracer, span, attributes, root=False)

    def record(
        self,
        name: str,
        began: float,
        ended: float,
        attributes: Attributes | None = None,
        links: Iterable[Span] = (),
    ) -> None:
        """Write down a step below this one that is over."""
        since_epoch = time.time_ns() - time.perf_counter_ns()
        span = self._tracer.start(name, self._span, "internal", start_ns=since_epoch + int(began * 1e9))
        recorded = Recorded(self._tracer, span, attributes, root=False)
        for other in links:
            recorded.link(other)
        recorded.end(since_epoch + int(ended * 1e9))

    def link(self, other: Span) -> None:
        """Say that it is work for another span, too."""
        if isinstance(other, Recorded) and other is not self:
            self._span.add_link(other.context)

    def headers(self) -> dict[str, str]:
        """Return the headers that make the next service's spans children of this one."""
        context = self.context
        found = {"traceparent": f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"}
        if context.trace_state:
            found["tracestate"] = context.trace_state.to_header()
        return found

    def end(self, at_ns: int | None = None) -> None:
        """Hand it over for sending."""
        if self._span.is_recording():
            self._span.set_attributes(self._attributes)
            self._span.end(at_ns)

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


class _GivenIds(RandomIdGenerator):
    """Hands the SDK the trace id that the sampling was decided by."""

    def __init__(self) -> None:
        self.given = threading.local()

    def generate_trace_id(self) -> int:
        given: int = self.given.trace_id
        return given


class OtlpTracer:
    """Begins traces, or continues those of callers, and sends what is recorded.

    Args:
        processor: takes the ended spans; where none is given they go to the OTLP endpoint, in batches.

    Raises:
        SettingsError: the variables of the sampling are wrong.
    """

    def __init__(self, service: str, version: str, processor: SpanProcessor | None = None) -> None:
        self._sampling = sampling_from(os.environ)
        self.captures_content = os.environ.get(CONTENT, "").strip().lower() in _CAPTURED
        resource = Resource.create({"service.name": service, "service.version": version})
        self._ids = _GivenIds()
        self._provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, id_generator=self._ids)
        self._exporter: SpanExporter | None = None
        if processor is None:
            self._exporter = OTLPSpanExporter()
            processor = BatchSpanProcessor(self._exporter)
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("sparkstack", version)

    def server_span(self, name: str, headers: Iterable[tuple[bytes, bytes]]) -> Span:
        """Begin the span of one request, below the caller's where its headers (lower-case names) name one."""
        parent = state = None
        for key, value in headers:
            if key == b"traceparent":
                parent = _TRACEPARENT.match(value)
            elif key == b"tracestate":
                state = value
        if parent is None:
            return self.root_span(name, kind="server")
        trace_id, sampled = int(parent[1], 16), int(parent[3], 16) & 1 == 1
        if not self._sampling.takes(trace_id, sampled):
            return Unsampled(_as_it_came(parent, state))
        known = TraceState.from_header([state.decode("latin-1")]) if state else None
        flags = TraceFlags(int(parent[3], 16) | TraceFlags.SAMPLED)
        caller = SpanContext(trace_id, int(parent[2], 16), is_remote=True, trace_flags=flags, trace_state=known)
        return Recorded(self, self.start(name, NonRecordingSpan(caller), "server"), None, root=False)

    def root_span(self, name: str, attributes: Attributes | None = None, *, kind: Kind = "internal") -> Span:
        """Begin a trace: of a request without one, or of work that no request waits for."""
        trace_id = random.getrandbits(128) or 1
        if not self._sampling.takes(trace_id, None):
            return _unsampled(trace_id)
        self._ids.given.trace_id = trace_id
        return Recorded(self, self.start(name, None, kind), attributes, root=True)

    def no_span(self) -> Span:
        """Begin nothing, and have nobody who is asked meanwhile begin anything."""
        return _unsampled(random.getrandbits(128) or 1)

    def start(self, name: str, parent: trace.Span | None, kind: Kind, start_ns: int | None = None) -> trace.Span:
        """Begin a span of the SDK's."""
        context = _NO_CONTEXT if parent is None else set_span_in_context(parent, _NO_CONTEXT)
        return self._tracer.start_span(name, context, _KINDS[kind], start_time=start_ns)

    def outgoing_headers(self) -> dict[str, str]:
        """Return the headers that make the next service's spans children of the current one."""
        return tracing.outgoing_headers()

    def shutdown(self) -> None:
        """Send what is waiting; a collector that is gone holds the end of the service for two seconds, not for ten."""
        sending = threading.Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        sending.join(_LAST_SPANS_S)
        if sending.is_alive() and self._exporter is not None:
            self._exporter.shutdown()


def _unsampled(trace_id: int) -> Unsampled:
    return Unsampled({"traceparent": f"00-{trace_id:032x}-{random.getrandbits(64) or 1:016x}-00"})


def _as_it_came(parent: re.Match[bytes], state: bytes | None) -> dict[str, str]:
    """Return the headers of a trace that goes on without us."""
    found = {"traceparent": parent[0].decode()}
    if state:
        found["tracestate"] = state.decode("latin-1")
    return found

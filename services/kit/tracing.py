"""OpenTelemetry traces, switched on by `OTEL_EXPORTER_OTLP_ENDPOINT` alone.

Without it no OpenTelemetry module is imported, and a caller's `traceparent` is passed on as it came, so that a
trace that began elsewhere holds together across this service.
Source: https://www.w3.org/TR/trace-context/
"""

import os
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

HEADERS = (b"traceparent", b"tracestate")
_LAST_SPANS_S = 2.0


class Span(Protocol):
    """What this codebase needs of a span."""

    def set_attribute(self, key: str, value: Any) -> None:
        """Attach a value to the span."""


class Tracer:
    """Server spans around requests, and the headers that carry them on."""

    def __init__(self, service: str, version: str) -> None:
        from opentelemetry import propagate, trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

        self._propagate = propagate
        self._kind = trace.SpanKind.SERVER
        resource = Resource.create({"service.name": service, "service.version": version})
        self._provider = TracerProvider(resource=resource)
        self._exporter: SpanExporter = OTLPSpanExporter()
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("sparkstack", version)

    def server_span(self, name: str, carrier: Mapping[str, str]) -> AbstractContextManager[Span]:
        """Open the span of one request, a child of the caller's where `carrier` names one."""
        context = self._propagate.extract(carrier)
        span: AbstractContextManager[Span] = self._tracer.start_as_current_span(name, context=context, kind=self._kind)
        return span

    def child_span(self, name: str) -> AbstractContextManager[Span]:
        """Open the span of a step of this service's own work, a child of the current one."""
        span: AbstractContextManager[Span] = self._tracer.start_as_current_span(name)
        return span

    def outgoing_headers(self) -> dict[str, str]:
        """Return the headers that make the next service's spans children of the current one."""
        carrier: dict[str, str] = {}
        self._propagate.inject(carrier)
        return carrier

    def shutdown(self) -> None:
        """Send what is waiting; a collector that is gone holds the end of the service for two seconds, not for ten."""
        sending = threading.Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        sending.join(_LAST_SPANS_S)
        if sending.is_alive():
            self._exporter.shutdown()


def tracer_from_environment(service: str, version: str) -> Tracer | None:
    """Return a tracer when an OTLP endpoint is set, else None."""
    configured = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    return Tracer(service, version) if configured else None

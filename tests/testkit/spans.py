"""A tracer that keeps its spans: for tests of one part, without a collector."""

from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from services.kit.otlp import OtlpTracer


class RecordedSpans:
    """What `tracer` has recorded; names are distinct, or the last counts."""

    def __init__(self) -> None:
        self._kept = InMemorySpanExporter()
        self.tracer = OtlpTracer("test", "0", SimpleSpanProcessor(self._kept))

    @property
    def all(self) -> tuple[ReadableSpan, ...]:
        """Return all spans that have ended, in that order."""
        return self._kept.get_finished_spans()

    @property
    def ended(self) -> dict[str, ReadableSpan]:
        """Return the spans that have ended, by name."""
        return {span.name: span for span in self._kept.get_finished_spans()}

    def parents(self) -> dict[str, str]:
        """Return of each span the name of its parent; empty for a root, `elsewhere` for a caller's."""
        by_id = {span.context.span_id: span.name for span in self._kept.get_finished_spans() if span.context}
        return {
            name: by_id.get(span.parent.span_id, "elsewhere") if span.parent else ""
            for name, span in self.ended.items()
        }

    def attributes(self, name: str = "") -> dict[str, Any]:
        """Return a span's attributes, or those of all, by name."""
        if name:
            return dict(self.ended[name].attributes or {})
        return {each: dict(span.attributes or {}) for each, span in self.ended.items()}

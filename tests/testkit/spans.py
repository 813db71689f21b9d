"""A tracer that keeps its spans: for tests of one part, without a collector."""

from typing import Any

from services.kit.otlp import OtlpTracer
from services.kit.otlp_wire import export_request, resource_and_scope
from tests.testkit.collector import SeenSpan, read_spans

_HEAD = resource_and_scope({"service.name": "test"}, "test", "0")


class RecordedSpans:
    """What `tracer` has recorded, read from the bytes that a collector would get; the last of a name counts."""

    def __init__(self) -> None:
        self._kept: list[bytes] = []
        self.tracer = OtlpTracer("test", "0", self)

    def put(self, span: bytes) -> None:
        """Keep a span."""
        self._kept.append(span)

    def shutdown(self) -> None:
        """Nothing waits."""

    @property
    def all(self) -> list[SeenSpan]:
        """Return all spans that have ended, in that order."""
        return read_spans(export_request(_HEAD, self._kept))

    @property
    def ended(self) -> dict[str, SeenSpan]:
        """Return the spans that have ended, by name."""
        return {span.name: span for span in self.all}

    def parents(self) -> dict[str, str]:
        """Return of each span the name of its parent; empty for a root, `elsewhere` for a caller's."""
        by_id = {span.id: span.name for span in self.all}
        return {name: by_id.get(span.parent, "elsewhere") if span.parent else "" for name, span in self.ended.items()}

    def attributes(self, name: str = "") -> dict[str, Any]:
        """Return a span's attributes, or those of all, by name."""
        if name:
            return self.ended[name].attributes
        return {each: span.attributes for each, span in self.ended.items()}

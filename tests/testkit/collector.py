"""An OTLP/HTTP collector: keeps the spans that are posted to `/v1/traces`, read."""

import contextlib
import gzip
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1 import trace_pb2
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.testkit.server import eventually, running

_KINDS = {1: "internal", 2: "server", 3: "client", 4: "producer", 5: "consumer"}


@dataclass(frozen=True)
class SeenSpan:
    """A span as it came; identifiers are hexadecimal, times nanoseconds, `parent` is empty for a root."""

    service: str
    name: str
    kind: str
    trace: str
    id: str
    parent: str
    began: int
    ended: int
    attributes: dict[str, Any] = field(repr=False)
    failed: bool = False
    message: str = ""
    links: tuple[str, ...] = ()
    from_elsewhere: bool = False
    """Whether the parent is another process's, by the span's own word."""
    state: str = ""


class Collector:
    """What has come."""

    def __init__(self) -> None:
        self.spans: list[SeenSpan] = []
        self.headers: list[dict[str, str]] = []
        self.url = ""

    async def take(self, request: Request) -> Response:
        """POST /v1/traces."""
        body = await request.body()
        if request.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        self.headers.append(dict(request.headers))
        self.spans += read_spans(body)
        return Response(status_code=200, media_type="application/x-protobuf")

    def trace(self, trace_id: str) -> "Trace":
        """Return the spans of a trace that have come so far."""
        return Trace([span for span in self.spans if span.trace == trace_id])

    async def whole(self, *names: str, trace_id: str = "") -> "Trace":
        """Wait until there is a trace with a root and no orphan that has these spans; return it.

        A service sends its spans in the order in which they end, in several requests: name the last one of each.

        Args:
            names: `rag.answer`, or of one service alone: `rag: POST /v1/chat/completions`.

        Raises:
            AssertionError: it did not come, with what did.
        """

        def found() -> "Trace | None":
            for each in [trace_id] if trace_id else list(dict.fromkeys(span.trace for span in self.spans)):
                trace = self.trace(each)
                come = {name for span in trace.spans for name in (span.name, f"{span.service}: {span.name}")}
                if trace.is_whole and come.issuperset(names):
                    return trace
            return None

        try:
            trace = await eventually(found, timeout_s=60)
        except AssertionError:
            seen = sorted(f"{span.service}: {span.name}" for span in self.spans)
            raise AssertionError(f"no whole trace with {names}; there are {seen}") from None
        assert trace is not None
        return trace


class Trace:
    """The spans of one trace, as a tree."""

    def __init__(self, spans: list[SeenSpan]) -> None:
        self.spans = spans
        self._by_id = {span.id: span for span in spans}

    @property
    def roots(self) -> list[SeenSpan]:
        """Return the spans without a parent."""
        return [span for span in self.spans if not span.parent]

    @property
    def orphans(self) -> list[SeenSpan]:
        """Return the spans whose parent has not come."""
        return [span for span in self.spans if span.parent and span.parent not in self._by_id]

    @property
    def is_whole(self) -> bool:
        """One root, no orphan."""
        return len(self.roots) == 1 and not self.orphans

    def parent(self, span: SeenSpan) -> SeenSpan:
        """Return a span's parent."""
        return self._by_id[span.parent]

    def above(self, span: SeenSpan) -> list[str]:
        """Return `service: name` of all spans above one, the nearest first."""
        found = []
        while span.parent:
            span = self.parent(span)
            found.append(f"{span.service}: {span.name}")
        return found

    def named(self, name: str, *, service: str = "", kind: str = "") -> list[SeenSpan]:
        """Return the spans of a name, in the order of their beginning."""
        found = [span for span in self.spans if span.name == name]
        found = [span for span in found if service in ("", span.service) and kind in ("", span.kind)]
        return sorted(found, key=lambda span: span.began)

    def one(self, name: str, *, service: str = "", kind: str = "") -> SeenSpan:
        """Return the only span of a name."""
        (span,) = self.named(name, service=service, kind=kind)
        return span


@contextlib.asynccontextmanager
async def collector() -> AsyncIterator[Collector]:
    """Run a collector; OTEL_EXPORTER_OTLP_ENDPOINT is to be its `url`."""
    found = Collector()
    async with running(Starlette(routes=[Route("/v1/traces", found.take, methods=["POST"])])) as url:
        found.url = url
        yield found


def read_spans(body: bytes) -> list[SeenSpan]:
    """Read the body of a request of OTLP's."""
    return list(_read(ExportTraceServiceRequest.FromString(body)))


def _read(request: ExportTraceServiceRequest) -> Iterable[SeenSpan]:
    for resource in request.resource_spans:
        service = _plain(resource.resource.attributes)["service.name"]
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield SeenSpan(
                    service=service,
                    name=span.name,
                    kind=_KINDS[span.kind],
                    trace=span.trace_id.hex(),
                    id=span.span_id.hex(),
                    parent=span.parent_span_id.hex(),
                    began=span.start_time_unix_nano,
                    ended=span.end_time_unix_nano,
                    attributes=_plain(span.attributes),
                    failed=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
                    message=span.status.message,
                    from_elsewhere=bool(span.flags & trace_pb2.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK),
                    state=span.trace_state,
                    links=tuple(link.span_id.hex() for link in span.links),
                )


def _plain(attributes: Any) -> dict[str, Any]:
    return {each.key: _value(each.value) for each in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind) if kind else None

"""Spans: what each service says of its part in a trace.

    with tracing.child_span("rag.retrieve", {"rag.preset": "fast"}) as span:     # a step of one's own work
        ...
        span.set({"rag.passages": len(passages)})
    with tracing.client_span("embeddings all-minilm-l6-v2", attributes) as span: # a call of somebody else
        await session.post(url, headers={**headers, **tracing.outgoing_headers()})

Both are children of the current span, which `kit.middleware` opens for each request; inside `with` they are the current
one themselves. An exception that leaves the block is the span's error. What is not sampled, and where tracing is off,
gets `NOTHING`: it takes everything and costs next to nothing; ask `span.recording` before you work anything out for it.

A span that outlives the block, or is held across the `yield` of an asynchronous generator, must not be the current one
there: use `with ending(span)`, or call `span.end()` in `finally`; hand on `span.headers()`, open others below it by
`span.child(…)`; `within(span, generator)` runs a generator's own code below it. `span.record(…)` writes down a step
that is over.

GenAI's attributes are made by `kit.genai`; prompts and answers are set only where `span.captures_content` says so.
Source: https://www.w3.org/TR/trace-context/, https://opentelemetry.io/docs/specs/semconv/
"""

import os
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from contextvars import ContextVar, Token
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

HEADERS = (b"traceparent", b"tracestate")

Kind = Literal["internal", "server", "client"]
Value = str | bool | int | float | list[str]
Attributes = Mapping[str, Value]

T = TypeVar("T")


class Span:
    """A span of which nothing is recorded; those that are recorded are `kit.otlp_span.Recorded`."""

    __slots__ = ()

    recording: bool = False
    """Whether anybody will see it."""
    is_root: bool = False
    """Whether the trace began with it: trace viewers show its input and output as those of the whole trace."""
    captures_content: bool = False
    """Whether prompts and answers may be set (OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT)."""
    trace_id: str = ""
    """32 hexadecimal digits; empty where nothing is recorded."""

    def set(self, attributes: Attributes) -> None:
        """Attach values; a later one takes the place of an earlier one."""

    def rename(self, name: str) -> None:
        """Give it a better name than the one that was known when it began."""

    def record_error(self, kind: str, message: str = "") -> None:
        """Say that it failed: `kind` is a code of a closed set, `message` must not hold what a user has written."""

    def fail(self, error: BaseException) -> None:
        """Say by which exception it ended; that nobody wants it any more is no failure."""

    def child(self, name: str, attributes: Attributes | None = None, *, kind: Kind = "internal") -> "Span":
        """Begin a span below this one; whoever does ends it, by `with` or by `end`."""
        return self

    def record(
        self,
        name: str,
        began: float,
        ended: float,
        attributes: Attributes | None = None,
        links: "Iterable[Span]" = (),
    ) -> None:
        """Write down a step below this one that is over.

        Args:
            began: `time.perf_counter()` of then, as is `ended`.
            links: other spans that it was work for.
        """

    def link(self, other: "Span") -> None:
        """Say that it is work for another span, too."""

    def headers(self) -> dict[str, str]:
        """Return the headers that make the next service's spans children of this one."""
        return {}

    def end(self) -> None:
        """Note that it is over; a second time does nothing."""

    def __enter__(self) -> "Span":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        return None


NOTHING = Span()
"""No span at all: tracing is off, or there is no request."""


class Unsampled(Span):
    """A request of a trace that is not sampled, or a step of it: those who are asked next must be told so."""

    __slots__ = ("_headers", "_token")

    def __init__(self, headers: dict[str, str]) -> None:
        self._headers = headers
        self._token: Token[Span] | None = None

    def child(self, name: str, attributes: Attributes | None = None, *, kind: Kind = "internal") -> Span:
        """Begin a step of which nothing is recorded either."""
        return Unsampled(self._headers)

    def headers(self) -> dict[str, str]:
        """Return the headers that say so."""
        return dict(self._headers)

    def __enter__(self) -> Span:
        self._token = enter(self)
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if self._token is not None:
            leave(self._token)
            self._token = None


_current: ContextVar[Span] = ContextVar("sparkstack_span", default=NOTHING)


def current() -> Span:
    """Return the span that what happens now is part of."""
    return _current.get()


def child_span(name: str, attributes: Attributes | None = None) -> Span:
    """Begin the span of a step of this service's own work, below the current one."""
    return _current.get().child(name, attributes)


def client_span(name: str, attributes: Attributes | None = None) -> Span:
    """Begin the span of a call of another service, of a database or of a model, below the current one."""
    return _current.get().child(name, attributes, kind="client")


def outgoing_headers() -> dict[str, str]:
    """Return the headers that make the next service's spans children of the current one; they replace a caller's."""
    return _current.get().headers()


@contextmanager
def ending(span: Span) -> Iterator[Span]:
    """End a span with the block, its error included, without making it the current one."""
    try:
        yield span
    except BaseException as error:
        span.fail(error)
        raise
    finally:
        span.end()


def within(span: Span, generator: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """Run a generator's own code with `span` as the current one, and the code of whoever reads it without."""
    return generator if span is NOTHING else _within(span, generator)


async def _within(span: Span, generator: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    async with aclosing(generator):
        while True:
            token = _current.set(span)
            try:
                item = await anext(generator)
            except StopAsyncIteration:
                return
            finally:
                _current.reset(token)
            yield item


def enter(span: Span) -> Token[Span]:
    """Make a span the current one; `leave` puts back what was before."""
    return _current.set(span)


def leave(token: Token[Span]) -> None:
    """Put back the span that was the current one before `enter`."""
    try:
        _current.reset(token)
    except ValueError:
        # It was entered in another task, whose context ended with it: a generator that the event loop has closed.
        return


class Tracer(Protocol):
    """What begins traces, or continues those of callers; one an app (`app.state.tracer`), None where tracing is off."""

    def server_span(self, name: str, headers: Iterable[tuple[bytes, bytes]]) -> Span:
        """Begin the span of one request, below the caller's where its headers (lower-case names) name one."""

    def root_span(self, name: str, attributes: Attributes | None = None) -> Span:
        """Begin a trace of work that no request waits for; sampled as requests are."""

    def no_span(self) -> Span:
        """Begin nothing, and have nobody who is asked meanwhile begin anything: of polls."""

    def outgoing_headers(self) -> dict[str, str]:
        """Return the headers that make the next service's spans children of the current one."""

    def shutdown(self) -> None:
        """Send what is waiting."""


def tracer_from_environment(service: str, version: str, registry: "CollectorRegistry | None" = None) -> Tracer | None:
    """Return what sends this service's spans where an OTLP endpoint is set, else None.

    Args:
        registry: gets `trace_spans_total`, by what became of them.

    Raises:
        SettingsError: a variable of the sampling or of the sending has a value that is none.
    """
    variables = os.environ
    endpoint = variables.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or variables.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    off = variables.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if not endpoint or off or variables.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none":
        return None
    from services.kit.otlp import OtlpTracer

    tracer = OtlpTracer(service, version)
    if registry is not None:
        tracer.count_in(registry)
    return tracer

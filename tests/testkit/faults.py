"""Failures that a test scripts: by `x-fake-…` headers of a request, or by a rule for all that match.

README.md has the table; a test holds it and the fields of `Faults` together.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args, get_type_hints

from tests.testkit.rendering import Event, encode, error_event
from tests.testkit.wire import Break, Head, Step

PREFIX = "x-fake-"
GARBAGE = ("html", "text", "json", "binary")
_HTML = b"<!doctype html>\n<html><head><title>502</title></head><body><h1>It works!</h1></body></html>\n"
_TEXT_LINES = b"this is not an event\nnor is this\n\nand it goes on\n"
_BROKEN_EVENT = b'data: {"id":"broken","choices":[{"index":0,"delta":{"content":"half a\n\n'
_SLOW_PIECE_BYTES = 7

_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    501: "not_supported_error",
    503: "unavailable_error",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What goes wrong with one answer; the header of `stall_after` is `x-fake-stall-after`, and so on."""

    # The answer's head
    status: int | None = None
    retry_after: str | None = None
    head_ms: float | None = None
    stall_head: bool = False
    die_head: bool = False
    # Its body, after so many content chunks
    stall_after: int | None = None
    die_after: int | None = None
    die_with: str = "rst"
    truncate: int | None = None
    error_event: int | None = None
    garbage: str | None = None
    # What the engine leaves out
    no_usage: bool = False
    no_done: bool = False
    no_tool_index: bool = False
    # How it is written to the socket
    ttft_ms: float | None = None
    tokens_per_s: float | None = None
    tokens: int | None = None
    comment_every: int | None = None
    crlf: bool = False
    split: int | None = None
    batch: int | None = None
    slow_body: float | None = None
    drop_keepalive: str | None = None

    def __post_init__(self) -> None:
        if self.garbage is not None and self.garbage not in GARBAGE:
            raise ValueError(f"{PREFIX}garbage must be one of {', '.join(GARBAGE)}, not {self.garbage!r}")
        if self.die_with not in ("rst", "fin"):
            raise ValueError(f"{PREFIX}die-with must be rst or fin, not {self.die_with!r}")
        if self.drop_keepalive not in (None, "1", "next"):
            raise ValueError(f"{PREFIX}drop-keepalive must be 1 or next, not {self.drop_keepalive!r}")

    @property
    def death(self) -> Break:
        """Return how the socket dies when it is told to."""
        return Break.RESET if self.die_with == "rst" else Break.CLOSE


_TYPES = {
    name: next(each for each in (get_args(hint) or (hint,)) if each is not type(None))
    for name, hint in get_type_hints(Faults).items()
}
NO_FAULTS = Faults()
HEADERS = {PREFIX + name.replace("_", "-"): name for name in _TYPES}


def read_headers(headers: Mapping[str, str], base: Faults = NO_FAULTS) -> Faults:
    """Return the faults that a request's headers ask for, on top of `base`.

    Raises:
        ValueError: for a header that does not exist or a value of the wrong type, so that no typo passes silently.
    """
    given = {name: value for name, value in headers.items() if name.startswith(PREFIX)}
    if not given:
        return base
    values: dict[str, Any] = {}
    for header, text in given.items():
        if header not in HEADERS:
            raise ValueError(f"there is no header {header}; known are {', '.join(HEADERS)}")
        name = HEADERS[header]
        kind = _TYPES[name]
        try:
            values[name] = text not in ("", "0") if kind is bool else kind(text)
        except ValueError:
            raise ValueError(f"{header} must be {kind.__name__}, not {text!r}") from None
    return dataclasses.replace(base, **values)


@dataclass(frozen=True, slots=True)
class Pace:
    """When content chunk `n` is due, in seconds from the request."""

    ttft_s: float
    interval_s: float

    @classmethod
    def of(cls, ttft_ms: float, tokens_per_s: float) -> "Pace":
        """Return the pace; a rate of 0 is as fast as possible."""
        return cls(ttft_ms / 1000, 1 / tokens_per_s if tokens_per_s > 0 else 0.0)

    def due(self, chunk: int) -> float:
        """Return when the chunk is written; the first is chunk 0."""
        return self.ttft_s + chunk * self.interval_s


# --- answers as steps -------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Progress:
    """How far an answer has come."""

    chunks_sent: int = 0
    interrupted: bool = False


def stream_steps(stream: Iterator[Event], faults: Faults, pace: Pace, progress: Progress) -> Iterator[Step]:
    """Return the steps of a stream; `progress` is kept up to date while they are played."""
    steps = _content_steps(stream, faults, pace, progress)
    if faults.comment_every:
        steps = _with_comments(steps, faults.comment_every)
    if faults.crlf:
        steps = _map_bytes(steps, lambda data: data.replace(b"\n", b"\r\n"))
    if faults.batch:
        steps = _batched(steps, faults.batch)
    if faults.split or faults.slow_body:
        steps = _split(steps, faults, 0.0)
    return _with_head(steps, Head(200, _EVENT_STREAM), faults)


_EVENT_STREAM = [("content-type", "text/event-stream"), ("cache-control", "no-cache")]


def _content_steps(stream: Iterator[Event], faults: Faults, pace: Pace, progress: Progress) -> Iterator[Step]:
    sent = 0
    scripted = faults is not NO_FAULTS
    event = _BROKEN_EVENT
    if scripted and (end := _end_after(0, event, faults)):
        progress.interrupted = True
        yield from end
        return
    yield pace.due(0)
    if faults.garbage == "text":
        yield _TEXT_LINES
        return
    for is_content, event in stream:
        yield event
        if is_content:
            sent += 1
            progress.chunks_sent = sent
            if scripted and (end := _end_after(sent, event, faults)):
                progress.interrupted = True
                yield from end
                return
            if sent == 1 and faults.garbage == "json":
                yield _BROKEN_EVENT
            yield pace.due(sent)


def _end_after(sent: int, event: bytes, faults: Faults) -> list[Step]:
    """Return how the stream ends after so many content chunks; empty where it goes on."""
    if sent == faults.stall_after:
        return [Break.STALL]
    if sent == faults.die_after:
        return [faults.death]
    if sent == faults.error_event:
        return [error_event(500, f"scripted failure after {sent} chunks")]
    if sent == faults.truncate:
        return [event[: len(event) // 2]]
    return []


def plain_steps(
    status: int, body: bytes, faults: Faults, ready_s: float, extra: tuple[tuple[str, str], ...] = ()
) -> Iterator[Step]:
    """Return the steps of a JSON answer that is ready after so many seconds; `after N chunks` means half of it."""
    kind = "application/json; charset=utf-8"
    match faults.garbage:
        case "html":
            kind, body = "text/html", _HTML
        case "text":
            kind, body = "text/plain", _TEXT_LINES
        case "json":
            body = body[: len(body) * 2 // 3]
        case "binary":
            kind, body = "application/octet-stream", bytes(range(256))
        case None if faults.error_event is not None:
            body = encode({"error": {"code": 500, "message": "scripted failure", "type": "server_error"}})
    head = Head(status, [("content-type", kind), *extra], len(body))
    yield ready_s
    yield from _with_head(_plain_body(body, faults, ready_s), head, faults)


def _plain_body(body: bytes, faults: Faults, ready_s: float) -> Iterator[Step]:
    half = body[: len(body) // 2]
    if faults.stall_after is not None:
        yield from (half, Break.STALL) if faults.stall_after else (Break.STALL,)
    elif faults.die_after is not None:
        yield from (half, faults.death) if faults.die_after else (faults.death,)
    elif faults.truncate is not None:
        yield from (half, Break.CLOSE)
    elif faults.slow_body or faults.split:
        yield from _split(iter([body]), faults, ready_s)
    else:
        yield body


def error_steps(status: int, message: str, faults: Faults, **fields: Any) -> Iterator[Step]:
    """Return an error in llama.cpp's form."""
    kind = fields.pop("type", None) or _ERROR_TYPES.get(status, "server_error")
    body = encode({"error": {"code": status, "message": message, "type": kind, **fields}})
    extra = (("retry-after", faults.retry_after),) if faults.retry_after else ()
    return plain_steps(status, body, dataclasses.replace(faults, garbage=None), 0.0, extra)


def _with_head(steps: Iterator[Step], head: Head, faults: Faults) -> Iterator[Step]:
    if faults.stall_head:
        yield Break.STALL
    if faults.die_head:
        yield faults.death
    if faults.head_ms:
        yield faults.head_ms / 1000
    yield head
    yield from steps


def _with_comments(steps: Iterator[Step], every: int) -> Iterator[Step]:
    written = 0
    for step in steps:
        if type(step) is bytes:
            written += 1
            if written % every == 0:
                yield b": keep-alive\n\n"
        yield step


def _map_bytes(steps: Iterator[Step], change: Callable[[bytes], bytes]) -> Iterator[Step]:
    for step in steps:
        yield change(step) if type(step) is bytes else step


def _batched(steps: Iterator[Step], size: int) -> Iterator[Step]:
    """Join so many events into one piece; what was to wait for between them is waited for before the piece."""
    held: list[bytes] = []
    for step in steps:
        if type(step) is bytes:
            held.append(step)
        if held and (len(held) >= size or isinstance(step, Break)):
            yield b"".join(held)
            held.clear()
        if type(step) is not bytes:
            yield step
    if held:
        yield b"".join(held)


def _split(steps: Iterator[Step], faults: Faults, start_s: float) -> Iterator[Step]:
    """Cut each piece; the loop turns (or `slow_body` passes) between two: each is a TCP segment of its own."""
    size = faults.split or _SLOW_PIECE_BYTES
    pause_s = (faults.slow_body or 0.0) / 1000
    now = max(start_s, (faults.head_ms or 0.0) / 1000)
    for step in steps:
        if type(step) is float:
            now = max(now, step)
            yield now
        elif type(step) is bytes:
            for start in range(0, len(step), size):
                yield step[start : start + size]
                now += pause_s
                yield now
        else:
            yield step

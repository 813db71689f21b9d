"""OTLP's wire format: an ended span as the bytes that a collector reads, written without protobuf's library.

A service writes down hundreds of spans a second in the process that answers requests. What makes this cheap is that
nearly all of a span is known beforehand: names of attributes, and most of their values, are those of the span before.
`tests/test_otlp_wire.py` holds every byte to OpenTelemetry's own generated classes.
Source: https://github.com/open-telemetry/opentelemetry-proto/blob/main/opentelemetry/proto/trace/v1/trace.proto,
https://protobuf.dev/programming-guides/encoding/
"""

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

KINDS = {"internal": 1, "server": 2, "client": 3}
MOST_LINKS = 128
"""Of one span, as in OpenTelemetry's own libraries; the others are counted as dropped."""

SAMPLED, RANDOM = 0x01, 0x02
_REMOTENESS_KNOWN, _REMOTE = 0x100, 0x200
_MOST_KEYS, _MOST_KEPT_CHARACTERS = 1024, 64
_64_BITS = (1 << 64) - 1

# A field's tag is its number and, in the lowest three bits, how its value is written: 0 varint, 1 eight bytes,
# 2 a length and as many bytes, 5 four bytes.
_TRACE_ID, _SPAN_ID, _STATE, _PARENT, _NAME = b"\x0a\x10", b"\x12\x08", b"\x1a", b"\x22\x08", b"\x2a"
_KIND_AND_TIMES = struct.Struct("<BBBQBQ")  # fields 6, 7 and 8
_ATTRIBUTE, _LINK, _DROPPED_LINKS, _STATUS = b"\x4a", b"\x6a", b"\x70", b"\x7a"
_FLAGS = struct.Struct("<HI")  # field 16, whose tag is the two bytes 85 01
_DOUBLE = struct.Struct("<Bd")


class Ended(Protocol):
    """A span that is over. Times are nanoseconds since 1970."""

    trace: bytes
    span: bytes
    parent: bytes
    """8 bytes; empty for a root."""
    remote: bool
    """Whether the parent is another process's."""
    flags: int
    """Of `traceparent`."""
    state: str
    name: str
    kind: int
    began: int
    ended: int
    attributes: dict[str, Any]
    links: Sequence[tuple[bytes, bytes]]
    """Trace and span of each."""
    failed: bool
    message: str


def encode(span: Ended) -> bytes:
    """Return a span as one `spans` field of a ScopeSpans."""
    name = _utf8(span.name)
    parts = [_TRACE_ID, span.trace, _SPAN_ID, span.span]
    if span.state:
        parts.append(_text(_STATE, span.state))
    flags = span.flags | _REMOTENESS_KNOWN
    if span.parent:
        parts += (_PARENT, span.parent)
        if span.remote:
            flags |= _REMOTE
    times = _KIND_AND_TIMES.pack(0x30, span.kind, 0x39, span.began, 0x41, span.ended)
    parts += (_NAME, varint(len(name)), name, times)
    for key, value in span.attributes.items():
        known = _last.get(key)
        if known is not None and known[0] is type(value) and known[1] == value:
            parts.append(known[2])
        else:
            parts.append(_attribute(key, value))
    if span.links:
        parts += _links(span.links)
    if span.failed:
        parts.append(_message(_STATUS, [_text(b"\x12", span.message), b"\x18\x02"]))
    parts.append(_FLAGS.pack(0x0185, flags))
    return _message(b"\x12", parts)


def resource_and_scope(resource: Mapping[str, Any], name: str, version: str) -> tuple[bytes, bytes]:
    """Return what stands before the spans of each request: of the ResourceSpans, and of the ScopeSpans."""
    about = _message(b"\x0a", [_key_value(b"\x0a", key, value) for key, value in resource.items()])
    return about, _message(b"\x0a", [_text(b"\x0a", name), _text(b"\x12", version)])


def export_request(head: tuple[bytes, bytes], spans: Sequence[bytes]) -> bytes:
    """Return an ExportTraceServiceRequest with one resource and one scope."""
    resource, scope = head
    of_scope = len(scope) + sum(map(len, spans))
    before_spans = b"\x12" + varint(of_scope) + scope
    of_resource = len(resource) + len(before_spans) + of_scope - len(scope)
    return b"".join((b"\x0a", varint(of_resource), resource, before_spans, *spans))


def varint(number: int) -> bytes:
    """Return a number of 0 to 2^64 - 1 in groups of seven bits, the lowest first."""
    if number < 128:
        return _SMALL[number]
    if number < 16_384:
        return _SMALL_AND_MORE[number & 127] + _SMALL[number >> 7]
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)


_SMALL = [bytes((number,)) for number in range(128)]
_SMALL_AND_MORE = [bytes((number | 128,)) for number in range(128)]


def _message(tag: bytes, parts: Iterable[bytes]) -> bytes:
    body = b"".join(parts)
    return tag + varint(len(body)) + body


def _text(tag: bytes, text: str) -> bytes:
    body = _utf8(text)
    return tag + varint(len(body)) + body


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can say and UTF-8 can't
        return text.encode(errors="replace")


# --- attributes -------------------------------------------------------------------------------------------------

_last: dict[str, tuple[type, Any, bytes]] = {}
"""Of each attribute the type, value and bytes of its last appearance: models, routes and statuses hardly change."""
_heads: dict[str, bytes] = {}
"""Of each name its bytes, with the tag of the value behind it. Names are a closed set; the bound is for mistakes."""


def _attribute(key: str, value: Any) -> bytes:
    found = _key_value(_ATTRIBUTE, key, value)
    if key in _heads and _may_come_again(value):
        _last[key] = (type(value), value.copy() if type(value) is list else value, found)
    return found


def _may_come_again(value: Any) -> bool:
    """Say whether a value is worth remembering: no prompt, and nothing whose equal may be written otherwise (-0.0)."""
    kind = type(value)
    if kind is str:
        return len(value) <= _MOST_KEPT_CHARACTERS
    if kind is list:
        return len(value) == 1 and type(value[0]) is str and len(value[0]) <= _MOST_KEPT_CHARACTERS
    return kind is int or kind is bool


def _key_value(tag: bytes, key: str, value: Any) -> bytes:
    head = _heads.get(key)
    if head is None:
        head = _text(b"\x0a", key) + b"\x12"
        if len(_heads) < _MOST_KEYS:
            _heads[key] = head
    body = _any_value(value)
    length = varint(len(body))
    return tag + varint(len(head) + len(length) + len(body)) + head + length + body


def _any_value(value: Any) -> bytes:
    write = _WRITERS.get(type(value))
    if write is None:
        write = next((write for kind, write in _KINDS_OF_VALUES if isinstance(value, kind)), _foreign)
    return write(value)


def _string(value: str) -> bytes:
    body = _utf8(value)
    return b"\x0a" + varint(len(body)) + body


def _boolean(value: bool) -> bytes:
    return b"\x10\x01" if value else b"\x10\x00"


def _integer(value: int) -> bytes:
    if not -(1 << 63) <= value < 1 << 63:
        return _string(str(value))
    return b"\x18" + varint(value & _64_BITS)


def _double(value: float) -> bytes:
    return _DOUBLE.pack(0x21, value)


def _array(value: Sequence[Any]) -> bytes:
    return _message(b"\x2a", [_message(b"\x0a", (_any_value(each),)) for each in value])


def _mapping(value: Mapping[Any, Any]) -> bytes:
    return _message(b"\x32", [_key_value(b"\x0a", str(key), each) for key, each in value.items()])


def _bytes(value: bytes) -> bytes:
    return b"\x3a" + varint(len(value)) + value


def _nothing(_value: None) -> bytes:
    return b""


def _foreign(value: Any) -> bytes:
    return _string(str(value))


_KINDS_OF_VALUES: tuple[tuple[type, Callable[[Any], bytes]], ...] = (
    (str, _string),
    (bool, _boolean),  # before int, which it is too
    (int, _integer),
    (float, _double),
    (bytes, _bytes),
    (Mapping, _mapping),
    (Sequence, _array),
    (type(None), _nothing),
)
_WRITERS = dict(_KINDS_OF_VALUES)
_WRITERS[list] = _WRITERS[tuple] = _array


# --- links ------------------------------------------------------------------------------------------------------


def _links(links: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
    local = b"\x35" + _REMOTENESS_KNOWN.to_bytes(4, "little")
    found = [_message(_LINK, (_TRACE_ID, trace, _SPAN_ID, span, local)) for trace, span in links[:MOST_LINKS]]
    if len(links) > MOST_LINKS:
        found.append(_DROPPED_LINKS + varint(len(links) - MOST_LINKS))
    return found

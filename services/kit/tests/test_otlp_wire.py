"""Our bytes, read by OpenTelemetry's own generated classes, say what was given."""

import math
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, SpanFlags, Status

from services.kit import otlp_wire
from services.kit.otlp_wire import MOST_LINKS, encode, export_request, resource_and_scope


@dataclass
class Given:
    """A span that is over."""

    trace: bytes = b"t" * 16
    span: bytes = b"s" * 8
    parent: bytes = b""
    remote: bool = False
    flags: int = 1
    state: str = ""
    name: str = "POST /v1/chat/completions"
    kind: int = 2
    began: int = 1
    ended: int = 2
    attributes: dict[str, Any] = field(default_factory=dict)
    links: list[tuple[bytes, bytes]] = field(default_factory=list)
    failed: bool = False
    message: str = ""


HEAD = resource_and_scope({"service.name": "gateway", "service.instance.id": "1"}, "sparkstack", "0.1")
# Surrogates are no text in UTF-8; what becomes of them is a test of its own.
text = st.text(st.characters(codec="utf-8"))
identifier = st.binary(min_size=8, max_size=8)
time = st.integers(0, 2**64 - 1)
scalar = text | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats()
value = st.recursive(
    scalar | st.binary() | st.none(),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(text, inner),
    max_leaves=8,
)
# A few names with a few values, as services have them, beside anything at all: what was written before is taken again.
usual = st.dictionaries(st.sampled_from("abc"), st.sampled_from(["x", "", 0, 1, True, False, 1.0, 0.0, -0.0, 200]))
spans = st.builds(
    Given,
    trace=st.binary(min_size=16, max_size=16),
    span=identifier,
    parent=identifier | st.just(b""),
    remote=st.booleans(),
    flags=st.integers(0, 255),
    state=text,
    name=text,
    kind=st.sampled_from(list(otlp_wire.KINDS.values())),
    began=time,
    ended=time,
    attributes=usual | st.dictionaries(text, value),
    links=st.lists(st.tuples(st.binary(min_size=16, max_size=16), identifier), max_size=4),
    failed=st.booleans(),
    message=text,
)


def read(*encoded: bytes) -> list[Span]:
    request = ExportTraceServiceRequest.FromString(export_request(HEAD, encoded))
    whole = request.ByteSize()
    request.DiscardUnknownFields()
    assert request.ByteSize() == whole, "a field that the official classes don't know"
    (resource,) = request.resource_spans
    (scope,) = resource.scope_spans
    assert {each.key: plain(each.value) for each in resource.resource.attributes} == {
        "service.name": "gateway",
        "service.instance.id": "1",
    }
    assert (scope.scope.name, scope.scope.version) == ("sparkstack", "0.1")
    return list(scope.spans)


def plain(value: AnyValue) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [plain(each) for each in value.array_value.values]
    if kind == "kvlist_value":
        return {each.key: plain(each.value) for each in value.kvlist_value.values}
    return getattr(value, kind) if kind else None


def same(seen: Any, given: Any) -> bool:
    """Whether a value is the one that was given, its type included: 1, True and 1.0 are three values."""
    if isinstance(given, list | tuple):
        return len(seen) == len(given) and all(map(same, seen, given))
    if isinstance(given, dict):
        return seen.keys() == given.keys() and all(same(seen[key], given[key]) for key in given)
    if isinstance(given, float):
        return type(seen) is float and (
            math.isnan(seen)
            if math.isnan(given)
            else seen == given and math.copysign(1, seen) == math.copysign(1, given)
        )
    return type(seen) is type(given) and seen == given


def check(seen: Span, given: Given) -> None:
    assert (seen.trace_id, seen.span_id, seen.parent_span_id) == (given.trace, given.span, given.parent)
    assert (seen.trace_state, seen.name, seen.kind) == (given.state, given.name, given.kind)
    assert (seen.start_time_unix_nano, seen.end_time_unix_nano) == (given.began, given.ended)
    assert [each.key for each in seen.attributes] == list(given.attributes)
    for each in seen.attributes:
        assert same(plain(each.value), given.attributes[each.key]), each.key
    assert [(link.trace_id, link.span_id) for link in seen.links] == given.links
    assert seen.flags & SpanFlags.SPAN_FLAGS_TRACE_FLAGS_MASK == given.flags
    assert seen.flags & SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
    assert bool(seen.flags & SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK) == (given.remote and bool(given.parent))
    expected = (Status.STATUS_CODE_ERROR, given.message) if given.failed else (Status.STATUS_CODE_UNSET, "")
    assert (seen.status.code, seen.status.message) == expected
    assert (len(seen.events), seen.dropped_attributes_count, seen.dropped_links_count) == (0, 0, 0)


@settings(deadline=None, max_examples=60)
@given(st.lists(spans, max_size=3))
def test_what_is_read_is_what_was_given(given):
    encoded = [encode(span) for span in given]
    seen = read(*encoded)
    assert len(seen) == len(given)
    for one, other in zip(seen, given, strict=True):
        check(one, other)


def test_a_thousand_long_spans_in_one_request():
    given = [Given(name=str(number), attributes={"text": "ä" * number}) for number in range(1000)]
    for one, other in zip(read(*map(encode, given)), given, strict=True):
        check(one, other)


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        ("half of a \ud83d pair", "half of a ? pair"),
        (2**63, str(2**63)),
        (-(2**63) - 1, str(-(2**63) - 1)),
        (frozenset({1}), "frozenset({1})"),
        (type("Code", (str,), {})("a"), "a"),
        (type("Count", (int,), {})(7), 7),
    ],
)
def test_what_has_no_form_of_its_own_is_text_and_subclasses_are_what_they_are(value, seen):
    (span,) = read(encode(Given(attributes={"a": value}, name="half \ud83d")))
    assert plain(span.attributes[0].value) == seen
    assert span.name == "half ?"


def test_too_many_links_are_cut_and_counted():
    links = [(b"t" * 16, number.to_bytes(8, "big")) for number in range(MOST_LINKS + 300)]
    (span,) = read(encode(Given(links=links)))
    assert [(link.trace_id, link.span_id) for link in span.links] == links[:MOST_LINKS]
    assert span.dropped_links_count == 300
    assert all(link.flags == SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK for link in span.links)


def test_what_is_remembered_of_values_and_names_is_bounded(monkeypatch):
    monkeypatch.setattr(otlp_wire, "_last", {})
    monkeypatch.setattr(otlp_wire, "_heads", {})
    for number in range(3000):
        encode(Given(attributes={f"name {number}": number, "prompt": "x" * number}))
    assert len(otlp_wire._heads) <= 1024
    assert len(otlp_wire._last) <= 1024
    assert len(str(otlp_wire._last.get("prompt"))) < 1000, "prompts are not kept"


@given(st.integers(0, 2**64 - 1))
def test_numbers_are_protobufs_varints(number):
    assert AnyValue.FromString(b"\x18" + otlp_wire.varint(number)).int_value % 2**64 == number

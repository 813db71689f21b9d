"""The span API: what is recorded, what is not, and what those who are asked next are told."""

import asyncio
import subprocess
import sys
from contextlib import aclosing

import pytest

from services.kit import genai, tracing
from services.kit.errors import EngineTimeout
from services.kit.sampling import Sampling, sampling_from
from services.kit.settings import SettingsError
from services.kit.tracing import NOTHING
from tests.testkit.spans import RecordedSpans

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def from_caller(flags="01", *more):
    return [(b"host", b"x"), (b"traceparent", f"00-{TRACE}-{CALLER}-{flags}".encode()), *more]


@pytest.fixture
def spans(monkeypatch):
    monkeypatch.delenv("OTEL_TRACES_SAMPLER", raising=False)
    return RecordedSpans()


@pytest.fixture
def none(monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    return RecordedSpans()


# --- off, and not sampled ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("endpoint", ["", "http://127.0.0.1:9"])
def test_what_sends_is_imported_with_an_endpoint_and_nothing_of_opentelemetry_ever(endpoint):
    code = (
        "import sys; from services.kit import genai, middleware, tracing; "
        "tracer = tracing.tracer_from_environment('x', '1'); "
        "tracer and tracer.root_span('a').end(); "
        "print(bool(tracer), *sorted(name for name in sys.modules if 'opentelemetry' in name or 'otlp' in name))"
    )
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    ours = "".join(f" services.kit.otlp{part}" for part in ("", "_posting", "_sending", "_span", "_variables", "_wire"))
    assert done.stdout.strip() == (f"True{ours}" if endpoint else "False")


@pytest.mark.parametrize("variable", ["OTEL_SDK_DISABLED=true", "OTEL_TRACES_EXPORTER=none"])
def test_the_standard_switches_turn_it_off(monkeypatch, variable):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    name, _, value = variable.partition("=")
    monkeypatch.setenv(name, value)
    assert tracing.tracer_from_environment("x", "1") is None


def test_nothing_takes_everything():
    with tracing.child_span("a", {"b": 1}) as span, span.child("c") as below:
        below.set({"d": 2})
        below.record_error("e")
        assert tracing.current() is below is NOTHING
    assert (tracing.outgoing_headers(), NOTHING.recording, NOTHING.trace_id) == ({}, False, "")


def test_a_trace_that_is_not_sampled_has_no_spans_and_says_so_to_the_next(none):
    with none.tracer.server_span("GET /", []), tracing.client_span("call") as call, call.child("deeper"):
        headers = tracing.outgoing_headers()
        assert headers == call.headers()
        _, trace, span, flags = headers["traceparent"].split("-")
        assert (len(trace), len(span), flags) == (32, 16, "00")
        assert not call.recording
    assert tracing.current() is NOTHING
    assert none.ended == {}


def test_what_a_caller_has_not_sampled_goes_on_as_it_came(spans):
    with spans.tracer.server_span("GET /", from_caller("00", (b"tracestate", b"a=1"))):
        assert tracing.outgoing_headers() == {"traceparent": f"00-{TRACE}-{CALLER}-00", "tracestate": "a=1"}
    assert spans.ended == {}


def test_a_poll_begins_nothing_and_has_nobody_begin_anything(spans):
    with spans.tracer.no_span():
        assert tracing.outgoing_headers()["traceparent"].endswith("-00")
    assert spans.ended == {}


# --- recorded ---------------------------------------------------------------------------------------------------


def test_a_callers_trace_is_continued_with_its_state(none):
    with none.tracer.server_span("POST /x", from_caller("01", (b"tracestate", b"a=1"))) as span:
        assert not span.is_root
        with tracing.client_span("chat m", {"a": 1}) as call:
            call.set({"b": "c"})
            headers = tracing.outgoing_headers()
    served, asked = none.ended["POST /x"], none.ended["chat m"]
    assert (served.trace, served.parent, served.from_elsewhere) == (TRACE, CALLER, True)
    assert (asked.trace, asked.from_elsewhere, asked.state) == (TRACE, False, "a=1")
    assert headers["traceparent"] == f"00-{TRACE}-{asked.id}-01"
    assert headers["tracestate"] == "a=1"
    assert none.parents()["chat m"] == "POST /x"
    assert (none.attributes("chat m"), asked.kind, served.kind) == ({"a": 1, "b": "c"}, "client", "server")


@pytest.mark.parametrize(
    "broken",
    [b"", b"00-nonsense", f"ff-{TRACE}-{CALLER}-01".encode(), f"00-{'0' * 32}-{CALLER}-01".encode(),
     f"00-{TRACE}-{'0' * 16}-01".encode(), f"00-{TRACE.upper()}-{CALLER}-01".encode()],
)  # fmt: skip
def test_a_header_that_names_no_trace_begins_one(spans, broken):
    with spans.tracer.server_span("GET /", [(b"traceparent", broken)]) as span:
        assert span.is_root
    assert spans.parents() == {"GET /": ""}


def test_an_error_is_told_by_its_code_and_a_crash_by_its_type_alone(spans):
    with spans.tracer.root_span("root"):
        with pytest.raises(EngineTimeout), tracing.client_span("slow"):
            raise EngineTimeout("engine sent no token within 5 s")
        with pytest.raises(ValueError, match="secret"), tracing.child_span("bug"):
            raise ValueError("secret prompt")
        with pytest.raises(asyncio.CancelledError), tracing.child_span("left"):
            raise asyncio.CancelledError
    slow, bug, left = (spans.ended[name] for name in ("slow", "bug", "left"))
    assert (slow.failed, slow.attributes["error.type"]) == (True, "engine_timeout")
    assert slow.message == "engine sent no token within 5 s"
    assert (bug.attributes, bug.message) == ({"error.type": "ValueError"}, "ValueError")
    assert (left.failed, left.attributes["sparkstack.cancelled"]) == (False, True)
    assert not spans.ended["root"].failed


async def test_a_generators_span_is_current_in_it_and_not_for_its_reader(spans):
    async def work():
        for number in range(2):
            with tracing.child_span(f"step {number}"):
                await asyncio.sleep(0)
            yield number

    with spans.tracer.root_span("reader"), tracing.ending(tracing.child_span("generator")) as span:
        async with aclosing(tracing.within(span, work())) as numbers:
            async for number in numbers:
                tracing.child_span(f"read {number}").end()
    assert spans.parents() == {
        "step 0": "generator",
        "read 0": "reader",
        "step 1": "generator",
        "read 1": "reader",
        "generator": "reader",
        "reader": "",
    }


async def test_a_generator_that_another_task_closes_ends_its_span(spans):
    async def work():
        with tracing.child_span("inside"):
            yield 1
            yield 2

    with spans.tracer.root_span("root"):
        generator = work()
        assert await anext(generator) == 1
        await asyncio.create_task(generator.aclose())
    assert spans.attributes("inside")["sparkstack.cancelled"] is True


def test_a_step_that_is_over_is_written_down_with_its_times_and_links(spans):
    with spans.tracer.root_span("one") as one, spans.tracer.root_span("other") as other:
        one.record("batch", 10.0, 10.5, {"texts": 3}, links=[other, NOTHING])
    batch = spans.ended["batch"]
    assert batch.ended - batch.began == 500_000_000
    assert batch.links == (spans.ended["other"].id,)


# --- sampling ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, Sampling(1.0, follows_parent=True)),
        ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.1"}, Sampling(0.1)),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"}, Sampling(0.5, False)),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, Sampling(0.0, False)),
        ({"OTEL_TRACES_SAMPLER": "PARENTBASED_ALWAYS_ON"}, Sampling(1.0)),
    ],
)
def test_the_standard_variables(variables, expected):
    assert sampling_from(variables) == expected


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"OTEL_TRACES_SAMPLER": "sometimes"}, "OTEL_TRACES_SAMPLER=sometimes: known are always_on"),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "10%"}, "OTEL_TRACES_SAMPLER_ARG=10%"),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "2"}, "a number from 0"),
    ],
)
def test_a_sampler_that_is_none_is_refused_with_what_there_is(variables, says):
    with pytest.raises(SettingsError, match=says):
        sampling_from(variables)


def test_a_ratio_decides_as_the_sdks_own_sampler_does():
    from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

    theirs, ours = TraceIdRatioBased(0.3), Sampling(0.3)
    ids = [0, 1, 2**64 - 1, round(0.3 * 2**64) - 1, round(0.3 * 2**64), 2**100 + 7, 2**127 + 2**63]
    assert [ours.takes(each, None) for each in ids] == [
        theirs.should_sample(None, each, "x").decision.is_sampled() for each in ids
    ]


# --- GenAI ------------------------------------------------------------------------------------------------------


def test_every_name_is_one_of_the_pinned_conventions():
    from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as pinned

    known = {value for name, value in vars(pinned).items() if name.startswith("GEN_AI_") and isinstance(value, str)}
    fields = dict.fromkeys(
        ("max_tokens", "temperature", "top_p", "top_k", "frequency_penalty", "presence_penalty", "seed", "n"), 1
    )
    made = {
        **genai.request("chat", "m", {**fields, "stream": True}),
        **genai.response("m", finish_reasons=["stop"], response_id="1", first_chunk_s=0.1),
        **genai.usage(1, 2),
        **genai.messages([{"role": "user", "content": "hello"}], "hi"),
        genai.DATA_SOURCE: "",
        genai.DIMENSIONS: 1,
        genai.QUERY_TEXT: "",
    }
    assert {name for name in made if name.startswith("gen_ai.")} == set(made)
    assert set(made) <= known
    assert {"chat", "text_completion", "embeddings", "retrieval"} <= {
        each.value for each in pinned.GenAiOperationNameValues
    }


def test_pictures_stay_out_of_messages_and_texts_are_cut():
    content = [{"type": "text", "text": "x" * 50_000}, {"type": "image_url", "image_url": {"url": "data:AAAA"}}]
    made = genai.messages([{"role": "user", "content": content}], "a cat")
    assert "AAAA" not in str(made)
    assert len(str(made)) < 20_000

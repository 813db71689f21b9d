"""One request through gateway, RAG, embeddings, vector store and engine is one trace: all of it, and nothing else."""

import asyncio
import re

import pytest

from tests.integration.engine_services import GIB, engine_service
from tests.integration.traced_stack import DOCUMENTS, traced_stack
from tests.testkit.collector import Trace, collector
from tests.testkit.fake_runtime import FakeRuntime
from tests.testkit.server import eventually

pytestmark = [pytest.mark.slow]
CHAT = "POST /v1/chat/completions"
LAST = ("gateway: " + CHAT, "rag: " + CHAT, "embeddings: POST /v1/rerank")
"""The spans that each service sends last of what `ask` asks, which is answered with reranking."""
QUESTION = "Which port does the gateway listen on?"
CONTENT = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"


@pytest.fixture
async def stack(tmp_path, monkeypatch):
    async with traced_stack(tmp_path, monkeypatch) as made:
        await made.add_documents()
        await settle(made)
        yield made


async def settle(stack) -> None:
    """Forget the traces of what came before, when they all have come."""
    await eventually(lambda: ingested(stack))
    stack.collector.spans.clear()


def ingested(stack) -> bool:
    """Say whether the traces of all documents have come, whole."""
    return len(ingests(stack)) == len(DOCUMENTS) and all(trace.is_whole for trace in ingests(stack))


def ingests(stack) -> list[Trace]:
    """Return the traces of documents that have been ingested."""
    return [stack.collector.trace(span.trace) for span in stack.collector.spans if span.name == "rag.ingest"]


def one_trace(stack) -> Trace:
    """Return the only trace that there is."""
    found = {span.trace: f"{span.service}: {span.name}" for span in stack.collector.spans}
    assert len(found) == 1, found
    (trace_id,) = found
    return stack.collector.trace(trace_id)


def check_the_way(stack, trace: Trace) -> None:
    """Hold a trace of a question to the way that it goes."""
    (root,) = trace.roots
    outer, inner = trace.named(CHAT, service="gateway", kind="server")
    assert root is outer
    answer_of = trace.one(CHAT, service="rag", kind="server")
    assert "gateway: " + CHAT in trace.above(answer_of)
    retrieve = trace.one("rag.retrieve")
    assert trace.parent(retrieve) is answer_of
    for step in ("embed", "hybrid", "dedupe", "rerank", "top"):
        assert trace.parent(trace.one(f"rag.retrieve.{step}")) is retrieve
    search = next(span for span in trace.spans if span.attributes.get("db.operation.name") == "search")
    assert trace.parent(search) is trace.one("rag.retrieve.hybrid")
    assert (search.kind, search.attributes["db.system.name"]) == ("client", "qdrant")
    for route, step in (("embeddings", "embed"), ("rerank", "rerank")):
        served = trace.one(f"POST /v1/{route}", service="embeddings", kind="server")
        client = trace.parent(served)
        assert (client.service, client.kind) == ("rag", "client")
        assert trace.parent(client) is trace.one(f"rag.retrieve.{step}")
        computed = [span for span in trace.named("embeddings.compute") if span.parent == served.id]
        waited = [span for span in trace.named("embeddings.queue") if span.parent == served.id]
        assert len(computed) >= 1 == len(waited)
    asked = trace.parent(inner)
    assert (asked.service, asked.name, asked.kind) == ("rag", "chat fake-chat", "client")
    assert trace.parent(asked) is trace.one("rag.answer")
    assert trace.parent(trace.one("rag.answer")) is answer_of
    for span in trace.spans:
        assert span.ended >= span.began > 0
        if span.parent and span is not inner:  # what a client left may be noticed first by whoever stands behind
            assert span.began >= trace.parent(span).began


def check_engine(stack, trace: Trace) -> None:
    """Hold what the engine was told to the trace: its own spans would hang below the gateway's."""
    traceparent = stack.engine.requests("/v1/chat/completions")[-1]["headers"]["traceparent"]
    _, trace_id, span_id, flags = traceparent.split("-")
    (above,) = [span for span in trace.spans if span.id == span_id]
    assert (trace_id, above.service, int(flags, 16) & 1) == (trace.roots[0].trace, "gateway", 1)


async def test_a_question_is_one_trace_without_an_orphan(stack):
    answer = await stack.ask()
    assert answer.status_code == 200, answer.text
    trace = await stack.collector.whole(*LAST)
    check_the_way(stack, trace)
    check_engine(stack, trace)
    assert trace.one("rag.retrieve").attributes["gen_ai.operation.name"] == "retrieval"
    assert trace.one("rag.answer").attributes["rag.citations"] >= 0
    assert one_trace(stack).is_whole
    assert not any(span.failed for span in trace.spans)
    assert QUESTION not in str([span.attributes for span in trace.spans]), "prompts are switched on, never by default"


async def test_a_streamed_question_is_one_trace_too(stack):
    answer = await stack.ask(stream=True)
    assert answer.text.rstrip().endswith("[DONE]")
    trace = await stack.collector.whole(*LAST)
    check_the_way(stack, trace)
    check_engine(stack, trace)
    assert one_trace(stack).is_whole


async def test_a_client_that_leaves_leaves_a_whole_trace(stack):
    stack.engine.script(path="/v1/chat/completions", tokens=2000, tokens_per_s=50)
    body = {"model": "rag/handbook", "messages": [{"role": "user", "content": QUESTION}], "stream": True}
    async with stack.client.stream("POST", "/v1/chat/completions", json=body) as response:
        async for line in response.aiter_lines():
            if '"content"' in line:
                break
    await eventually(lambda: stack.engine.state().cancelled)
    trace_id = (await stack.collector.whole("rag: " + CHAT)).roots[0].trace
    # Gateway, RAG, gateway again: each has an end, and sends it in its own time.
    await eventually(lambda: len(stack.collector.trace(trace_id).named(CHAT, kind="server")) == 3)
    trace = stack.collector.trace(trace_id)
    assert trace.is_whole
    assert trace.one("rag.answer").attributes["sparkstack.cancelled"] is True
    assert not trace.one("rag.answer").failed, "nobody's failure"


async def test_many_questions_at_once_are_as_many_traces(stack):
    answers = await asyncio.gather(*(stack.ask(QUESTION + n * "?") for n in range(6)))
    assert {answer.status_code for answer in answers} == {200}
    await eventually(lambda: len(stack.collector.spans) and len(whole(stack)) == 6)
    for trace in whole(stack):
        check_the_way(stack, trace)
    assert len({span.trace for span in stack.collector.spans}) == 6
    linked = [span for span in stack.collector.spans if span.links]
    servers = {span.id: span.trace for span in stack.collector.spans if span.kind == "server"}
    for span in linked:  # batches that several shared say so
        assert all(servers[other] != span.trace for other in span.links)
        assert span.attributes["embeddings.batch_requests"] > len(span.links) - 1


def whole(stack) -> list[Trace]:
    traces = [stack.collector.trace(each) for each in {span.trace for span in stack.collector.spans}]
    return [trace for trace in traces if trace.is_whole and {f"{s.service}: {s.name}" for s in trace.spans} >= {*LAST}]


async def test_an_ingest_is_a_trace_for_each_document(tmp_path, monkeypatch):
    async with traced_stack(tmp_path, monkeypatch) as stack:
        await stack.add_documents()
        await eventually(lambda: ingested(stack))
        whole_ones = ingests(stack)
    for trace in whole_ones:
        assert trace.roots[0].attributes["rag.outcome"] == "ready"
        assert trace.parent(trace.one("rag.ingest.read")) is trace.roots[0]
    writes = [span for trace in whole_ones for span in trace.named("rag.ingest.write")]
    assert writes
    names = {span.name for trace in whole_ones for span in trace.spans}
    assert {"POST /v1/embeddings", "embeddings.compute"} <= names
    assert any(name.startswith("upsert ") for name in names)


async def test_the_load_that_a_request_waits_for_is_in_its_trace(tmp_path, monkeypatch):
    runtime = FakeRuntime()
    runtime.script("model-b", load_s=0.2)
    async with collector() as seen:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", seen.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        models = {"model-a": GIB, "model-b": GIB}
        async with engine_service(tmp_path, runtime, models=models, memory_gib=8.0) as service:
            await service.until("model-a", "ready")
            service.client.headers["traceparent"] = f"00-{'a' * 32}-{'b' * 16}-01"
            await service.granted("model-b")
            del service.client.headers["traceparent"]
            await eventually(lambda: len(seen.trace("a" * 32).spans) >= 3)
    await runtime.end_all()
    trace = seen.trace("a" * 32)
    served = trace.one("POST /leases", kind="server")
    load, lease = trace.one("engines.load"), trace.one("engines.lease")
    assert trace.parent(load) is trace.parent(lease) is served
    assert (load.attributes["engines.model"], load.failed) == ("model-b", False)
    assert load.ended - load.began >= 200_000_000
    loads = [span for span in seen.spans if span.name == "engines.load"]
    assert loads == [load], "what is loaded at the start belongs to nobody's request"


async def test_a_trace_that_is_not_sampled_at_its_root_is_nowhere(tmp_path, monkeypatch):
    ratio = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}
    async with traced_stack(tmp_path, monkeypatch, **ratio) as stack:
        await stack.add_documents()
        assert (await stack.ask()).status_code == 200
        assert (await stack.ask(stream=True)).status_code == 200
        unsampled = stack.engine.requests("/v1/chat/completions")[-1]["headers"]["traceparent"]
        assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00", unsampled), "who comes next is told"
        marked = await stack.client.post(
            "/v1/chat/completions",
            json={"model": "fake-chat", "messages": [{"role": "user", "content": "hello"}]},
            headers={"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"},
        )
        assert marked.status_code == 200
        # A caller's own decision counts: that one is recorded, and shows that anything else would have come before it.
        await eventually(lambda: stack.collector.trace("a" * 32).spans)
        assert {span.trace for span in stack.collector.spans} == {"a" * 32}


async def test_prompts_are_in_the_trace_when_they_are_switched_on(tmp_path, monkeypatch):
    async with traced_stack(tmp_path, monkeypatch, **{CONTENT: "true"}) as stack:
        await stack.add_documents()
        await settle(stack)
        await stack.ask()
        trace = await stack.collector.whole(*LAST)
    assert trace.one("rag.retrieve").attributes["gen_ai.retrieval.query.text"] == QUESTION
    assert QUESTION in trace.one("rag.answer").attributes["input.value"]


async def test_polls_begin_no_traces(stack):
    for path in ("/readyz", "/livez", "/metrics", "/status"):
        assert (await stack.client.get(path)).status_code == 200
    await stack.ask()
    await stack.collector.whole(*LAST)
    assert one_trace(stack).is_whole


async def test_tokens_are_counted_once_where_they_are_billed(stack):
    answer = (await stack.ask()).json()
    trace = await stack.collector.whole(*LAST)
    outer = trace.one("chat rag/handbook", service="gateway", kind="client")
    inner = trace.one("chat fake-chat", service="gateway", kind="client")
    assert trace.parent(trace.one(CHAT, service="rag", kind="server")) is outer
    counted = [span for span in trace.spans if "gen_ai.usage.output_tokens" in span.attributes]
    assert [span for span in counted if span.service == "gateway"] == [inner]
    assert not [span for span in counted if span.name.startswith("chat") and span.service != "gateway"]
    assert inner.attributes["gen_ai.provider.name"] == "llamacpp"
    assert outer.attributes["gen_ai.provider.name"] == "sparkstack"
    assert inner.attributes["gen_ai.usage.output_tokens"] == answer["usage"]["completion_tokens"]

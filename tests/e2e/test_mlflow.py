"""The MLflow server as the stack runs it: traces arrive and can be read, its registries and its page work.

Screenshots are left in `$SPARKSTACK_TEST_OUTPUT`, or in pytest's temporary folder: look at them after a change.
"""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import pytest_asyncio
from playwright.async_api import async_playwright, expect

from services.cli.home import find_home
from services.kit import genai, tracing
from services.stack import find_service
from tests.e2e.test_page import ARGUMENTS, CHROMIUM
from tests.integration.traced_stack import traced_stack
from tests.testkit.ports import free_port
from tests.testkit.server import ChildProcess, run_process

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.asyncio(loop_scope="module")]
CONTENT = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
QUESTION, ANSWER = "What is the capital of France?", "Paris."


def python() -> Path:
    """Return the interpreter that has MLflow, as the stack finds it; a variable may name another."""
    named = os.environ.get("SPARKSTACK_TEST_TRACKING_PYTHON")
    service = find_service("mlflow")
    assert service is not None
    return Path(named) if named else find_home().environment(service) / "bin" / "python"


@dataclass
class Mlflow:
    """The running server."""

    url: str
    child: ChildProcess
    state: Path
    client: httpx.AsyncClient

    def variables(self, **more: str) -> dict[str, str]:
        """Return what `up` gives the services, so that their traces come here."""
        return {
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{self.url}/v1/traces",
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "x-mlflow-experiment-id=0",
            **more,
        }

    async def call(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        """Ask its REST API."""
        given = {"params": body} if method == "GET" else {"json": body}
        answer = await self.client.request(method, path, **given)
        assert answer.status_code == 200, answer.text
        document: dict[str, Any] = answer.json()
        return document

    async def trace(self, trace_id: str) -> dict[str, Any]:
        """Return a trace with its spans, when it is there."""
        found = await self.call("GET", "/api/3.0/mlflow/traces/get", trace_id=f"tr-{trace_id}")
        trace: dict[str, Any] = found.get("trace", found)
        return trace

    async def traces(self) -> list[dict[str, Any]]:
        """Return what its list of traces shows."""
        where = {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": "0"}}
        found = await self.call("POST", "/api/3.0/mlflow/traces/search", locations=[where], max_results=100)
        traces: list[dict[str, Any]] = found.get("traces", [])
        return traces


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mlflow(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mlflow]:
    if not python().is_file():
        pytest.skip(f"MLflow's environment is not here: {python()}; `python3 scripts/bootstrap.py tracking` makes it")
    state, port = tmp_path_factory.mktemp("state"), free_port()
    # A dead proxy: whatever MLflow would fetch from elsewhere fails, and would be in its log.
    proxy = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9")
    command = [str(python()), "-m", "services.cli.main", "mlflow", "--port", str(port)]
    environment = {"SPARKSTACK_STATE": str(state), "SPARKSTACK_HOME": str(state), **proxy, "NO_PROXY": ""}
    async with (
        run_process(command, env=environment) as child,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client,
    ):
        await child.wait_for_url(f"http://127.0.0.1:{port}/health", timeout_s=120)
        yield Mlflow(f"http://127.0.0.1:{port}", child, state, client)
        outside = [line for line in child.lines if "Retrying" in line or "Max retries" in line]
        assert not outside, "MLflow asks nobody else"


async def until(condition: Any, timeout_s: float = 20) -> Any:
    """Return what `condition` returns as soon as that is something."""
    async with asyncio.timeout(timeout_s):
        while not (value := await condition()):
            await asyncio.sleep(0.1)
    return value


def attributes(span: dict[str, Any]) -> dict[str, str]:
    """Return a span's attributes as text."""
    return {each["key"]: str(each["value"].get("string_value", each["value"])) for each in span["attributes"]}


async def test_the_spans_of_a_real_question_arrive_as_one_trace(mlflow, tmp_path, monkeypatch):
    async with traced_stack(tmp_path, monkeypatch, **mlflow.variables()) as stack:
        await stack.add_documents()
        given = f"00-{'e' * 32}-{'f' * 16}-01"
        body = {
            "model": "rag/handbook",
            "messages": [{"role": "user", "content": "Which port has the gateway?"}],
            "rag": {"preset": "balanced"},  # the default one does not rerank
        }
        answer = await stack.client.post("/v1/chat/completions", json=body, headers={"traceparent": given})
        assert answer.status_code == 200, answer.text

        async def whole() -> dict[str, Any] | None:
            trace = await mlflow.trace("e" * 32)
            names = {span["name"] for span in trace["spans"]}
            return trace if {"rag.answer", "embeddings.compute", "POST /v1/rerank"} <= names else None

        trace = await until(whole)
    spans = trace["spans"]
    ids = {span["span_id"] for span in spans}
    outside = [span["name"] for span in spans if span.get("parent_span_id") not in ids]
    assert outside == ["POST /v1/chat/completions"], "the caller's own span is not here; all others hang together"
    kinds = {span["name"]: attributes(span).get("mlflow.spanType", "") for span in spans}
    assert "RETRIEVER" in kinds["rag.retrieve"]
    assert "RERANKER" in next(kind for name, kind in kinds.items() if name.startswith("rerank "))
    assert "EMBEDDING" in next(kind for name, kind in kinds.items() if name.startswith("embeddings all"))
    assert "Which port" not in json.dumps(trace), "no prompt without the switch"
    (listed,) = [each for each in await mlflow.traces() if each["trace_id"] == f"tr-{'e' * 32}"]
    assert listed["state"] == "IN_PROGRESS", "whoever began the trace has not sent its root"


async def test_tokens_and_previews_are_shown_when_prompts_are_switched_on(mlflow, monkeypatch):
    for name, value in mlflow.variables(**{CONTENT: "true"}).items():
        monkeypatch.setenv(name, value)
    tracer = tracing.tracer_from_environment("gateway", "0")
    assert tracer is not None
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
    with tracer.server_span("POST /v1/chat/completions", []) as root:
        chat = tracing.client_span("chat smollm2", genai.request("chat", "smollm2", {"temperature": 0}))
        chat.set(genai.response("smollm2-135m", finish_reasons=["stop"], first_chunk_s=0.2))
        chat.set({**genai.usage(30, 8), **genai.messages(asked, ANSWER)})
        chat.end()
        with tracing.client_span("embeddings mini", genai.request("embeddings", "mini")) as embeddings:
            embeddings.set(genai.usage(7))
        root.set(genai.preview(QUESTION, ANSWER))
    await asyncio.to_thread(tracer.shutdown)
    trace = await mlflow.trace(root.trace_id)
    info = trace["trace_info"]
    assert (info["state"], info["request_preview"], info["response_preview"]) == ("OK", QUESTION, ANSWER)
    usage = json.loads(info["trace_metadata"]["mlflow.trace.tokenUsage"])
    assert usage == {"input_tokens": 37, "output_tokens": 8, "total_tokens": 45}
    (shown,) = [span for span in trace["spans"] if span["name"] == "chat smollm2"]
    about = attributes(shown)
    assert "CHAT_MODEL" in about["mlflow.spanType"]
    assert QUESTION in about["mlflow.spanInputs"]
    assert ANSWER in about["mlflow.spanOutputs"]


async def test_a_request_that_failed_is_a_failed_trace(mlflow, monkeypatch):
    for name, value in mlflow.variables().items():
        monkeypatch.setenv(name, value)
    tracer = tracing.tracer_from_environment("gateway", "0")
    assert tracer is not None
    with tracer.server_span("POST /v1/chat/completions", []) as root:
        root.record_error("engine_unreachable", "the engine can't be reached")
    await asyncio.to_thread(tracer.shutdown)
    assert (await mlflow.trace(root.trace_id))["trace_info"]["state"] == "ERROR"


async def test_models_prompts_and_runs_can_be_kept(mlflow):
    api = "/api/2.0/mlflow"
    run = (await mlflow.call("POST", f"{api}/runs/create", experiment_id="0"))["run"]["info"]
    await mlflow.call("POST", f"{api}/runs/log-metric", run_id=run["run_id"], key="recall", value=0.9, timestamp=1)
    stored = await mlflow.client.put(
        f"/api/2.0/mlflow-artifacts/artifacts/0/{run['run_id']}/artifacts/report.md", content=b"# Report"
    )
    assert stored.status_code == 200, stored.text
    assert [path.name for path in (mlflow.state / "mlflow" / "artifacts").rglob("report.md")] == ["report.md"]
    await mlflow.call("POST", f"{api}/registered-models/create", name="reranker")
    version = await mlflow.call(
        "POST", f"{api}/model-versions/create", name="reranker", source=run["artifact_uri"], run_id=run["run_id"]
    )
    assert version["model_version"]["version"] == "1"
    is_prompt = [{"key": "mlflow.prompt.is_prompt", "value": "true"}]
    await mlflow.call("POST", f"{api}/registered-models/create", name="answer", tags=is_prompt)
    text = [{"key": "mlflow.prompt.text", "value": "Answer from {{passages}}"}, *is_prompt]
    await mlflow.call("POST", f"{api}/model-versions/create", name="answer", source="prompt-template", tags=text)
    kept = await mlflow.call("GET", f"{api}/model-versions/get", name="answer", version="1")
    assert {"key": "mlflow.prompt.text", "value": "Answer from {{passages}}"} in kept["model_version"]["tags"]


async def test_only_this_machines_names_are_answered(mlflow):
    port = mlflow.url.rpartition(":")[2]
    statuses = {}
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", "localhost:5999", "evil.example", "192.168.1.5:5000"):
        statuses[host] = (await mlflow.client.get("/", headers={"host": host})).status_code
    assert statuses == {
        f"127.0.0.1:{port}": 200,
        f"localhost:{port}": 200,
        "localhost:5999": 200,  # the end of an ssh tunnel
        "evil.example": 403,
        "192.168.1.5:5000": 403,
    }


async def test_no_page_can_have_it_run_commands(mlflow):
    for path in ("config", "providers", "Config"):
        answer = await mlflow.client.get(f"/ajax-api/3.0/mlflow/assistant/{path}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found"), path
    assert (await mlflow.client.post("/ajax-api/3.0/mlflow/assistant/message", json={})).status_code == 404


async def test_it_is_one_process_of_bounded_size_on_loopback(mlflow):
    process = psutil.Process(mlflow.child.pid)
    assert process.children() == []
    assert process.memory_info().rss < 700e6
    listening = {each.laddr.ip for each in process.net_connections() if each.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}
    assert (mlflow.state / "mlflow").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_its_page_shows_the_traces(mlflow, tmp_path, host):
    assert CHROMIUM, "no Chromium here: install it, or name one by CHROMIUM"
    output = Path(os.environ.get("SPARKSTACK_TEST_OUTPUT") or tmp_path)
    output.mkdir(parents=True, exist_ok=True)
    origin = mlflow.url.replace("127.0.0.1", host)
    asked: list[str] = []
    async with async_playwright() as play:
        browser = await play.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = await browser.new_page(viewport={"width": 1440, "height": 900})
        page.on("request", lambda each: asked.append(each.url))
        await page.goto(f"{origin}/#/experiments/0/traces")
        await expect(page.get_by_text(QUESTION).first).to_be_visible(timeout=60_000)
        greeting = page.get_by_role("button", name="Got it")
        await greeting.click(timeout=20_000)
        await page.screenshot(path=output / f"mlflow-traces-{host}.png")
        await page.get_by_text(QUESTION).first.click()
        await expect(page.get_by_text("chat smollm2").first).to_be_visible(timeout=30_000)
        await page.screenshot(path=output / f"mlflow-trace-{host}.png")
        await browser.close()
    elsewhere = [url for url in asked if not url.startswith((origin, "data:", "blob:"))]
    assert elsewhere == [], "a page of this machine asks nobody else"


async def test_it_ends_at_once_when_it_is_told_to(mlflow):
    os.kill(mlflow.child.pid, signal.SIGTERM)
    assert await asyncio.wait_for(mlflow.child.wait(), 15) in (0, -signal.SIGTERM)

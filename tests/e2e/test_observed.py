"""What a running stack leaves behind: traces in MLflow, records, costs, ratings; and what is lost when that dies."""

import os
import signal
import uuid

import httpx
import openai
import pytest

from tests.e2e.stacks import REPOSITORY, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(420), pytest.mark.only("embedded")]
RAG = "rag/handbook"
QUESTION = [{"role": "user", "content": "Name the capital of France."}]
CHAT = "chat smollm2-135m-instruct-q4_1"
SHORT = {"max_tokens": 12, "temperature": 0}


@pytest.fixture
def observed(new_stack):
    """A stack with MLflow and the tracking service, both ready, and one collection."""
    stack = new_stack(
        WITHOUT="", OTEL_BSP_SCHEDULE_DELAY="300", GATEWAY_RECORD_SAMPLE="1", SPARKSTACK_UP_TIMEOUT_S="150"
    )
    said = stack.up(timeout_s=180)
    assert "left out" not in said, "`python3 scripts/bootstrap.py tracking` makes the environment (`make test` does)"
    for name in ("tracking", "mlflow"):
        wait_for(lambda name=name: stack.status()[name]["state"] == "ready", name, stack.all_logs, 120)
    page = REPOSITORY / "docs" / "embeddings.md"
    stack.run("rag", "ingest", str(page), "--collection", "handbook", timeout_s=120)
    return stack


class Asked:
    """Sixty requests of all kinds, fifty with a trace of their own, by whose id one finds what was asked."""

    def __init__(self, stack) -> None:
        self.stack = stack
        self.traces: dict[str, str] = {}
        self.tokens = 0
        self.headers = {"authorization": f"Bearer {stack.key}"}

    def _traced(self, kind: str) -> dict[str, str]:
        trace = uuid.uuid4().hex
        self.traces[trace] = kind
        return {"traceparent": f"00-{trace}-{'b' * 16}-01"}

    def of(self, kind: str) -> list[str]:
        return [trace for trace, each in self.traces.items() if each == kind]

    def all(self) -> "Asked":
        with (
            openai.OpenAI(base_url=f"{self.stack.gateway}/v1", api_key=self.stack.key, max_retries=0) as client,
            httpx.Client(base_url=self.stack.gateway, headers=self.headers, trust_env=False, timeout=60) as http,
        ):
            for _ in range(10):
                self._round(client, http)
        return self

    def _round(self, client: openai.OpenAI, http: httpx.Client) -> None:
        chat = {"model": "default", "messages": QUESTION, **SHORT}
        done = client.chat.completions.create(**chat, user="ada", extra_headers=self._traced("chat"))
        self.tokens += done.usage.total_tokens
        *_, last = client.chat.completions.create(
            **chat, stream=True, stream_options={"include_usage": True}, extra_headers=self._traced("stream")
        )
        self.tokens += last.usage.total_tokens
        vectors = client.embeddings.create(
            model="all-minilm-l6-v2", input=["one text", "another"], extra_headers=self._traced("embeddings")
        )
        self.tokens += vectors.usage.total_tokens
        ports = [{"role": "user", "content": "Which port does the embeddings service listen on?"}]
        asked = self._traced("rag from its cache" if self.of("rag") else "rag")
        client.chat.completions.create(model=RAG, messages=ports, max_tokens=24, extra_headers=asked)
        told = http.post("/api/chat", json={"model": "smollm2", "messages": QUESTION, "options": {"num_predict": 5}})
        assert told.status_code == 200, told.text
        body = {"model": "no-such-model", "messages": QUESTION}
        refused = http.post("/v1/chat/completions", json=body, headers=self._traced("refused"))
        assert refused.status_code == 404


def whole(mlflow: httpx.Client, trace: str, names: set[str]) -> list[dict]:
    """The spans of a trace; [] while some of these names are not there."""
    answer = mlflow.get("/api/3.0/mlflow/traces/get", params={"trace_id": f"tr-{trace}"})
    spans = answer.json()["trace"]["spans"] if answer.status_code == 200 else []
    return spans if names <= {span["name"] for span in spans} else []


def test_sixty_requests_are_traced_counted_and_rated(observed):
    asked = Asked(observed).all()
    assert len(asked.traces) == 50
    services = observed.status()
    with httpx.Client(base_url=services["mlflow"]["address"], trust_env=False, timeout=30) as mlflow:
        for kind, inside in {
            "chat": {CHAT},
            "stream": {CHAT},
            "embeddings": {"embeddings.compute"},
            "rag": {"rag.retrieve", "rag.answer", "embeddings.compute"},
            "rag from its cache": {f"chat {RAG}"},
            "refused": {"POST /v1/chat/completions"},
        }.items():
            for trace in asked.of(kind):
                arrived = wait_for(
                    lambda t=trace, i=inside: whole(mlflow, t, i), f"a trace of {kind}", observed.all_logs
                )
                ids = {span["span_id"] for span in arrived}
                orphans = [span["name"] for span in arrived if span.get("parent_span_id") not in ids]
                assert orphans == ["POST /v1/" + ("embeddings" if kind == "embeddings" else "chat/completions")]

    with httpx.Client(base_url=observed.gateway, headers=asked.headers, trust_env=False, timeout=30) as http:

        def summary():
            found = http.get("/v1/tracking/summary").json()
            return found if found["requests"] >= 61 else None

        found = wait_for(summary, "all records", observed.all_logs)
        assert (found["requests"], found["failed"]) == (61, 10), "one more is `up`'s own first question"
        embedded = http.get("/v1/tracking/costs", params={"by": "model"}).json()["total"]
        assert embedded["prompt_tokens"] + embedded["completion_tokens"] >= asked.tokens
        assert {"name": "MLflow", "url": services["mlflow"]["address"]} in http.get("/status").json()["links"]
        trace = asked.of("chat")[0]
        rated = http.post("/v1/feedback", json={"trace_id": trace, "thumb": "up", "comment": "right"})
        assert rated.status_code < 300, rated.text

    shown = observed.run("records", "show", trace)
    assert "+1" in shown
    assert "right" in shown
    assert "61 requests" in observed.run("records", "summary")
    assert "TOKENS IN" in observed.run("cost", "--by", "key")
    assert "1" in observed.run("feedback", "list")
    assert "reference" in observed.run("drift", "show")
    deleted = observed.run("records", "rm", "--user", "ada", "--yes")
    assert deleted.startswith("10 requests")


def test_the_stack_answers_while_tracking_is_killed_and_it_comes_back(observed):
    observed.ask()
    before = observed.status()["tracking"]["pid"]
    os.kill(before, signal.SIGKILL)
    for _ in range(5):
        observed.ask()
    os.kill(observed.status()["mlflow"]["pid"], signal.SIGKILL)
    observed.ask()
    observed.wait_until_ready("tracking", other_pid_than=before)

    def told():
        return "8 requests" in observed.run("records", "summary")

    wait_for(told, "the records that waited, and those of before", observed.all_logs, 90)
    observed.ask()


@pytest.mark.parametrize("name", ["gateway", "rag"])
def test_what_can_not_be_left_out_is_named(stack, name):
    said = stack.run("up", WITHOUT=name, code=1)
    assert f"WITHOUT={name}: what can be left out is mlflow, tracking" in said

"""Drift over real sockets: what operators see and change, reports, and the verbs."""

import json
import sys

import httpx
import msgspec
import numpy as np
import pytest
import structlog
from click.testing import CliRunner
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from services.kit.on_behalf import HEADER, sign
from services.tracking.app import create_app
from services.tracking.commands.drift import drift
from services.tracking.drift.child import with_findings
from services.tracking.drift.reports import Reports
from services.tracking.drift.synthetic import KINDS, SAYS, asks
from services.tracking.drift.tabulating import rows_of
from services.tracking.service import Parts
from services.tracking.settings import TrackingSettings
from services.tracking.tests.samples import AT, batch, record, until
from services.tracking.tests.samples_of_drift import sampled
from tests.testkit.fake_services import fake_embeddings
from tests.testkit.server import in_thread, running

pytestmark = pytest.mark.slow

SIZE = 40
KEY = "sk-tracking"
MAKER = """
import json, pathlib, sys
document = json.loads(pathlib.Path(sys.argv[1]).read_text())
if document["window"]["id"] == 4:
    sys.exit("it can't be done")
columns = sorted(document["current"][0])
pathlib.Path(sys.argv[2]).write_text(f"<html><body>{len(document['reference'])} {columns}</body></html>")
"""


class Stack:
    def __init__(self, url, app):
        self.url = url
        self.app = app
        self._number = 0
        self._dice = np.random.default_rng(3)

    def call(self, method, path, caller="default", **request):
        headers = {"authorization": f"Bearer {KEY}", HEADER: sign(caller, KEY)}
        return httpx.request(method, self.url + path, headers=headers, trust_env=False, timeout=10, **request)

    def ask(self, windows=1, **fields):
        """Send full windows; when this returns they are compared."""
        records = []
        for _ in range(windows * SIZE):
            self._number += 1
            given = {
                "at": AT + self._number,
                "sampled": True,
                "prompt": "What is the limit of columns that a table can have?" + " please" * self._dice.integers(5),
                "answer": "It is in the manual, and that is on the table. " * self._dice.integers(1, 4),
                "seconds": float(self._dice.lognormal(0, 0.3)),
                **fields,
            }
            records.append(record(**given))
        body = msgspec.json.encode(batch(*records))
        headers = {"authorization": f"Bearer {KEY}"}
        httpx.post(f"{self.url}/v1/tracking/records", content=body, headers=headers, trust_env=False).raise_for_status()
        done = self.app.state.drift.monitor.state.windows + windows
        until(lambda: self.app.state.drift.monitor.state.windows == done, timeout_s=20)

    def run(self, *arguments):
        return CliRunner(env={"SPARKSTACK_API_KEY": KEY}).invoke(
            drift, ["--url", self.url, *arguments], catch_exceptions=False
        )


@pytest.fixture
def stack(tmp_path):
    settings = TrackingSettings(state=tmp_path, api_key=KEY, window_records=SIZE, look_interval_s=0.02)
    app = create_app(settings, Parts(counters=list))
    app.state.drift.reports = Reports(settings.folder, (sys.executable, "-c", MAKER))
    with structlog.testing.capture_logs(), in_thread(running(app)) as url:
        yield Stack(url, app)


def test_drift_is_shown_and_told_to_operators_alone(stack):
    assert "there is no reference yet" in stack.run("show").output
    stack.ask(3)
    stack.ask(answer="I'm sorry, but I can't help with that.")

    found = stack.call("GET", "/v1/tracking/drift").json()
    said = stack.run("show").output
    lines = said.splitlines()

    assert [window["alarm"] for window in found["windows"]] == [True, False, False, False]
    assert found["reference"]["name"] == "first"
    assert lines[0] == f"compared with first ({2 * SIZE} requests)"
    assert "meaning is not measured" in said
    assert next(line for line in lines if line.startswith("4 ")).split("first")[1].split(", ")[-1].strip() == "refusals"
    assert [line.split()[3] for line in lines if line.startswith("refusals")] == ["CHANGED"]
    assert json.loads(stack.run("show", "--json").output)["windows"] == found["windows"]
    for method, path in (
        ("GET", "/v1/tracking/drift"),
        ("GET", "/v1/tracking/references"),
        ("POST", "/v1/tracking/references/first/promote"),
        ("DELETE", "/v1/tracking/references/first"),
        ("GET", "/v1/tracking/reports"),
        ("POST", "/v1/tracking/reports"),
    ):
        refused = stack.call(method, path, caller="guest")
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "permission_denied"), path
    assert httpx.get(f"{stack.url}/v1/tracking/drift", trust_env=False).status_code == 401


def test_references_are_made_promoted_and_removed(stack):
    assert "are full so far, 2 are asked for" in stack.run("reference", "make", "monday").output
    stack.ask(3)

    assert "not in use" in stack.run("reference", "make", "monday", "--window", "3", "--note", "a quiet day").output
    assert stack.run("promote", "monday").output == f"monday is in use: {SIZE} requests\n"
    listed = stack.run("reference").output.splitlines()
    assert listed[1].startswith("monday")
    assert listed[1].endswith("in use  a quiet day")
    assert stack.run("promote", "three", "--windows", "3").output == f"three is made of {3 * SIZE} requests, in use\n"
    stack.run("reference", "rm", "three")
    assert [each["in_use"] for each in stack.call("GET", "/v1/tracking/references").json()["data"]] == [True, False]

    unknown = stack.run("promote", "tuesday")
    assert unknown.exit_code == 1
    assert "there is no reference 'tuesday'" in unknown.output
    assert stack.call("POST", "/v1/tracking/references/x/promote").json()["error"]["code"] == "drift_not_found"
    both = stack.call("POST", "/v1/tracking/references", json={"name": "x", "window": 1, "windows": 1})
    assert (both.status_code, both.json()["error"]["param"]) == (400, "windows")
    assert stack.call("POST", "/v1/tracking/references", json={"name": "../x"}).status_code == 400


def test_a_report_is_made_saved_and_cannot_act_as_the_gateways_page(stack, tmp_path):
    stack.ask(3)
    target = tmp_path / "page.html"

    said = stack.run("report", "--output", str(target))

    assert said.output.startswith(f"{target}: window 3 against first; also at {stack.url}/v1/tracking/reports/")
    page = target.read_text()
    assert page.startswith(f"<html><body>{2 * SIZE} ['answer_characters', 'answer_language', ")
    (made,) = stack.call("GET", "/v1/tracking/reports").json()["data"]
    assert made["status"] == "ready"
    served = stack.call("GET", made["url"])
    assert (served.text, served.headers["content-type"]) == (page, "text/html; charset=utf-8")
    assert served.headers["content-security-policy"].startswith("sandbox")
    assert "same-origin" not in served.headers["content-security-policy"]
    left = sorted(path.suffix for path in stack.app.state.drift.reports.path("x").parent.iterdir())
    assert left == [".html"]


def test_a_report_that_fails_says_why(stack):
    stack.ask(4)

    failed = stack.run("report", "--window", "4")
    assert (failed.exit_code, "it can't be done" in failed.output) == (1, True)
    early = stack.run("report", "--window", "1")
    assert "was full before there was a reference" in early.output
    assert stack.call("POST", "/v1/tracking/reports", json={"window": 99}).status_code == 404
    assert stack.call("GET", "/v1/tracking/reports/..%2f..%2frecords.db").status_code == 404


def test_the_metrics_of_drift_are_the_services(stack):
    stack.ask(3)
    text = httpx.get(f"{stack.url}/metrics", trust_env=False).text

    assert 'tracking_drift_score{signal="prompt_length"}' in text
    assert "tracking_windows_total 3.0" in text


def test_rows_of_a_report_hold_no_text():
    dice = np.random.default_rng(0)
    mine, theirs = rows_of(sampled(dice, 5), sampled(dice, 8))

    assert (len(mine), len(theirs)) == (5, 8)
    assert mine[0].keys() == theirs[0].keys() >= {"prompt_usual", "prompt_language", "seconds"}
    assert "feedback" not in mine[0]
    assert "database" not in json.dumps(mine)
    assert -1 <= mine[0]["prompt_usual"] <= 1


def test_the_monitors_findings_stand_above_evidentlys_page():
    finding = {"signal": "latency", "score": 0.5, "p": 0.0001, "alarm": True, "detail": {"psi": 1.0}}
    window = {"id": 7, "size": 40, "reference": "<b>", "alarm": True, "findings": [finding]}
    page = with_findings('<html><body class="x"><p>theirs</p></body></html>', window)

    assert page.index('<body class="x">') < page.index("latency") < page.index("theirs")
    assert "&lt;b&gt;" in page
    assert '<tr class="changed">' in page


@pytest.mark.parametrize("kind", KINDS)
def test_synthetic_traffic_is_the_same_for_the_same_seed(kind):
    first = list(asks(kind, 30, seed=4))

    assert first == list(asks(kind, 30, seed=4))
    assert first != list(asks(kind, 30, seed=5))
    assert (kind == "none") == (first == list(asks("none", 30, seed=4)))
    assert list(asks(kind, 30, seed=4, share=0.0)) == list(asks(kind, 30, seed=4, share=0.0))


@pytest.fixture
def gateway():
    app = FastAPI()
    app.state.asked = []

    @app.get("/v1/models")
    async def models():
        return {"data": [{"id": "rag/x"}, {"id": "mini", "sparkstack": {"capabilities": ["embeddings"]}}, {"id": "m"}]}

    @app.post("/v1/chat/completions")
    async def chat(request: Request):
        app.state.asked.append(await request.json())
        return JSONResponse({}, 503 if len(app.state.asked) == 7 else 200)

    with in_thread(running(app)) as url:
        yield url, app.state.asked


def test_synthetic_traffic_goes_to_the_model_that_chats_and_what_was_not_answered_is_said(gateway):
    url, asked = gateway
    arguments = ["--url", url, "synthetic", "--kind", "worse", "--share", "0.5"]
    good = CliRunner().invoke(drift, [*arguments, "--count", "6"])
    bad = CliRunner().invoke(drift, [*arguments, "--count", "5"])

    assert (good.exit_code, good.output) == (0, f"{SAYS['worse']}: 6 requests to m, 6 answered\n")
    assert {body["model"] for body in asked} == {"m"}
    assert {body.get("temperature") for body in asked} == {None, 2.0}
    assert {body["max_tokens"] for body in asked} == {48, 6}
    assert bad.exit_code == 1
    assert "not answered: 1 × 503" in bad.output


def test_the_service_asks_the_embeddings_service_for_vectors_of_masked_texts(tmp_path):
    with in_thread(fake_embeddings(key="sk-e")) as embeddings:
        settings = TrackingSettings(
            state=tmp_path,
            api_key=KEY,
            window_records=SIZE,
            look_interval_s=0.02,
            embeddings_url=embeddings.url,
            embeddings_key="sk-e",
        )
        app = create_app(settings, Parts(counters=list))
        with structlog.testing.capture_logs(), in_thread(running(app)) as url:
            stack = Stack(url, app)
            stack.ask(3, answer="Write to ada@example.com, please")
            found = stack.call("GET", "/v1/tracking/drift").json()

        assert found["measures_meaning"] is True
        assert found["trouble"] is None
        assert {"prompt_domain", "answer_mmd"} <= {each["signal"] for each in found["windows"][0]["findings"]}
        asked = [text for seen in embeddings.seen if seen.body for text in seen.body["input"]]
        assert "Write to [EMAIL], please" in asked
        assert not any("ada@" in text for text in asked)

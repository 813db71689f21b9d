"""`sparkstack eval run|list|show` against a server on a real socket, which fails as a test scripts it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from services.kit import mlflow
from services.tracking.commands.evaluate import evaluate
from services.tracking.evaluation.runs import Runs, evaluations_folder
from tests.testkit.server import fake_engine, in_thread

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARKSTACK_STATE", str(tmp_path / "state"))
    for name in ("MLFLOW_TRACKING_URI", "SPARKSTACK_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "state"


@pytest.fixture
def engine():
    with in_thread(fake_engine()) as engine:
        yield engine


@pytest.fixture
def questions(tmp_path):
    """A set of which the fake engine, which echoes, knows two answers of three."""
    rows = [
        {"id": "q1", "prompt": "echo: Paris", "scorer": "exact", "reference": "Paris", "kind": "good"},
        {"id": "q2", "prompt": "echo: about 12", "scorer": "numeric", "reference": 12, "kind": "good"},
        {"id": "q3", "prompt": "echo: none", "scorer": "numeric", "reference": 12, "kind": "bad"},
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(*arguments):
    return CliRunner().invoke(evaluate, [str(each) for each in arguments])


def asked(engine):
    return [request["body"]["messages"][-1]["content"] for request in engine.requests(CHAT)]


def only_run():
    runs = Runs(evaluations_folder())
    (found,) = runs.list()
    return found, runs.items(found)


def test_a_set_is_asked_scored_and_kept(engine, questions, tmp_path):
    done = run("run", "fake-chat", "--set", questions, "--url", engine.url, "--seed", 7, "--output", tmp_path / "out")
    assert done.exit_code == 0, done.output
    found, items = only_run()
    assert [(item.id, item.answer, item.score, item.format_failed) for item in items] == [
        ("q1", "Paris", 1, False),
        ("q2", "about 12", 1, False),
        ("q3", "none", 0, True),
    ]
    assert all(item.seconds > 0 and item.completion_tokens and item.finish_reason == "stop" for item in items)
    assert (found.state, found.served, found.recipe, found.seed) == ("finished", "fake-chat", "fake-chat", 7)
    assert found.score.mean == pytest.approx(2 / 3)
    body = engine.requests(CHAT)[0]["body"]
    assert (body["temperature"], body["seed"], body["max_tokens"]) == (0.0, 7, 256)
    assert "score                0.667" in done.stdout
    assert "3/3, score 0.667" in done.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"report.md", "run.json", "items.jsonl"}
    report = (tmp_path / "out" / "report.md").read_text()
    assert "# fake-chat on mine" in report
    assert "| q3 | 0 | echo: none | 12 | none |" in report


def test_the_key_is_sent_and_a_limit_asks_the_first_alone(engine, questions, monkeypatch):
    monkeypatch.setenv("SPARKSTACK_API_KEY", "laptop=sk-from-env,other=x")
    run("run", "fake-chat", "--set", questions, "--url", engine.url, "--limit", 1)
    run("run", "fake-chat", "--set", questions, "--url", engine.url, "--limit", 1, "--key", "sk-given")
    assert asked(engine) == ["echo: Paris"] * 2
    keys = [request["headers"]["authorization"] for request in engine.requests(CHAT)]
    assert keys == ["Bearer sk-from-env", "Bearer sk-given"]


def test_several_at_a_time_stand_in_the_order_of_the_set(engine, tmp_path):
    path = tmp_path / "many.jsonl"
    rows = [{"id": f"q{n}", "prompt": f"echo: {n}", "scorer": "numeric", "reference": n} for n in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run("run", "fake-chat", "--set", path, "--url", engine.url, "--concurrency", 8).exit_code == 0
    found, items = only_run()
    assert [item.answer for item in items] == [str(n) for n in range(40)]
    assert found.score.mean == 1


def test_a_server_that_is_full_or_loading_is_waited_for(engine, questions, monkeypatch):
    monkeypatch.setattr("services.tracking.evaluation.door._FIRST_WAIT_S", 0.01)
    engine.script(path=CHAT, times=2, status=503)
    done = run("run", "fake-chat", "--set", questions, "--url", engine.url)
    assert done.exit_code == 0, done.output
    assert [item.error for item in only_run()[1]] == ["", "", ""]


def test_a_question_that_is_refused_counts_as_wrong_and_is_told(engine, questions):
    engine.script(path=CHAT, times=1, status=400)
    assert run("run", "fake-chat", "--set", questions, "--url", engine.url).exit_code == 0
    found, items = only_run()
    assert items[0].error.startswith("400: ")
    assert (items[0].score, found.counts["errors"], found.score.n) == (0, 1, 3)


def test_where_no_question_has_an_answer_the_run_has_failed(engine, questions):
    engine.script(path=CHAT, status=400)
    done = run("run", "fake-chat", "--set", questions, "--url", engine.url)
    assert done.exit_code == 1
    assert "no item has an answer; the first: 400" in done.stdout
    assert only_run()[0].state == "failed"


def test_a_server_that_dies_leaves_what_was_answered_and_the_run_goes_on(engine, questions, monkeypatch):
    monkeypatch.setattr("services.tracking.evaluation.door._FIRST_WAIT_S", 0.01)
    # The second question, and each try of it, finds a dead socket.
    engine.script(path=CHAT, times=1)
    engine.script(path=CHAT, times=3, die_head=True)
    done = run("run", "fake-chat", "--set", questions, "--url", engine.url)
    assert done.exit_code == 1
    found, items = only_run()
    assert (found.state, [item.id for item in items]) == ("interrupted", ["q1"])
    assert "stopped answering" in done.stdout
    assert f"1 answers are kept: `sparkstack eval run --resume {found.id}` goes on" in done.stdout
    before = len(asked(engine))
    again = run("run", "--resume", found.id[:20])
    assert again.exit_code == 0, again.output
    assert asked(engine)[before:] == ["echo: about 12", "echo: none"]
    found, items = only_run()
    assert (found.state, [item.id for item in items]) == ("finished", ["q1", "q2", "q3"])
    assert run("run", "--resume", found.id).exit_code == 1, "it has finished"


def test_a_server_that_dies_under_several_questions_is_told_once(engine, tmp_path, monkeypatch):
    monkeypatch.setattr("services.tracking.evaluation.door._FIRST_WAIT_S", 0.01)
    path = tmp_path / "many.jsonl"
    rows = [{"id": f"q{n}", "prompt": f"echo: {n}", "scorer": "numeric", "reference": n} for n in range(9)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    engine.script(path=CHAT, die_head=True)
    done = run("run", "fake-chat", "--set", path, "--url", engine.url, "--concurrency", 4)
    assert done.exit_code == 1
    assert only_run()[0].state == "interrupted"
    assert "nothing answers at" in done.stdout


def test_a_full_disk_is_told_in_a_sentence(engine, questions, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Runs, "append", full)
    done = run("run", "fake-chat", "--set", questions, "--url", engine.url)
    assert done.exit_code == 1
    assert "evaluations: No space left on device" in done.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_what_was_answered(questions, number):
    with in_thread(fake_engine(ttft_ms=150)) as engine:
        command = [sys.executable, "-c", "from services.tracking.commands.evaluate import evaluate; evaluate()"]
        command += ["run", "fake-chat", "--set", str(questions), "--url", engine.url, "--no-mlflow"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        deadline = time.monotonic() + 20
        while len(engine.requests(CHAT)) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(process.pid, number)
        said, _ = process.communicate(timeout=20)
    assert process.returncode == 130, said
    found, items = only_run()
    assert found.state == "interrupted"
    assert [item.id for item in items] == ["q1"]
    assert "interrupted. 1 answers are kept" in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["fake-cat", "--set", "basics"], "there is no model fake-cat; there are fake-chat"),
        (["fake-chat", "--set", "basic"], "there is no set basic"),
        (["fake-chat"], "name a MODEL and one of --set and --task"),
        (["fake-chat", "--set", "basics", "--task", "gsm8k"], "name a MODEL and one of --set and --task"),
        (["--resume", "2020"], "there is no run '2020'"),
        (["fake-chat", "--set", "basics", "--resume", "2020"], "leave MODEL, --set and --task out"),
    ],
)
def test_what_cannot_be_run_is_told_before_anything_is_asked(engine, arguments, says):
    done = run("run", *arguments, *([] if "--resume" in arguments else ["--url", engine.url]))
    assert done.exit_code in (1, 2)
    assert says in done.output
    assert asked(engine) == []
    assert Runs(evaluations_folder()).list() == []


def test_a_refused_key_and_a_dead_gateway_are_told(engine, questions):
    engine.script(path="/v1/models", status=401)
    done = run("run", "fake-chat", "--set", questions, "--url", engine.url)
    assert done.exit_code == 1
    assert "refuses the key (401" in done.output
    assert "name the right one by --key or SPARKSTACK_API_KEY" in done.output
    dead = run("run", "fake-chat", "--set", questions, "--url", "http://127.0.0.1:1")
    assert "nothing answers at http://127.0.0.1:1" in dead.output
    assert "make up" in dead.output


def test_runs_are_listed_and_shown(engine, questions):
    assert "there are no runs yet" in run("list").output
    run("run", "fake-chat", "--set", questions, "--url", engine.url)
    found, _ = only_run()
    assert f"{found.id}  fake-chat  mine  0.667 [0.000, 1.000]  3      finished" in run("list").output
    shown = run("show", found.id, "--failed").output
    assert "q3: 0, not in the form asked for" in shown
    assert "wanted:   12" in shown
    assert "q1" not in shown
    assert "q1: 1" in run("show", found.id, "--items").output
    document = json.loads(run("show", found.id, "--json").output)
    assert (document["set"], len(document["items"])) == ("mine", 3)
    assert "there is no run 'x'" in run("show", "x").output


def test_what_there_is_to_ask_is_listed_and_a_file_is_checked(questions):
    listed = run("sets").output
    assert "basics" in listed
    assert "sparkstack_arithmetic  the set arithmetic" in listed
    assert "scorers: exact, numeric" in run("sets", questions).output
    questions.write_text("{")
    assert "line 1: not JSON" in run("sets", questions).output


class FakeMlflow:
    """MLflow, by the requests that it gets."""

    def __init__(self):
        self.asked = []
        self.refuse = ""

    def __call__(self, request):
        path = request.url.path
        self.asked.append((path, request.content))
        if self.refuse and path.endswith(self.refuse):
            return httpx.Response(400, text="no")
        if path.endswith("get-by-name"):
            return httpx.Response(200, json={"experiment": {"experiment_id": "3"}})
        info = {"run_id": "r1", "artifact_uri": "mlflow-artifacts:/3/r1/artifacts"}
        return httpx.Response(200, json={"run": {"info": info}})

    def sent(self, end):
        return [json.loads(content) for path, content in self.asked if path.endswith(end)]


@pytest.fixture
def fake_mlflow(monkeypatch):
    fake = FakeMlflow()
    transport = httpx.MockTransport(fake)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.invalid:5000")
    monkeypatch.setattr(mlflow, "connect", lambda uri: httpx.Client(transport=transport, base_url=uri))
    return fake


def test_a_run_is_logged_with_its_figures_tags_and_files(engine, questions, fake_mlflow):
    done = run("run", "fake-chat", "--set", questions, "--url", engine.url)
    assert "mlflow: http://mlflow.invalid:5000/#/experiments/3/runs/r1" in done.stderr
    found, _ = only_run()
    (batch,) = fake_mlflow.sent("/log-batch")
    metrics = {each["key"]: each["value"] for each in batch["metrics"]}
    assert metrics["score"] == pytest.approx(2 / 3)
    assert metrics["score.low"] <= metrics["score"] <= metrics["score.high"]
    assert metrics["count.format_failures"] == 1
    parameters = {each["key"]: each["value"] for each in batch["params"]}
    assert (parameters["model"], parameters["set"], parameters["temperature"]) == ("fake-chat", "mine", "0.0")
    tags = {each["key"]: each["value"] for each in batch["tags"]}
    assert tags["sparkstack.run"] == found.id
    assert tags["sparkstack.recipe"] == "fake-chat"
    assert tags["sparkstack.commit"] == found.commit
    stored = [Path(path).name for path, _ in fake_mlflow.asked if "mlflow-artifacts" in path]
    assert stored == ["report.md", "run.json", "items.jsonl"]
    assert fake_mlflow.sent("/runs/update")[-1]["status"] == "FINISHED"


def test_where_mlflow_refuses_the_run_stays_whole_and_is_marked_there(engine, questions, fake_mlflow):
    fake_mlflow.refuse = "/log-batch"
    done = run("run", "fake-chat", "--set", questions, "--url", engine.url)
    assert done.exit_code == 0
    assert "not logged to MLflow: /api/2.0/mlflow/runs/log-batch says 400: no" in done.stderr
    assert fake_mlflow.sent("/runs/update")[-1]["status"] == "FAILED"
    assert only_run()[0].state == "finished"


def test_nothing_is_logged_where_nobody_wants_it(engine, questions, fake_mlflow):
    run("run", "fake-chat", "--set", questions, "--url", engine.url, "--no-mlflow")
    assert fake_mlflow.asked == []


def test_a_long_list_goes_in_as_many_calls_as_mlflow_wants(fake_mlflow):
    many = {f"p{n}": "x" * 7000 for n in range(250)}
    mlflow.log_run("http://mlflow.invalid", "e", metrics={}, parameters=many)
    batches = fake_mlflow.sent("/log-batch")
    assert [len(batch["params"]) for batch in batches] == [100, 100, 50]
    assert len(batches[0]["params"][0]["value"]) == 6000


def test_wandb_that_is_not_here_says_how_it_comes(engine, questions, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_ENVIRONMENT", str(tmp_path / "nowhere"))
    done = run("run", "fake-chat", "--set", questions, "--url", engine.url, "--wandb")
    assert done.exit_code == 0
    assert "not logged to wandb" in done.stderr
    assert "python3 scripts/bootstrap.py wandb" in done.stderr

"""`sparkstack rag eval` against a service over HTTP: figures, files, MLflow, and what it says when it can't."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from services.kit import mlflow
from services.rag.commands.evaluate import evaluate as command
from services.rag.evaluating import service

QUESTIONS = [
    {"id": "q1", "question": "What frees room?", "kind": "factual", "split": "dev"},
    {"id": "q2", "question": "What counts rows?", "kind": "how-to", "split": "held_out"},
    {"id": "q3", "question": "Who won?", "kind": "unanswerable", "split": "held_out"},
]
QRELS = "q1 0 vacuum.md 2\nq1 0 my file.md 1\nq2 0 analyze.md 2\n"
FOUND = {
    "What frees room?": ["vacuum.md", "vacuum.md", "my file.md"],
    "What counts rows?": ["vacuum.md", "analyze.md"],
    "Who won?": ["vacuum.md"],
}


class FakeStack:
    """The RAG service, the gateway and MLflow, by the requests that they get."""

    def __init__(self) -> None:
        self.searches: list[dict[str, Any]] = []
        self.mlflow: list[tuple[str, Any]] = []
        self.refuse = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if "mlflow" in path:
            return self._mlflow(request)
        body = json.loads(request.content)
        if path.endswith("/search"):
            return self._search(body)
        if body["model"].startswith("rag/"):
            answerable = body["messages"][0]["content"] != "Who won?"
            return _chat("VACUUM frees room.", sparkstack={"answerable": answerable})
        prompt = body["messages"][0]["content"]
        if "Split the answer" in prompt:
            return _chat('{"statements": ["VACUUM frees room."]}')
        return _chat('{"verdicts": [true]}' if "numbered statement" in prompt else '{"grade": 2}')

    def _search(self, body: dict[str, Any]) -> httpx.Response:
        if self.refuse:
            error = {"message": "there is no collection `nope`", "code": "collection_not_found"}
            return httpx.Response(self.refuse, json={"error": error})
        self.searches.append(body)
        rows = [{"name": name, "text": f"of {name}", "score": 1.0} for name in FOUND[body["query"]]]
        similarity = 0.2 if body["query"] == "Who won?" else 0.7
        return httpx.Response(
            200, json={"data": rows, "steps": [{"name": "embed", "ms": 1.5}], "best_similarity": similarity}
        )

    def _mlflow(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        self.mlflow.append((path, json.loads(request.content) if request.method == "POST" else request.content))
        if path.endswith("get-by-name"):
            return httpx.Response(404, json={"error_code": "RESOURCE_DOES_NOT_EXIST"})
        info = {"run_id": "r1", "artifact_uri": "mlflow-artifacts:/7/r1/artifacts"}
        return httpx.Response(200, json={"experiment_id": "7", "run": {"info": info}})


def _chat(text: str, **more: Any) -> httpx.Response:
    return httpx.Response(200, json={"choices": [{"message": {"content": text}}], **more})


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeStack]:
    fake = FakeStack()
    transport = httpx.MockTransport(fake)
    monkeypatch.setattr(service, "client", lambda url, headers: httpx.AsyncClient(base_url=url, transport=transport))
    monkeypatch.setattr(mlflow, "connect", lambda uri: httpx.Client(transport=transport, base_url=uri.rstrip("/")))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return fake


@pytest.fixture
def run(tmp_path: Path, stack: FakeStack) -> Callable[..., Result]:
    (tmp_path / "questions.jsonl").write_text("\n".join(json.dumps(row) for row in QUESTIONS))
    (tmp_path / "qrels.txt").write_text(QRELS)

    def invoke(*options: str) -> Result:
        files = ["--questions", str(tmp_path / "questions.jsonl"), "--qrels", str(tmp_path / "qrels.txt")]
        return CliRunner().invoke(command, ["--collection", "handbook", *files, "--no-plots", *options])

    return invoke


def test_it_prints_the_measures_of_each_preset(run: Callable[..., Result], stack: FakeStack) -> None:
    done = run("--presets", "fast,balanced")
    assert done.exit_code == 0, done.output
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[0][:4] == ["preset", "nDCG@10", "recall@10", "MRR"]
    assert [row[0] for row in rows[1:3]] == ["fast", "balanced"]
    # The first is ranked perfectly, the second has its page in second place: (1 + 0.631) / 2 and (1 + 0.5) / 2.
    assert (rows[1][1], rows[1][7]) == ("0.815", "0.750")
    assert {body["preset"] for body in stack.searches} == {"fast", "balanced"}
    assert "balanced: searched 3/3" in done.stderr


def test_only_the_questions_of_the_split_are_asked(run: Callable[..., Result], stack: FakeStack) -> None:
    assert run("--split", "held_out", "--presets", "fast").exit_code == 0
    assert [body["query"] for body in stack.searches] == ["What counts rows?", "Who won?"]


def test_the_report_has_the_figures_and_every_question(run: Callable[..., Result], tmp_path: Path) -> None:
    assert run("--presets", "fast,balanced", "--out", str(tmp_path / "out")).exit_code == 0
    text = (tmp_path / "out/report.md").read_text()
    assert "2 questions with judgements, 1 that the documents don't answer" in text
    assert "| balanced | +0.000 [+0.000, +0.000] |" in text
    document = json.loads((tmp_path / "out/report.json").read_text())
    assert document["summary"]["presets"]["fast"]["separation"] == 1.0
    assert document["summary"]["presets"]["fast"]["steps_ms"] == {"embed": 1.5}
    assert document["rows"]["fast"][0]["documents"] == ["vacuum.md", "my file.md"]


def test_with_a_judge_answers_are_made_and_judged_and_refusals_counted(
    run: Callable[..., Result], tmp_path: Path
) -> None:
    done = run("--presets", "fast", "--judge", "big-model", "--out", str(tmp_path / "out"))
    assert "fast: faithfulness 1.00, relevance 1.00 (2 answers, judged by big-model)" in done.stdout
    assert "| 0 of 2 | 0 of 1 |" in (tmp_path / "out/report.md").read_text()


def test_the_run_is_logged_with_its_measures_and_files(
    run: Callable[..., Result], stack: FakeStack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000/")
    done = run("--presets", "fast", "--out", str(tmp_path / "out"))
    assert "mlflow: http://127.0.0.1:5000/#/experiments/7/runs/r1" in done.stdout
    sent = dict(stack.mlflow)
    metrics = {each["key"]: each["value"] for each in sent["/api/2.0/mlflow/runs/log-batch"]["metrics"]}
    assert metrics["fast.mrr"] == 0.75
    assert metrics["fast.ndcg_at_10.low"] <= metrics["fast.ndcg_at_10"]
    assert b"# Evaluation of handbook" in sent["/api/2.0/mlflow-artifacts/artifacts/7/r1/artifacts/report.md"]
    assert sent["/api/2.0/mlflow/runs/update"]["status"] == "FINISHED"


def test_without_an_answer_of_mlflow_the_figures_are_still_printed(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///runs.db")
    done = run("--presets", "fast")
    assert done.exit_code == 0
    assert "not logged to MLflow: MLFLOW_TRACKING_URI=sqlite:///runs.db is no address of a server" in done.stderr


def test_a_collection_that_is_not_there_is_named(run: Callable[..., Result], stack: FakeStack) -> None:
    stack.refuse = 404
    done = run()
    assert done.exit_code == 1
    assert "says 404: there is no collection `nope`" in done.stderr


def test_judgements_of_other_documents_are_found_out(run: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "qrels.txt").write_text("q1 0 docs/vacuum.html 2\n")
    done = run("--presets", "fast")
    assert done.exit_code == 1
    assert "no document that was found in handbook has a judgement" in done.stderr
    assert "found: vacuum.md" in done.stderr


def test_a_folder_in_front_of_the_names_does_no_harm(
    run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    for question, names in FOUND.items():
        monkeypatch.setitem(FOUND, question, [f"corpus/documents/{name}" for name in names])
    assert run("--presets", "fast").stdout.splitlines()[1].split()[1] == "0.815"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("qrels.txt", "q1 vacuum.md\n", "line 1: not `question 0 document grade`"),
        ("qrels.txt", "other 0 vacuum.md 2\n", "none of these questions has a document of grade 1 or 2"),
        ("questions.jsonl", '{"id": "q1"}', "a question needs `id` and `question`"),
        ("questions.jsonl", '{"id": "q1", "question": "?"}\n' * 2, "line 2: the id q1 stands there twice"),
        ("questions.jsonl", "{", "line 1: not JSON"),
    ],
)
def test_a_wrong_file_is_told_by_its_line(
    run: Callable[..., Result], tmp_path: Path, name: str, content: str, says: str
) -> None:
    (tmp_path / name).write_text(content)
    done = run()
    assert done.exit_code == 1
    assert says in done.stderr


def test_a_split_that_the_file_lacks_is_told_with_those_it_has(run: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "questions.jsonl").write_text(json.dumps(QUESTIONS[0]))
    assert "no questions of the split held_out; its splits: dev" in run("--split", "held_out").stderr

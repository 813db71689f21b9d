"""lm-evaluation-harness as the run sees it: a child that answers, fails, is killed; and its samples as items.

The harness itself is in an environment of its own: tests/e2e/test_evaluation_and_harness.py runs it.
"""

import json
import sys

import pytest
from click.testing import CliRunner

from services.tracking.commands.evaluate import evaluate
from services.tracking.evaluation.harness_child import unknown
from services.tracking.evaluation.harness_items import digest_of, items_of
from services.tracking.evaluation.harness_notes import Notes, sha256
from services.tracking.evaluation.harness_stops import Stop, waits
from services.tracking.evaluation.runs import Runs, evaluations_folder
from tests.testkit.server import fake_engine, in_thread

CHILD = """#!{python}
import json, os, pathlib, signal, sys
if sys.argv[1] == "-c":
    print("0.4.13")
    sys.exit()
request = json.loads(pathlib.Path(sys.argv[-1]).read_text())
folder = pathlib.Path(request["folder"])
def tell(**said):
    print(json.dumps(said), flush=True)
print("a library says something")
name = request["name"]
if name == "nothing":
    tell(event="failed", message="lm-evaluation-harness has no task nothing", can_go_on=False)
    sys.exit(1)
tell(event="planned", items=2, answered=0)
with (folder / "requests.jsonl").open("a") as file:
    file.write("{{}}\\n")
tell(event="answered", answered=1)
if name == "killed" and not (folder / "again").exists():
    (folder / "again").write_text("")
    print("Requesting API: 50%| 1/2 [00:01, 1.0it/s]\\rit was about to say", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
item = dict(id="t/0", prompt="?", prompt_digest="d", answer="4", reference="4", score=1.0, served="m", seconds=0.1)
(folder / "answers.json").write_text(json.dumps(dict(items=[item, item | dict(id="t/1", score=0.0)], digest="abc")))
(folder / "results.json").write_text(json.dumps(dict(key=os.environ["OPENAI_API_KEY"], request=request)))
tell(event="done", items=2)
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARKSTACK_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("LM_EVAL_ENVIRONMENT", str(tmp_path / "lm-eval"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    python = tmp_path / "lm-eval" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(CHILD.format(python=sys.executable))
    python.chmod(0o755)
    with in_thread(fake_engine()) as engine:

        def invoke(*arguments):
            at = [] if "--resume" in arguments else ["--url", engine.url, "--key", "sk-1"]
            return CliRunner().invoke(evaluate, ["run", *arguments, *at])

        yield invoke


def only_run():
    runs = Runs(evaluations_folder())
    (found,) = runs.list()
    return found, runs


def test_what_the_harness_answers_is_a_run_like_any_other(run):
    done = run("fake-chat", "--task", "mine", "--limit", "2", "--seed", "3", "--shots", "1")
    assert done.exit_code == 0, done.output
    found, runs = only_run()
    assert (found.kind, found.set, found.set_digest, found.state) == ("lm-eval", "mine", "abc", "finished")
    assert (found.served, found.versions["lm_eval"], found.score.mean) == ("m", "0.4.13", 0.5)
    assert [item.id for item in runs.items(found)] == ["t/0", "t/1"]
    assert "fake-chat on mine  ░░░░░░░░░░░░░░░░░░░░░░░░ 0/2" in done.stderr
    results = json.loads((runs.path(found.id) / "results.json").read_text())
    assert results["key"] == "sk-1"
    asked = results["request"]
    assert (asked["limit"], asked["seed"], asked["shots"], asked["temperature"]) == (2, 3, 1, 0.0)
    assert "sk-1" not in (runs.path(found.id) / "harness.json").read_text()


def test_a_task_that_there_is_not_leaves_no_run_behind(run):
    done = run("fake-chat", "--task", "nothing")
    assert done.exit_code == 1
    assert "has no task nothing" in done.output
    assert Runs(evaluations_folder()).list() == []


def test_a_child_that_is_killed_is_told_with_its_last_words_and_the_run_goes_on(run):
    done = run("fake-chat", "--task", "killed")
    assert done.exit_code == 1
    found, runs = only_run()
    assert found.state == "interrupted"
    assert "ended by signal SIGKILL: it was about to say (" in found.note
    assert f"1 answers are kept: `sparkstack eval run --resume {found.id}` goes on" in found.note
    assert run("--resume", found.id).exit_code == 0
    found, runs = only_run()
    assert (found.state, found.note, len(runs.items(found))) == ("finished", "", 2)


def test_without_its_environment_it_says_how_to_make_it(run, monkeypatch, tmp_path):
    monkeypatch.setenv("LM_EVAL_ENVIRONMENT", str(tmp_path / "nowhere"))
    done = run("fake-chat", "--task", "mine")
    assert done.exit_code == 1
    assert "`python3 scripts/bootstrap.py lm-eval` makes it" in done.output
    assert Runs(evaluations_folder()).list() == []


def test_near_names_are_told():
    known = ["gsm8k", "gsm8k_cot", "mmlu", "mmlu_generative", "sparkstack_arithmetic"]
    assert "near it: gsm8k, gsm8k_cot" in unknown("gsm8", known)
    assert "mmlu_generative" in unknown("generative", known)
    assert "near" not in unknown("zzz", known)


def sample(document, filter_name, value, answer="It is 4.", filtered="4", **more):
    prompt = json.dumps([{"role": "system", "content": "Be short."}, {"role": "user", "content": f"Q{document}?"}])
    return {
        "doc_id": document,
        "filter": filter_name,
        "metrics": list({"exact_match": value, **more}),
        "exact_match": value,
        "arguments": [(prompt, {})],
        "resps": [[answer]],
        "filtered_resps": [filtered],
        "target": "4",
        "prompt_hash": f"p{document}",
        "target_hash": "t",
        **more,
    }


@pytest.fixture
def notes(tmp_path):
    with (tmp_path / "out").open("w") as out:
        yield Notes(tmp_path / "requests.jsonl", out)


def test_samples_of_all_filters_are_one_item_a_document(notes):
    rows = [
        sample(1, "strict", 0.0, filtered="[invalid]"),
        sample(0, "strict", 1.0),
        sample(0, "flexible", 1.0),
        sample(1, "flexible", 1.0),
    ]
    prompt = rows[1]["arguments"][0][0]
    document = {"model": "m", "choices": [{"finish_reason": "stop"}], "usage": {"completion_tokens": 4}}
    notes.add(prompt, document, 0.25)
    first, second = items_of("sums", rows, {"metric_list": [{"metric": "exact_match"}]}, notes)
    assert (first["id"], first["prompt"], first["answer"]) == ("sums/0", "Be short.\n\nQ0?", "It is 4.")
    assert (first["served"], first["completion_tokens"], first["seconds"]) == ("m", 4, 0.25)
    assert second["scores"] == {"exact_match,strict": 0.0, "exact_match,flexible": 1.0}
    assert (second["score"], second["format_failed"]) == (0.0, True)
    assert second["seconds"] is None, "nothing is known of it"


def test_a_metric_that_is_no_number_is_left_out_and_the_tasks_first_one_leads(notes):
    row = sample(0, "none", 1.0, f1=0.5, bleu=("4", "It is 4."))
    (found,) = items_of("t", [row], {"metric_list": [{"metric": "f1"}, {"metric": "exact_match"}]}, notes)
    assert (found["score"], found["scores"]) == (0.5, {"exact_match": 1.0, "f1": 0.5})


def test_the_digest_is_of_what_was_asked_and_not_of_what_was_answered():
    row = sample(0, "none", 1.0)
    assert digest_of({"t": [row]}, {}) == digest_of({"t": [{**row, "resps": [["5"]], "exact_match": 0.0}]}, {})
    assert digest_of({"t": [row]}, {}) != digest_of({"t": [{**row, "target_hash": "other"}]}, {})


def test_what_is_known_of_answers_outlives_a_kill(notes, tmp_path):
    notes.add("Q?", {"choices": [{"finish_reason": "length"}]}, 1.5)
    with (tmp_path / "requests.jsonl").open("a") as file:
        file.write('{"prompt": "abc", "ser')
    with (tmp_path / "out2").open("w") as out:
        again = Notes(tmp_path / "requests.jsonl", out)
        assert (again.kept, again.of("Q?")["finish_reason"], again.of("other")) == (1, "length", {})
        assert again.of("Q?")["prompt"] == sha256("Q?")
        again.add("Q2?", {}, 1.0)
        assert Notes(tmp_path / "requests.jsonl", out).kept == 2


def test_only_what_is_the_questions_own_fault_is_survived(notes):
    later = float("inf")
    assert waits(400, {}, "too long", later, notes) is None
    assert waits(503, {"retry-after": "3"}, "loading", later, notes) == 3
    assert waits(429, {"retry-after": "soon"}, "slow down", later, notes) == 1
    assert waits(503, {"retry-after": "900"}, "loading", later, notes) == 30
    for status, says in ((401, "refuses the key"), (404, "no such model"), (503, "loading"), (500, "crashed")):
        with pytest.raises(Stop) as stopped:
            waits(status, {}, says, give_up=0.0, notes=notes)
        assert says in str(stopped.value)

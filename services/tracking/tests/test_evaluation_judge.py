"""`sparkstack eval judge` against a scripted gateway: what is asked, kept, counted, and gone on with."""

import json
import re
import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner

from services.tracking.commands.judge import judge as verb
from services.tracking.evaluation.grading import RubricError, load_rubric, shipped_rubrics
from services.tracking.evaluation.judgements import Judgements
from services.tracking.evaluation.pairwise import Judged
from services.tracking.evaluation.runs import Runs
from services.tracking.tests.samples import until
from services.tracking.tests.samples_of_evaluation import Gateway, item, stored
from tests.testkit.server import in_thread, running


def by_quality(_model, body):
    """Prefer the answer that says "good", whatever its place; give one that does the highest grade."""
    prompt = body["messages"][0]["content"]
    if "<answer_1>" not in prompt:
        return json.dumps({"reason": "r", "grade": 5 if "good" in prompt.split("<answer>")[1] else 2})
    first, second = (re.search(rf"<answer_{n}>\n(.*?)\n</answer_{n}>", prompt, re.DOTALL)[1] for n in (1, 2))
    better = "tie" if ("good" in first) == ("good" in second) else "1" if "good" in first else "2"
    return json.dumps({"reason": "it is", "better": better})


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARKSTACK_STATE", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("SPARKSTACK_API_KEY", raising=False)
    return Runs(tmp_path / "evaluations")


@pytest.fixture
def served():
    opened = []

    def serve(answer):
        gateway = Gateway(answer, "wise", "old", "new")
        manager = in_thread(running(gateway.app, lifespan="off"))
        gateway.url = manager.__enter__()
        opened.append(manager)
        return gateway

    yield serve
    for manager in opened:
        manager.__exit__(None, None, None)


def two_runs(runs):
    one = stored(runs, "new", [item(0, answer="good"), item(1, answer="good"), item(2, answer="bad"), item(3)])
    other = stored(runs, "old", [item(0, answer="bad"), item(1, answer="worse"), item(2, answer="good"), item(3)])
    return one, other


def invoke(gateway, *arguments):
    return CliRunner().invoke(verb, [*arguments, "--judge", "wise", "--url", gateway.url], catch_exceptions=False)


def test_two_runs_are_judged_in_both_orders_and_told_with_all_that_is_to_be_known(runs, served):
    gateway = served(by_quality)
    one, other = two_runs(runs)
    said = invoke(gateway, one.id, other.id)
    assert said.exit_code == 0, said.output
    assert "new (a) against old (b) on basics, judged by wise" in said.output
    assert "a won 2, b won 1, 1 ties, of 4 pairs" in said.output
    assert "win rate of a: 0.625" in said.output
    assert "places swapped, the same verdict in 100% of 3 pairs" in said.output
    assert "decided without the judge: 1 of the same words (ties)" in said.output
    assert len(gateway.asked) == 6
    assert {body["temperature"] for body in gateway.asked} == {0.0}
    assert all(body["response_format"]["json_schema"]["strict"] for body in gateway.asked)
    (folder,) = (runs.folder / "judgements").glob("pairwise-*")
    assert "- a won 2" in (folder / "report.md").read_text()
    assert len((folder / "verdicts.jsonl").read_text().splitlines()) == 4
    assert [run.id for run in runs.list()] == [other.id, one.id]


def test_what_was_judged_is_not_asked_again_unless_it_is_wished(runs, served):
    gateway = served(by_quality)
    one, other = two_runs(runs)
    first = invoke(gateway, one.id, other.id, "--json")
    again = invoke(gateway, one.id, other.id, "--json")
    assert len(gateway.asked) == 6
    assert json.loads(again.stdout) == json.loads(first.stdout)
    invoke(gateway, one.id, other.id, "--again")
    assert len(gateway.asked) == 12
    invoke(gateway, one.id, other.id, "--no-reasons")
    assert len(gateway.asked) == 18


def test_several_at_a_time_come_to_the_same(runs, served):
    gateway = served(by_quality)
    one = stored(runs, "new", [item(number, answer="good" if number % 3 else "bad") for number in range(24)])
    other = stored(runs, "old", [item(number, answer="good" if number % 2 else "bad!") for number in range(24)])
    alone = json.loads(invoke(gateway, one.id, other.id, "--json").stdout)
    together = json.loads(invoke(gateway, one.id, other.id, "--json", "--again", "--concurrency", "6").stdout)
    assert together["counts"] == alone["counts"]
    assert together["figures"] == alone["figures"]
    assert together["counts"]["pairs"] == 24


def test_answers_that_a_run_got_since_are_judged_too(runs, served):
    gateway = served(by_quality)
    one, other = two_runs(runs)
    invoke(gateway, one.id, other.id)
    gateway.asked.clear()
    runs.append(one, [item(9, answer="good")])
    runs.append(other, [item(9, answer="bad")])
    assert "a won 3, b won 1, 1 ties, of 5 pairs" in invoke(gateway, one.id, other.id).output
    assert len(gateway.asked) == 2


def test_a_judge_that_looks_at_the_place_alone_is_found_out(runs, served):
    gateway = served(lambda model, body: '{"reason": "first", "better": "1"}')
    one, other = two_runs(runs)
    said = invoke(gateway, one.id, other.id)
    assert "a won 0, b won 0, 4 ties, of 4 pairs" in said.output
    assert "the same verdict in 0% of 3 pairs; else it chose the first place in both (3)" in said.output
    assert "note: wise contradicts itself in 100% of the pairs" in said.output


def test_unreadable_verdicts_are_counted_and_their_range_is_told(runs, served):
    gateway = served(lambda model, body: "well" if "question 0" in str(body) else by_quality(model, body))
    one, other = two_runs(runs)
    said = invoke(gateway, one.id, other.id)
    assert "a won 1, b won 1, 1 ties, of 4 pairs" in said.output
    assert "unreadable verdicts: 1 pairs, neither won nor lost; the win rate would be 0.375" in said.output
    assert "note: 1 of 3 verdicts can't be read" in said.output


def test_a_request_that_the_judge_refuses_is_that_pairs_trouble_alone(runs, served):
    gateway = served(lambda model, body: 400 if "question 1" in str(body) else by_quality(model, body))
    one, other = two_runs(runs)
    ended = json.loads(invoke(gateway, one.id, other.id, "--json").stdout)
    assert (ended["state"], ended["counts"]["invalid"], ended["counts"]["a"]) == ("finished", 1, 1)
    judgements = Judgements(runs.folder)
    judgement = judgements.find(ended["id"])
    troubles = {verdict.trouble for line in judgements.lines(judgement, Judged) for verdict in line.verdicts}
    assert troubles == {"", "the request failed: 400: as the test wants it"}


def test_a_gateway_that_stops_ends_it_and_the_same_command_goes_on(runs, served):
    one, other = two_runs(runs)
    gateway = served(lambda model, body: 401 if len(gateway.asked) > 3 else by_quality(model, body))
    said = invoke(gateway, one.id, other.id)
    assert said.exit_code == 1
    assert "refuses the key" in said.output
    assert "the same command again goes on" in said.output
    assert len(gateway.asked) == 4
    healthy = served(by_quality)
    assert "a won 2, b won 1" in invoke(healthy, one.id, other.id).output
    assert len(healthy.asked) == 4


def test_a_line_that_a_kill_has_cut_is_judged_again(runs, served):
    gateway = served(by_quality)
    one, other = two_runs(runs)
    ended = json.loads(invoke(gateway, one.id, other.id, "--json").stdout)
    folder = runs.folder / "judgements" / ended["id"]
    lines = (folder / "verdicts.jsonl").read_text().splitlines()
    (folder / "verdicts.jsonl").write_text("\n".join([*lines[:2], lines[2][:30]]))
    document = json.loads((folder / "judgement.json").read_text())
    (folder / "judgement.json").write_text(json.dumps({**document, "state": "running"}))
    gateway.asked.clear()
    again = json.loads(invoke(gateway, one.id, other.id, "--json").stdout)
    assert again["counts"] == ended["counts"]
    assert len(gateway.asked) == 2


def test_a_judge_of_its_own_answers_and_one_that_is_not_there_are_named(runs, served):
    gateway = served(by_quality)
    one, other = two_runs(runs)
    own = CliRunner().invoke(verb, [one.id, other.id, "--judge", "new", "--url", gateway.url])
    assert "the judge is one of the judged" in own.output
    none = CliRunner().invoke(verb, [one.id, other.id, "--judge", "wisest", "--url", gateway.url])
    assert none.exit_code == 1
    assert "there is no model wisest; there are wise" in none.output


def test_one_run_is_graded_by_a_rubric_and_failed_requests_have_the_lowest_grade(runs, served):
    gateway = served(by_quality)
    run = stored(runs, "new", [item(0, answer="good"), item(1, answer="bad"), item(2, answer="", error="502")])
    said = invoke(gateway, run.id)
    assert said.exit_code == 0, said.output
    assert "new on basics, graded by wise (helpful)" in said.output
    assert "answers by grade: 1: 1, 2: 1, 3: 0, 4: 0, 5: 1" in said.output
    assert "1 requests had failed: they have the lowest grade" in said.output
    assert len(gateway.asked) == 2
    assert "5: very good" in gateway.prompts()[0]
    schema = gateway.asked[0]["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["grade"] == {"type": "integer", "enum": [1, 2, 3, 4, 5]}


def test_a_grade_outside_the_rubric_is_counted_and_counts_nothing(runs, served):
    grades = iter(['{"grade": 9}', '{"grade": true}', '{"grade": "4"}'])
    gateway = served(lambda model, body: next(grades))
    run = stored(runs, "new", [item(0), item(1), item(2)])
    ended = json.loads(invoke(gateway, run.id, "--json").stdout)
    assert (ended["counts"]["invalid"], ended["counts"]["grade_4"]) == (2, 1)
    assert ended["figures"]["grade"] == {"mean": 4.0, "low": 4.0, "high": 4.0, "n": 1}
    assert ended["figures"]["score"]["mean"] == 0.75


def test_references_are_shown_where_they_are_words_and_only_when_wished(runs, served):
    gateway = served(by_quality)
    run = stored(runs, "new", [item(0)])
    invoke(gateway, run.id)
    assert "<reference>" not in gateway.prompts()[0]
    invoke(gateway, run.id, "--references")
    assert "<reference>\nreference\n</reference>" in gateway.prompts()[1]


def test_a_reasoning_models_thoughts_are_neither_judged_nor_measured(runs, served):
    gateway = served(by_quality)
    one = stored(runs, "new", [item(0, answer="<think>at great length</think>good")])
    other = stored(runs, "old", [item(0, answer="bad!")])
    ended = json.loads(invoke(gateway, one.id, other.id, "--json").stdout)
    assert all("at great length" not in prompt for prompt in gateway.prompts())
    line = Judgements(runs.folder).lines(Judgements(runs.folder).find(ended["id"]), Judged)[0]
    assert (line.outcome, line.length_a, line.length_b) == ("a", 4, 4)


def test_what_does_not_go_together_is_refused(runs, served):
    gateway = served(by_quality)
    one, other = two_runs(runs)
    unlike = stored(runs, "old", [item(9)])
    assert invoke(gateway, one.id, other.id, "--rubric", "helpful").exit_code == 2
    assert "asked nothing alike" in invoke(gateway, one.id, unlike.id).output
    assert "there is no rubric 'kind'" in invoke(gateway, one.id, "--rubric", "kind").output
    assert gateway.asked == []


def test_rubrics_are_read_and_broken_ones_refused(tmp_path):
    assert shipped_rubrics() == ["faithful", "helpful"]
    assert all(load_rubric(name).lowest == 1 for name in shipped_rubrics())
    own = tmp_path / "brief.yaml"
    own.write_text("criterion: Is it brief?\ngrades: {0: long, 1: brief}\n")
    assert load_rubric(str(own)).share(1) == 1.0
    assert "0: " in load_rubric(str(own)).text()
    own.write_text("criterion: Is it brief?\ngrades: {1: brief}\n")
    with pytest.raises(RubricError, match="two grades at least, this one has 1"):
        load_rubric(str(own))
    own.write_text("grades: [yes]")
    with pytest.raises(RubricError, match="is no rubric"):
        load_rubric(str(own))


def test_a_judgement_that_is_told_to_end_keeps_what_was_judged(runs, served):
    one = stored(runs, "new", [item(number, answer="good") for number in range(200)])
    other = stored(runs, "old", [item(number, answer="bad") for number in range(200)])
    gateway = served(by_quality)
    verb_of = "from services.tracking.commands.judge import judge; judge()"
    command = [sys.executable, "-c", verb_of, one.id, other.id, "--judge", "wise", "--url", gateway.url]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as child:
        until(lambda: len(gateway.asked) > 10, timeout_s=60)
        child.send_signal(signal.SIGTERM)
        _, said = child.communicate(timeout=30)
    assert child.returncode == 130
    assert b"interrupted; what was judged is kept" in said
    assert b"Traceback" not in said
    (folder,) = (runs.folder / "judgements").iterdir()
    kept = json.loads((folder / "judgement.json").read_text())
    assert kept["state"] == "interrupted"
    assert 5 <= kept["counts"]["a"] == len((folder / "verdicts.jsonl").read_text().splitlines()) < 200

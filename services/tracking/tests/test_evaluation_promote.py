"""`sparkstack promote` against a scripted gateway: who passes, who is refused, and the way back."""

import json
import signal
import subprocess
import sys
import threading

import pytest
from click.testing import CliRunner

from services.kit.mlflow import MlflowError
from services.tracking.commands import promoting
from services.tracking.commands.promote import promote as verb
from services.tracking.evaluation import session
from services.tracking.evaluation.names import Event, NameRefused, Names, check_name
from services.tracking.evaluation.registry import point, register
from services.tracking.evaluation.runs import Runs
from services.tracking.tests.samples import until
from services.tracking.tests.samples_of_evaluation import Gateway, Registry
from tests.testkit.server import free_port, in_thread, running

# The verb's own event loop serves nobody else.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.may_block("runs are written as answers come, by a verb of one user"),
]

QUESTIONS = 20


def answers(model, body):
    """`old` and `same` know all, `worse` half of it; `slow to judge` likes the first place."""
    prompt = body["messages"][-1]["content"]
    if "<answer_1>" in prompt:
        return '{"reason": "r", "better": "1"}' if model == "biased" else '{"reason": "r", "better": "tie"}'
    number = int(prompt.split()[-1])
    if model == "worse" and number % 2:
        return "no idea"
    return f"{number} it is" if model == "wordy" else str(number)


@pytest.fixture
def names(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARKSTACK_STATE", str(tmp_path / "state"))
    for name in ("MLFLOW_TRACKING_URI", "SPARKSTACK_API_KEY", "GATEWAY_ALIASES_FILE"):
        monkeypatch.delenv(name, raising=False)
    # Each run asks git for the commit, and whether files have changed.
    monkeypatch.setattr(session, "_commit", lambda: "")
    questions = [
        {"id": f"q{number}", "prompt": f"Say {number}", "reference": str(number), "scorer": "contains"}
        for number in range(QUESTIONS)
    ]
    (tmp_path / "mine.jsonl").write_text("\n".join(json.dumps(each) for each in questions))
    # Of a scripted gateway that answers at once, seconds say nothing.
    (tmp_path / "rules.yaml").write_text(
        "items: {at_least: 20}\nquality: {margin: 0.1}\nfailures: {share_at_most: 0}\n"
        "formats: {new_at_most: 0}\njudge: {margin: 0.1}\ndrift: {}\n"
    )
    return Names(tmp_path / "state" / "names" / "aliases.json")


@pytest.fixture
def gateway(names):
    found = Gateway(answers, "old", "same", "worse", "wordy", "fair", "biased")
    found.aliases = names.all
    with in_thread(running(found.app, lifespan="off")) as url:
        found.url = url
        yield found


@pytest.fixture
def promote(gateway, tmp_path):
    def run(candidate, *more, name="production"):
        options = ["--as", name, "--set", str(tmp_path / "mine.jsonl"), "--rules", str(tmp_path / "rules.yaml")]
        return invoke(candidate, *options, "--url", gateway.url, *more)

    return run


def invoke(*arguments):
    return CliRunner().invoke(verb, list(arguments), catch_exceptions=False)


def test_the_first_model_gets_the_name_and_a_good_one_takes_it_over(promote, names, gateway):
    first = promote("old")
    assert first.exit_code == 0, first.output
    assert "old as production, with nothing to compare it with, by rules.yaml:" in first.output
    assert "production stands for old (promoted)" in first.output
    second = promote("same")
    assert second.exit_code == 0, second.output
    assert "same as production, compared with old" in second.output
    assert "production stands for same (promoted; before: old)" in second.output
    assert names.all() == {"production": "same"}
    # The first one's run is used again: each model was asked once.
    assert len(gateway.asked) == 2 * QUESTIONS
    history = names.history("production")
    assert [(event.model, event.before) for event in history] == [("old", ""), ("same", "old")]
    assert len(history[1].runs) == 2
    assert {"rule": "quality", "outcome": "kept"}.items() <= dict(history[1].rules[1]).items()


def test_a_worse_candidate_is_refused_with_each_rule_its_figure_and_its_limit(promote, names, tmp_path):
    promote("old")
    said = promote("worse")
    assert said.exit_code == promoting.REFUSED == 3
    row = next(line.split() for line in said.output.splitlines() if line.startswith("quality "))
    assert row[1] == "-0.500,"
    assert row[5:8] == [">", "-0.100", "BROKEN"]
    assert "refused: worse is not promoted; production goes on standing for old" in said.output
    assert names.all() == {"production": "old"}
    assert [(event.what, event.model) for event in names.log()] == [("refused", "worse"), ("promoted", "old")]
    assert len(names.history("production")) == 1


def test_too_few_questions_refuse_a_candidate_of_which_too_little_is_known(promote, names):
    promote("old")
    said = promote("same", "--limit", "10")
    assert said.exit_code == 3
    assert "NOT SHOWN" in said.output
    assert "10 items can't show it" in said.output
    assert names.all() == {"production": "old"}


def test_a_dry_run_and_json_change_nothing_and_say_the_same(promote, names):
    said = promote("old", "--dry-run", "--json")
    assert said.exit_code == 0
    assert json.loads(said.stdout)["verdict"] == "promoted"
    assert names.all() == {}
    assert json.loads(promote("old", "--json").stdout)["model"] == "old"
    refused = promote("worse", "--dry-run", "--json")
    assert refused.exit_code == 3
    assert json.loads(refused.stdout)["verdict"] == "refused"
    assert [event.what for event in names.log()] == ["promoted"]


def test_the_way_back_leads_to_the_one_before_and_on_to_the_one_before_that(promote, names, gateway):
    for model in ("old", "same", "wordy"):
        assert promote(model).exit_code == 0
    back = invoke("--rollback", "production", "--url", gateway.url)
    assert back.output == "production stands for same (rolled back; before: wordy)\n"
    assert invoke("--rollback", "production", "--url", gateway.url).exit_code == 0
    assert names.all() == {"production": "old"}
    end = invoke("--rollback", "production", "--url", gateway.url)
    assert end.exit_code == 1
    assert "production has stood for old alone" in end.output
    assert "production stands for old" in invoke("--list").output
    assert "production: rolled back old, before: same" in invoke("--list").output
    assert promote("same").exit_code == 0


def test_a_name_can_be_taken_away_and_an_unknown_one_is_told(promote, names, gateway):
    promote("old")
    assert (
        "production stands for nothing (removed; before: old)"
        in invoke("--remove", "production", "--url", gateway.url).output
    )
    assert names.all() == {}
    again = invoke("--remove", "production", "--url", gateway.url)
    assert again.exit_code == 1
    assert "production stands for no model; nothing was promoted yet" in again.output
    assert "no model has been promoted" in invoke("--list").output


def test_a_reason_forces_a_refused_candidate_and_is_noted(promote, names):
    promote("old")
    said = promote("worse", "--force", "the licence of old has ended")
    assert said.exit_code == 0
    assert "production stands for worse (forced; before: old)" in said.output
    event = names.history("production")[-1]
    assert (event.what, event.note) == ("forced", "the licence of old has ended")
    assert "(the licence of old has ended)" in invoke("--list").output


def test_a_judge_that_ties_is_heard_and_one_that_contradicts_itself_stands_in_the_way(promote):
    promote("old")
    said = promote("wordy", "--judge", "biased")
    assert said.exit_code == 3
    row = next(line for line in said.output.splitlines() if line.startswith("judge is consistent"))
    assert "0%" in row
    assert "biased contradicts itself when places are swapped" in row
    fair = promote("wordy", "--judge", "fair")
    assert fair.exit_code == 0, fair.output
    assert "0.500, at least 0.500" in fair.output


def test_drifting_traffic_stands_in_the_way(promote, gateway):
    finding = {"signal": "prompt_language", "alarm": True}
    gateway.drift = {"windows": [{"id": 4, "findings": [finding, {"signal": "latency", "alarm": False}]}]}
    said = promote("old")
    assert said.exit_code == 3
    assert "window 4: prompt_language" in said.output
    gateway.drift = {"windows": []}
    assert promote("old").exit_code == 0


def test_fresh_asks_both_again_and_another_seed_is_another_run(promote, gateway):
    promote("old")
    promote("same", "--dry-run")
    asked = len(gateway.asked)
    promote("same", "--dry-run", "--fresh")
    assert len(gateway.asked) == asked + 2 * QUESTIONS
    promote("same", "--dry-run", "--seed", "5")
    assert len(gateway.asked) == asked + 4 * QUESTIONS


def test_what_the_name_stands_for_already_is_no_change_and_nothing_is_asked(promote, gateway, names):
    promote("old")
    gateway.asked.clear()
    again = promote("old")
    assert again.exit_code == 0
    assert "production stands for old already" in again.output
    assert gateway.asked == []
    # A candidate may be named by its name, too: what it stands for is promoted.
    assert (
        promote(
            "production",
            name="canary",
        ).exit_code
        == 0
    )
    assert names.all() == {"production": "old", "canary": "old"}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("same", "'same' is itself a model at the gateway"),
        ("same-alias", "'same-alias' is already another name of a model"),
        ("default", "'default' is the stack's own"),
        ("a name", "'a name' can't be a model's name"),
    ],
)
def test_names_that_mean_something_else_are_refused_before_anything_is_asked(promote, gateway, name, why):
    said = promote("old", name=name)
    assert said.exit_code == 1
    assert why in said.output
    assert gateway.asked == []


def test_an_unknown_candidate_a_missing_set_and_rules_with_a_mistake_are_told(promote, gateway, tmp_path):
    assert "there is no model odl; there are old" in promote("odl").output
    none = invoke("old", "--as", "p", "--set", "nothing-like-it", "--url", gateway.url)
    assert "there is no set nothing-like-it" in none.output
    broken = tmp_path / "broken.yaml"
    broken.write_text("qualities: {}\n")
    assert "qualities" in promote("old", "--rules", str(broken)).output
    assert invoke("old").exit_code == 2
    assert invoke("old", "--list").exit_code == 2
    assert gateway.asked == []


def test_a_model_that_is_gone_is_compared_with_another_or_with_nothing(promote, gateway, names):
    promote("wordy")
    gateway.models.remove("wordy")
    gateway.aliases = lambda: {name: model for name, model in names.all().items() if model != "wordy"}
    gone = promote("same")
    assert gone.exit_code == 1
    assert "production stands for wordy, which the gateway has no more" in gone.output
    assert "compared with old" in promote("same", "--baseline", "old", "--dry-run").output
    assert "can't be compared with itself" in promote("same", "--baseline", "same").output
    assert promote("same", "--baseline", "none").exit_code == 0
    assert names.all() == {"production": "same"}


def test_a_promotion_that_is_told_to_end_changes_nothing(gateway, names, tmp_path):
    line = '{{"id": "q{0}", "prompt": "Say {0}", "reference": "{0}", "scorer": "contains"}}\n'
    (tmp_path / "long.jsonl").write_text("".join(line.format(number) for number in range(2000)))
    verb_of = "from services.tracking.commands.promote import promote; promote()"
    options = ["--as", "production", "--set", str(tmp_path / "long.jsonl"), "--url", gateway.url]
    with subprocess.Popen([sys.executable, "-c", verb_of, "old", *options], stderr=subprocess.PIPE) as child:
        until(lambda: len(gateway.asked) > 10, timeout_s=60)
        child.send_signal(signal.SIGTERM)
        _, said = child.communicate(timeout=30)
    assert child.returncode == 130
    assert b"interrupted; nothing has changed" in said
    assert b"Traceback" not in said
    assert names.all() == {}
    (run,) = Runs(tmp_path / "state" / "evaluations").list()
    assert run.state == "interrupted"


def test_a_gateway_that_does_not_read_the_file_is_told(promote, gateway, names, monkeypatch):
    monkeypatch.setattr("services.tracking.evaluation.promotion._TAKEN_WITHIN_S", 0.5)
    gateway.aliases = dict
    said = promote("old")
    assert said.exit_code == 1
    assert "has not taken it over" in said.output
    assert "GATEWAY_ALIASES_FILE" in said.output
    assert names.all() == {"production": "old"}


def test_an_answer_that_fails_ends_it_and_nothing_changes(promote, gateway, names):
    gateway._answer = lambda model, body: 400
    said = promote("old")
    assert said.exit_code == 1
    assert "400" in said.output
    assert names.all() == {}


def test_a_name_that_has_changed_meanwhile_is_not_overwritten(names):
    names.promote(Event("promoted", "production", "a"))
    names.promote(Event("promoted", "production", "b", before="a"))
    with pytest.raises(NameRefused, match="stands for b by now, not for a"):
        names.promote(Event("promoted", "production", "c", before="a"))
    assert names.model("production") == "b"


def test_promotions_side_by_side_lose_none(names):
    def give(number):
        names.promote(Event("promoted", f"name-{number}", "a"))

    threads = [threading.Thread(target=give, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names.all()) == len(names.log()) == 20


def test_a_damaged_file_is_told_and_not_overwritten(names):
    names.path.parent.mkdir(parents=True)
    names.path.write_text("{")
    for change in (lambda: names.promote(Event("promoted", "p", "a")), lambda: names.roll_back("p"), names.all):
        with pytest.raises(NameRefused, match="move it aside to begin anew"):
            change()
    assert names.path.read_text() == "{"


def test_versions_of_the_registry_come_back_with_a_rollback(names):
    first = names.promote(Event("promoted", "p", "a"))
    names.note_version(first, "1")
    names.note_version(names.promote(Event("promoted", "p", "b", before="a")), "2")
    assert [event.version for event in names.history("p")] == ["1", "2"]
    assert names.roll_back("p").version == "1"


@pytest.mark.parametrize("name", ["production", "team/chat-1", "v2.0_b"])
def test_names_that_clients_can_send_are_allowed(name):
    check_name(name)


def test_runs_are_kept_for_whoever_wants_to_look(promote, tmp_path):
    promote("old")
    (run,) = Runs(tmp_path / "state" / "evaluations").list()
    assert (run.model, run.set, run.state) == ("old", "mine", "finished")


@pytest.fixture
def registry():
    found = Registry()
    with in_thread(running(found.app, lifespan="off")) as url:
        found.url = url
        yield found


def test_each_promotion_is_a_version_and_a_rollback_moves_the_alias_back(
    registry, promote, gateway, names, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.url)
    said = promote("old", name="team/chat")
    assert f"mlflow: {registry.url}/#/models/team.chat/versions/1" in said.output
    assert promote("same", name="team/chat").exit_code == 0
    model = registry.models["team.chat"]
    assert [version["source"] for version in model["versions"]] == ["sparkstack:/models/old", "sparkstack:/models/same"]
    tags = {tag["key"]: tag["value"] for tag in model["versions"][1]["tags"]}
    assert tags["sparkstack.before"] == "old"
    assert tags["rule.quality"].startswith("kept: +0.000")
    assert model["alias"] == "2"
    assert [event.version for event in names.history("team/chat")] == ["1", "2"]
    assert invoke("--rollback", "team/chat", "--url", gateway.url).exit_code == 0
    assert model["alias"] == "1"


def test_a_registry_that_refuses_or_is_away_is_told_and_the_name_is_given(registry, promote, names, monkeypatch):
    registry.refuse = True
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.url)
    said = promote("old")
    assert said.exit_code == 0
    assert "not noted in MLflow's registry: /api/2.0/mlflow/model-versions/create says 400" in said.output
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    assert "doesn't answer" in promote("same").output
    assert names.all() == {"production": "same"}
    assert names.history("production")[-1].version == ""


def test_an_address_that_is_none_is_refused():
    for call in (lambda: register("sqlite:///x.db", "p", "m", {}), lambda: point("databricks", "p", "1")):
        with pytest.raises(MlflowError, match="is no address of a server"):
            call()

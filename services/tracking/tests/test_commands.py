"""`sparkstack cost` and `sparkstack feedback`, against the service itself on a real socket."""

import json

import httpx
import msgspec
import pytest
import structlog
from click.testing import CliRunner

from services.tracking.app import create_app
from services.tracking.commands.cost import cost
from services.tracking.commands.feedback import feedback
from services.tracking.commands.records import records
from services.tracking.commands.service import tracking
from services.tracking.openwebui import NotAnExport, ratings
from services.tracking.service import Parts
from services.tracking.settings import TrackingSettings
from services.tracking.tests.samples import batch, record, until
from tests.testkit.server import in_thread, running

EXPORT = [
    {
        "id": "f-1",
        "user_id": "u-1",
        "version": 0,
        "type": "rating",
        "data": {
            "rating": 1,
            "model_id": "smollm2",
            "sibling_model_ids": None,
            "reason": "accurate_information",
            "comment": "thanks from ada@example.com",
            "tags": ["geography"],
            "details": {"rating": 9},
        },
        "meta": {"model_id": "smollm2", "message_id": "m-1", "chat_id": "c-1"},
        "snapshot": {"chat": {"title": "a private chat"}},
        "created_at": 1_795_000_000,
        "updated_at": 1_795_000_100,
    },
    {"id": "f-2", "user_id": "u-2", "type": "rating", "data": {"rating": "-1", "model_id": "smollm2"}, "meta": None},
    {"id": "f-3", "type": "rating", "data": {"rating": None, "model_id": "smollm2"}},
]


@pytest.fixture
def stack(tmp_path):
    tariff = tmp_path / "prices.yaml"
    tariff.write_text("currency: EUR\nmodels: {smollm2: {prompt: 10000, completion: 0}}\n")
    app = create_app(TrackingSettings(state=tmp_path, tariff=tariff), Parts(counters=list))
    # The service's log lines would stand among the verb's: both are in this process.
    with structlog.testing.capture_logs(), in_thread(running(app)) as url:
        body = msgspec.json.encode(batch(record(id="a"), record(id="b", model="other", usage_source="estimate")))
        httpx.post(f"{url}/v1/tracking/records", content=body, trust_env=False).raise_for_status()
        until(lambda: not app.state.service.store.waiting)
        yield url


def run(command, *arguments):
    return CliRunner().invoke(command, list(arguments), catch_exceptions=False)


def test_cost_is_a_table_and_says_what_is_missing(stack):
    said = run(cost, "--url", stack)

    assert said.exit_code == 0
    lines = said.output.splitlines()
    assert lines[0].split() == [
        "MODEL",
        "REQUESTS",
        "FAILED",
        "TOKENS",
        "IN",
        "TOKENS",
        "OUT",
        "SECONDS",
        "WATT",
        "HOURS",
        "EUR",
    ]
    assert [line.split()[0] for line in lines[1:4]] == ["other", "smollm2", "total"]
    assert lines[2].split()[-1] == "1.0000"
    assert "Energy is not measured" in said.output
    assert "Without a price, and not in the money: other" in said.output
    assert "of 1 requests are an estimate" in said.output


def test_cost_as_json_is_the_services_answer(stack):
    found = json.loads(run(cost, "--url", stack, "--by", "day", "--from", "2026-11-18", "--json").output)

    assert [each["name"] for each in found["data"]] == ["2026-11-18"]
    assert found["total"]["completion_tokens"] == 100


def test_feedback_is_given_and_listed(stack):
    given = run(feedback, "--url", stack, "give", "a", "--thumb", "up", "--comment", "to the point", "--label", "short")
    unknown = run(feedback, "--url", stack, "give", "nobody", "--score", "-0.5")
    listed = run(feedback, "--url", stack, "list")

    assert given.output == "a: +1\n"
    assert "no such request is stored" in unknown.output
    assert "+1  smollm2  a  [short]  to the point" in listed.output
    assert run(feedback, "--url", stack, "give", "a").exit_code == 2


def test_open_webuis_ratings_are_taken_over_once_and_without_the_chats(stack, tmp_path):
    file = tmp_path / "export.json"
    file.write_text(json.dumps(EXPORT))

    for _ in range(2):
        assert run(feedback, "--url", stack, "import", str(file)).output == (
            "2 ratings are taken over; 1 entries are no ratings\n"
        )
    found = json.loads(run(feedback, "--url", stack, "list", "--json").output)["data"]
    assert [(each["score"], each["model"], each["source"]) for each in found] == [
        (-1.0, "smollm2", "openwebui"),
        (1.0, "smollm2", "openwebui"),
    ]
    assert found[1]["comment"] == "thanks from [EMAIL]"
    assert found[1]["labels"] == ["accurate_information", "geography", "rating:9"]
    assert found[1]["at"] == 1_795_000_100
    kept = b"".join(path.read_bytes() for path in (tmp_path / "tracking").iterdir())
    assert b"a private chat" not in kept
    assert b"u-1" not in kept


def test_an_imported_ratings_user_can_be_deleted(stack, tmp_path):
    file = tmp_path / "export.json"
    file.write_text(json.dumps(EXPORT))
    run(feedback, "--url", stack, "import", str(file))

    gone = httpx.delete(f"{stack}/v1/tracking/users/u-1", trust_env=False).json()

    assert gone["deleted"] == {"requests": 0, "feedback": 1}


@pytest.mark.parametrize("document", [{}, "text", [{"id": "x"}], [1, 2], [{"id": 1, "data": {"rating": 1}}]])
def test_what_is_no_export_is_said(document):
    with pytest.raises(NotAnExport):
        ratings(document)


def test_records_are_looked_at_and_deleted(stack):
    assert "0 requests in 24 hours" in run(records, "--url", stack, "summary").output
    shown = run(records, "--url", stack, "show", "a").output
    assert "smollm2  200 ok  2.00 s  100 tokens in, 50 out  by default" in shown
    refused = run(records, "--url", stack, "rm", "--key", "default")
    assert (refused.exit_code, "nothing was deleted" in refused.output) == (1, True)
    gone = run(records, "--url", stack, "rm", "--key", "default", "--yes")
    assert gone.output == "2 requests and 0 feedback of default are deleted\n"
    assert run(records, "--url", stack, "show", "a").exit_code == 1
    assert run(records, "--url", stack, "rm").exit_code == 2


def test_a_stack_that_is_down_is_explained():
    said = run(cost, "--url", "http://127.0.0.1:9")

    assert said.exit_code == 1
    assert "start the stack with `make up`" in said.output


def test_help_names_the_variables():
    assert "TRACKING_KEEP_DAYS" in run(tracking, "--help").output


def test_a_wrong_tariff_is_told_before_anything_listens(monkeypatch, tmp_path):
    monkeypatch.setenv("TRACKING_TARIFF", str(tmp_path / "none.yaml"))
    monkeypatch.setenv("SPARKSTACK_STATE", str(tmp_path))
    # Which would send the log of all later tests to this one's output.
    monkeypatch.setattr("services.kit.logs.configure_logs", lambda *_: None)
    said = run(tracking, "--port", "0")

    assert said.exit_code == 1
    assert "TRACKING_TARIFF" in said.output

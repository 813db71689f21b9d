import json

import pytest
from click.testing import CliRunner

from services.cli.main import cli
from services.cli.models import ModelStatus
from services.cli.probes import Health
from services.cli.status import duration, judge, show_models
from services.cli.units import starts_file
from services.kit.files import write_json
from services.kit.supervisord import ProcessState


def process(state, problem=""):
    return ProcessState("gateway", state, 7, 100, 2, problem)


READY = Health(True)
LOADING = Health(False, "engines: loading")


@pytest.mark.parametrize(
    ("state", "health", "judged", "told"),
    [
        ("running", READY, "ready", ""),
        ("starting", READY, "ready", ""),
        ("running", LOADING, "waiting", "engines: loading"),
        ("starting", LOADING, "starting", "engines: loading"),
        ("backoff", LOADING, "crashing", "ended with status 2; see `sparkstack logs gateway`"),
        ("exited", LOADING, "crashing", "ended with status 2"),
        ("fatal", LOADING, "failed", "given up (too many crashes)"),
        ("stopped", LOADING, "stopped", "`sparkstack restart gateway` starts it"),
        ("stopping", READY, "stopped", "restart"),
    ],
)
def test_states_are_told_apart(state, health, judged, told):
    found, waiting_for = judge(process(state), health)
    assert found == judged
    assert told in waiting_for


def test_without_a_supervisor_all_is_stopped(home):
    assert judge(None, READY)[0] == "stopped"
    places = {name: {"host": "127.0.0.1", "port": 1} for name in ("engines", "gateway", "of another version")}
    write_json(home.stack_file, {"services": places})
    starts_file(home, "gateway").write_text("3")
    reply = CliRunner().invoke(cli, ["status", "--json"])
    assert reply.exit_code == 3
    document = json.loads(reply.output)
    assert document["ready"] is False
    assert [(row["name"], row["state"], row["restarts"]) for row in document["services"]] == [
        ("gateway", "stopped", 2), ("engines", "stopped", 0),
    ]  # fmt: skip


def test_nothing_was_started(home):
    reply = CliRunner().invoke(cli, ["status"])
    assert reply.exit_code == 3
    assert "make up" in reply.output


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59, "59 s"), (60, "1 min"), (7199, "1 h"), (200_000, "2 d")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_a_long_reason_stands_below_the_table_of_models(capsys):
    def model(name, note):
        return ModelStatus(name, "llamacpp", "stopped", "", [], 0, True, None, 0, None, note)

    reason = "it needs 20.0 GiB; engines may take 10.0 GiB"
    show_models([model("big", f"{reason}\nand a second line"), model("small", "about 3 s")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].endswith("pinned; see below")
    assert lines[2].endswith("pinned; about 3 s")
    assert lines[3:] == ["", f"big: {reason}"]

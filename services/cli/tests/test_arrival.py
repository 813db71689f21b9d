import sys

import click
import pytest

from services.cli import arrival
from services.cli.arrival import CrashWatch, Endpoints, wait_until_it_answers
from services.cli.models import ModelStatus
from services.cli.probes import FirstToken, Health
from services.cli.progress import Progress
from services.kit.supervisord import ProcessState

ENDPOINTS = Endpoints("http://gateway", "sk-1")


def process(state, started_at, name="gateway", problem=""):
    return {name: ProcessState(name, state, 1, started_at, 1, problem)}


class Script:
    """Stands in for a running stack: what it says at each look; the last goes on for ever."""

    def __init__(self, *looks):
        self.looks = list(looks)
        self.stopped = []
        self.unwell = {}
        self.listed = [model("ready")]
        self.log = []

    def processes(self):
        return self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]

    def stop(self, name):
        self.stopped.append(name)

    def health(self):
        return [(name, self.unwell.get(name, Health(True))) for name in ("engines", "gateway")]

    def models(self):
        return self.listed

    def last_lines(self, name, count):
        return self.log[-count:]

    def log_of(self, name):
        return f"the log of {name}"


@pytest.fixture
def answers(monkeypatch):
    """What the gateway says to the first question."""
    said = {"token": FirstToken(True)}
    monkeypatch.setattr(arrival, "ask_for_a_token", lambda *args: said["token"])
    monkeypatch.setattr(arrival, "_POLL_S", 0.001)
    return said


def model(state, note=""):
    return ModelStatus("smollm2", "llamacpp", state, "", [], 0, False, None, 0, None, note)


def wait(script, timeout_s=5.0):
    wait_until_it_answers(script, ENDPOINTS, Progress(), timeout_s)


def test_a_token_ends_the_waiting(answers):
    wait(Script(process("starting", 1)))


def test_a_model_that_loads_is_waited_for_and_told(answers, capsys):
    script = Script(process("running", 1))
    script.listed = [model("loading", "about 3 s")]
    with pytest.raises(click.ClickException, match="still waiting for smollm2: loading, about 3 s"):
        wait(script, 0.2)


@pytest.mark.parametrize("state", ["failed", "missing", "stopped"])
def test_a_model_that_does_not_come_ends_the_waiting_with_its_reason(answers, state):
    script = Script(process("running", 1))
    script.listed = [model(state, "it needs 20 GiB")]
    with pytest.raises(click.ClickException, match=f"smollm2 is {state}: it needs 20 GiB"):
        wait(script)


def test_a_first_failure_may_pass(answers):
    script = Script(process("starting", 1), process("backoff", 1), process("starting", 2), process("running", 2))
    script.unwell["engines"] = Health(False, "does not listen yet")
    with pytest.raises(click.ClickException, match=r"not ready after 0 s; still waiting for engines: does not"):
        wait(script, 0.2)
    assert script.stopped == []


def test_a_second_failure_ends_it_with_the_log(answers):
    script = Script(process("starting", 1), process("backoff", 1), process("starting", 2), process("backoff", 2))
    script.log = [*(f"line {n}" for n in range(40)), "port 8000 is taken"]
    answers["token"] = FirstToken(False, "no answer")
    with pytest.raises(click.ClickException) as caught:
        wait(script)
    said = str(caught.value)
    assert "gateway crashes again and again (it ended with status 1)" in said
    assert "The last lines of the log of gateway:" in said
    assert "    port 8000 is taken" in said
    assert "line 24" not in said
    assert script.stopped == ["gateway"]


def test_a_service_that_crashes_after_its_first_seconds_is_found_too():
    watch = CrashWatch()
    assert watch.crashing(process("running", 1)) is None
    assert watch.crashing(process("running", 2)) is None
    assert watch.crashing(process("running", 3)).name == "gateway"


def test_a_service_that_supervisord_has_given_up_is_found_at_once():
    assert CrashWatch().crashing(process("fatal", 1, problem="no such file")).problem == "no such file"


def test_a_stack_that_is_stopped_meanwhile_ends_the_waiting(answers):
    answers["token"] = FirstToken(False, "no answer")
    with pytest.raises(click.ClickException, match="stopped meanwhile"):
        wait(Script(process("running", 1), {}))


def test_a_final_refusal_ends_the_waiting(answers):
    answers["token"] = FirstToken(False, "the key is not known here", final=True)
    with pytest.raises(click.ClickException, match="refuses the first question: the key is not known here"):
        wait(Script(process("running", 1)))


def test_progress_is_plain_lines_elsewhere_and_one_line_on_a_terminal(capsys, monkeypatch):
    progress = Progress()
    for what in ("a", "a", "b"):
        progress.waiting(what)
    progress.say("done")
    assert capsys.readouterr().out == "  … a (0 s)\n  … b (0 s)\ndone\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    progress = Progress()
    for what in ("a", "a", "b"):
        progress.waiting(what)
    progress.say("done")
    assert capsys.readouterr().out == "\r\x1b[2K  … a (0 s)" * 2 + "\r\x1b[2K  … b (0 s)\r\x1b[2Kdone\n"


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        ("/clone/.venv/bin/sparkstack", ".venv/bin/sparkstack key"),
        ("/other/bin/sparkstack", "/other/bin/sparkstack key"),
        ("/clone/services/cli/main.py", f"{sys.executable} -m services.cli.main key"),
    ],
)
def test_the_first_request_calls_this_command_as_the_reader_can(argv, command, monkeypatch):
    monkeypatch.setattr(sys, "argv", [argv])
    monkeypatch.setattr(arrival.Path, "cwd", lambda: arrival.Path("/clone"))
    assert f"Bearer $({command})" in arrival.first_request("http://x")

import subprocess
import sys

import pytest
from click.testing import CliRunner

from services.cli import doctor
from services.cli.main import cli
from services.stack import find_service
from tests.testkit.ports import free_listener, free_port

GATEWAY = find_service("gateway")


@pytest.fixture(autouse=True)
def as_processes(monkeypatch, home):
    monkeypatch.setenv("MODE", "embedded")


def test_it_works_where_nothing_runs_and_nothing_is_set_up(home, monkeypatch):
    monkeypatch.setenv("GATEWAY_PORT", str(free_port()))
    reply = CliRunner().invoke(cli, ["doctor"])
    assert reply.exit_code == 0, reply.output
    lines = reply.output.splitlines()
    assert {line.split()[0] for line in lines} <= {"ok", "warn"}
    assert any(".env yet; `make up` makes it" in line for line in lines)


def test_a_taken_port_fails_with_its_holder(home, monkeypatch):
    with free_listener() as listener:
        monkeypatch.setenv("GATEWAY_PORT", str(listener.getsockname()[1]))
        reply = CliRunner().invoke(cli, ["doctor"])
    assert reply.exit_code == 1
    assert f"fail  port {listener_port(reply.output)} is taken by" in reply.output


def listener_port(text):
    return text.partition("fail  port ")[2].split()[0]


@pytest.mark.parametrize(("version", "level"), [((3, 10), "fail"), ((3, 11), "ok"), ((3, 14), "ok"), ((3, 15), "fail")])
def test_versions_of_python(version, level):
    assert doctor.python_version(version).level == level


def test_memory():
    assert doctor.free_memory(8 * 10**9).level == "ok"
    assert doctor.free_memory(10**8).level == "warn"


def test_disk(home, monkeypatch):
    monkeypatch.setattr(doctor, "_NEEDED_DISK_BYTES", 0)
    assert doctor.free_disk(home).level == "ok"
    monkeypatch.setattr(doctor, "_NEEDED_DISK_BYTES", 10**18)
    assert doctor.free_disk(home).level == "warn"


def test_the_environment_is_held_to_its_locks(home, monkeypatch):
    own = home.code / ".venv"
    assert "not checked" in doctor.environment(home, own.with_name("other")).text
    asked = []

    def bootstrap(returncode, said):
        def run(command, **_kwargs):
            asked.append(command)
            return subprocess.CompletedProcess(command, returncode, f"sparkstack: {said}\n", "")

        monkeypatch.setattr(doctor.subprocess, "run", run)

    bootstrap(0, ".venv is up to date")
    assert doctor.environment(home, own) == doctor.Finding("ok", ".venv is up to date")
    bootstrap(1, ".venv is to be made: its locks have changed")
    finding = doctor.environment(home, own)
    assert (finding.level, finding.text) == ("warn", ".venv is to be made: its locks have changed; run `make up`")
    monkeypatch.undo()
    script, *arguments = asked[0][1:]
    assert arguments == ["--check", "embedded"]
    done = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, timeout=60)
    assert "--check" in done.stdout
    assert "embedded" in done.stdout


def test_env(home):
    assert doctor.env_file(home).level == "warn"
    home.env_file.write_text("")
    home.env_file.chmod(0o640)
    assert "chmod 600" in doctor.env_file(home).text
    home.env_file.chmod(0o600)
    assert doctor.env_file(home).level == "ok"


def test_keys_are_judged_and_not_shown():
    assert doctor.api_key("").level == "warn"
    assert "easy to guess" in doctor.api_key("secret").text
    long = doctor.api_key("sk-spark-0123456789abcdef")
    assert long.level == "ok"
    assert "0123" not in long.text

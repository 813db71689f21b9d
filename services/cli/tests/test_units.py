import configparser
import json
import os
import shlex
import sys

import click
import pytest

from services.cli import units
from services.cli.home import Home
from services.cli.units import ServiceUnit, foreign_variables, launch_file, passed_variables, write_units
from services.kit.launch import MARK
from services.stack import SERVICES, find_service

GATEWAY = find_service("gateway")


@pytest.fixture
def unit(home):
    (home.catalogue).write_text("{}")
    return ServiceUnit(GATEWAY, 8000, environment={"GATEWAY_PORT": "8000"}, inputs=[home.catalogue])


def digest(home, unit):
    """The digest in supervisord's configuration, by which it sees that a service has changed."""
    write_units(home, [unit])
    parser = configparser.RawConfigParser()
    parser.read(home.supervisor_config)
    return shlex.split(parser[f"program:{unit.service.name}"]["command"])[-1]


def test_the_configuration_names_no_secret_and_is_private(home, unit, monkeypatch):
    monkeypatch.setenv("SPARKSTACK_API_KEY", "sk-secret")
    write_units(home, [unit])
    assert "sk-secret" not in home.supervisor_config.read_text()
    launch = json.loads(launch_file(home, "gateway").read_text())
    assert launch["environment"]["SPARKSTACK_API_KEY"] == "sk-secret"
    assert launch["environment"][MARK] == f"{home.state}:gateway"
    assert launch["command"] == [sys.executable, "-m", "services.cli.main", "gateway"]
    for path in (home.supervisor_config, launch_file(home, "gateway")):
        assert path.stat().st_mode & 0o077 == 0


def test_services_that_are_needed_start_first_and_stop_last(home):
    text = units.supervisor_config(home, {service.name: "d" for service in SERVICES})
    parser = configparser.RawConfigParser()
    parser.read_string(text)
    priorities = {name: int(parser[name]["priority"]) for name in parser.sections() if name.startswith("program")}
    assert priorities["program:engines"] < priorities["program:gateway"]


def test_nothing_changed_is_nothing_changed(home, unit):
    assert digest(home, unit) == digest(home, unit)


def test_a_variable_that_the_service_reads_is_a_change(home, unit, monkeypatch):
    before = digest(home, unit)
    monkeypatch.setenv("SOMETHING_ELSE", "1")
    assert digest(home, unit) == before
    monkeypatch.setenv("GATEWAY_MAX_BODY_MB", "7")
    assert digest(home, unit) != before


def test_a_file_that_the_service_reads_is_a_change(home, unit):
    before = digest(home, unit)
    home.catalogue.write_text('{"default": "other"}')
    assert digest(home, unit) != before


def test_code_and_packages_are_a_change_and_tests_are_not(home, unit, tmp_path, monkeypatch):
    code = tmp_path / "code"
    for folder in ("gateway/tests", "kit"):
        (code / "services" / folder).mkdir(parents=True)
    (code / "services/gateway/app.py").write_text("a = 1\n")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "venv"))
    (tmp_path / "venv").mkdir()
    own = Home(code, home.root, home.state)
    before = digest(own, unit)
    (code / "services/gateway/tests/test_app.py").write_text("")
    (code / "services/gateway/README.md").write_text("")
    assert digest(own, unit) == before
    (code / "services/gateway/app.py").write_text("a = 12\n")
    changed = digest(own, unit)
    assert changed != before
    (tmp_path / "venv" / units.STAMP).write_text("{}")
    assert digest(own, unit) != changed


def test_a_service_gets_its_own_variables_and_supervisord_none_of_them():
    variables = {"GATEWAY_HOST": "h", "OTEL_X": "o", "PATH": "/bin", "OMP_NUM_THREADS": "1", "SPARKSTACK_API_KEY": "k"}
    assert set(passed_variables(GATEWAY, variables)) == {"GATEWAY_HOST", "OTEL_X", "SPARKSTACK_API_KEY"}
    assert foreign_variables(variables) == {"PATH": "/bin"}


def test_programs_that_are_added_later_are_found_whatever_the_folder(home):
    odd = Home(home.code, home.root, home.state / "a b 100%")
    parser = configparser.RawConfigParser()
    parser.read_string(units.supervisor_config(odd, {}))
    assert odd.supervisor_config.parent / parser["include"]["files"] == odd.programs / "*.conf"
    assert " " not in parser["include"]["files"]


@pytest.mark.parametrize("folder", ["a ;b", "a\nb", "a[1]"])
def test_a_path_that_supervisord_cannot_read_is_refused(home, folder):
    odd = Home(home.code, home.root, home.state / folder)
    with pytest.raises(click.ClickException, match="SPARKSTACK_STATE"):
        units.supervisor_config(odd, {})


def test_the_sockets_path_is_short_however_long_the_folders(home):
    deep = Home(home.code, home.root, home.state / ("long" * 40))
    assert len(os.fsencode(deep.socket)) < 100
    assert deep.socket != Home(home.code, home.root, home.state / ("Long" * 40)).socket
    assert Home(home.code, home.root, home.state.__class__("/s")).socket == home.state.__class__(
        "/s/run/supervisor.sock"
    )

"""By the own tools of Prometheus and Alertmanager: configuration, rules, unit tests of alerts, syntax of queries."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from compose.prometheus import render
from tests.monitoring import queries

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
UNIT_TESTS = sorted(Path(__file__).with_name("rules").glob("*.yml"))
ALERTMANAGER = ROOT / "compose/alertmanager/alertmanager.yml"


def said(*command: str | Path, code: int = 0) -> str:
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_rules_are_well(program):
    text = said(program("promtool"), "check", "rules", *queries.RULES.glob("*.yml"))
    assert sum(int(number) for number in re.findall(r"(\d+) rules found", text)) == len(queries.rules())


@pytest.mark.parametrize("way", render.WAYS)
def test_the_configuration_is_well(program, way):
    # A container's secret is not on this machine.
    said(program("promtool"), "check", "config", "--syntax-only", render.path_of(way))


@pytest.mark.parametrize("path", UNIT_TESTS, ids=lambda path: path.stem)
def test_alerts_fire_when_they_should_and_not_before(program, path):
    assert "SUCCESS" in said(program("promtool"), "test", "rules", path)


def test_every_query_parses(program, tmp_path):
    rules = [{"record": f"query:{number}", "expr": each.plain()} for number, each in enumerate(queries.every_query())]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    assert f"{len(rules)} rules found" in said(program("promtool"), "check", "rules", path)


def test_a_query_that_does_not_parse_is_noticed(program, tmp_path):
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": [{"record": "a", "expr": "sum by job (up)"}]}]}))
    assert "could not parse expression" in said(program("promtool"), "check", "rules", path, code=1)


def test_alertmanagers_configuration_is_well(program):
    assert "SUCCESS" in said(program("amtool"), "check-config", ALERTMANAGER)


@pytest.mark.parametrize("severity", ["critical", "warning"])
def test_every_alert_has_a_receiver(program, severity):
    route = said(program("amtool"), "config", "routes", "test", f"--config.file={ALERTMANAGER}", f"severity={severity}")
    assert route.splitlines()[0] == "page"

"""Every query of the tree: of dashboards, rules, alerts and runbooks; the metrics and labels that one names."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
RULES = ROOT / "compose/prometheus/rules"
DASHBOARDS = ROOT / "compose/grafana/dashboards"
RUNBOOKS = ROOT / "docs/runbooks"
# What Prometheus itself adds of each target.
OF_PROMETHEUS = {"up": {"job", "instance"}, "ALERTS": {"alertname", "alertstate", "severity"}}
_TARGET_LABELS = {"job", "instance"}
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_MATCHERS = re.compile(r"\{([^}]*)\}")
_RANGE = re.compile(r"\[[^\]]*\]")
_NUMBER = re.compile(r"\b\d[\w.]*")
_NAME = re.compile(r"(?<![\w:$])([a-zA-Z_:][\w:]*)(?!\s*\(|[\w:])")
VARIABLE = re.compile(r"\$(\w+)")
_KEYWORDS = {"and", "or", "unless", "offset", "bool", "by", "without", "on", "ignoring", "group_left", "group_right"}


@dataclass(frozen=True)
class Query:
    """A query, and where it stands."""

    where: str
    text: str

    def plain(self) -> str:
        """Return it as Prometheus reads it: with Grafana's variables filled in."""
        filled = self.text.replace("$__rate_interval", "1m").replace("$__range", "1h").replace("$__interval", "1m")
        return VARIABLE.sub(".*", filled)

    def metrics(self) -> set[str]:
        """Return the names of the metrics that it reads."""
        text = self.plain()
        for cut in (_STRING, _MATCHERS, _RANGE, _GROUPING, _NUMBER):
            text = cut.sub(" ", text)
        # `sum by (x) (…)` has lost its grouping: what stands before the next bracket is a function still.
        return {name for name in _NAME.findall(text) if name not in _KEYWORDS}

    def labels(self) -> set[str]:
        """Return the labels that it matches or groups by."""
        text = _STRING.sub('""', self.plain())
        matched = {
            part.strip().split("=")[0].rstrip("!~ ") for body in _MATCHERS.findall(text) for part in body.split(",")
        }
        grouped = {part.strip() for body in _GROUPING.findall(text) for part in body.split(",")}
        return (matched | grouped) - {""}


def rules() -> list[dict[str, Any]]:
    """Return every recording and alerting rule."""
    files = [yaml.safe_load(path.read_text()) for path in sorted(RULES.glob("*.yml"))]
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    """Return every alerting rule."""
    return [rule for rule in rules() if "alert" in rule]


def of_rules() -> Iterator[Query]:
    """Yield the rules' queries."""
    for rule in rules():
        yield Query(rule.get("record") or rule["alert"], rule["expr"])


def dashboards() -> dict[str, dict[str, Any]]:
    """Return every dashboard by its file's name."""
    return {path.name: json.loads(path.read_text()) for path in sorted(DASHBOARDS.glob("*.json"))}


def panels(dashboard: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the panels that show something."""
    yield from (panel for panel in dashboard["panels"] if panel["type"] != "row")


def of_dashboards() -> Iterator[Query]:
    """Yield the dashboards' queries; of variables the metric whose labels they list."""
    for name, dashboard in dashboards().items():
        for panel in panels(dashboard):
            for target in panel.get("targets", ()):
                yield Query(f"{name}: {panel['title']}", target["expr"])
        for variable in dashboard["templating"]["list"]:
            found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            assert found, f"{name}: {variable['name']}: {variable['query']}"
            yield Query(f"{name}: ${variable['name']}", f"count by ({found[2]}) ({found[1]})")


def of_runbooks() -> Iterator[Query]:
    """Yield the queries in the runbooks' ```promql blocks: one a line."""
    for path in sorted(RUNBOOKS.glob("*.md")):
        for block in re.findall(r"^```promql\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL):
            for line in block.splitlines():
                yield Query(path.name, line)


def every_query() -> list[Query]:
    """Return all of them."""
    return [*of_rules(), *of_dashboards(), *of_runbooks()]


def known(exported: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return the labels of every metric that a query may name: what is exported, and what rules record of it."""
    found = {name: labels | _TARGET_LABELS for name, labels in exported.items()} | OF_PROMETHEUS
    for rule in rules():
        if "record" in rule:
            query = Query(rule["record"], rule["expr"])
            found[rule["record"]] = set().union(*(found.get(name, set()) for name in query.metrics())) | _TARGET_LABELS
    return found

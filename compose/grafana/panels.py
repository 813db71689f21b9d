"""The pieces of a dashboard: panels, rows, variables, and where they stand on Grafana's grid of 24 columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# The data source that provisioning/datasources makes.
DATASOURCE = {"type": "prometheus", "uid": "sparkstack-prometheus"}
_COLUMNS = 24
_SCHEMA = 39
_NEUTRAL = ((None, "green"),)

Steps = Sequence[tuple[float | None, str]]
"""Colours from a value on; the first from everywhere."""


@dataclass(frozen=True)
class Panel:
    """One panel.

    Args:
        queries: PromQL by legend; the legend may hold {{label}}.
        what: a sentence for who wonders what it shows, and what to make of it.
        unit: Grafana's name of the unit.
        kind: timeseries, stat, bargauge or table.
        width: columns, of 24.
        steps: colours by value.
        stacked: the series are parts of a whole.
        most: the axis ends there; None where it follows the values.
    """

    title: str
    queries: Mapping[str, str]
    what: str
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    height: int = 8
    steps: Steps = _NEUTRAL
    stacked: bool = False
    most: float | None = None

    def document(self, number: int, x: int, y: int) -> dict[str, Any]:
        """Return it as Grafana reads it."""
        defaults: dict[str, Any] = {
            "unit": self.unit,
            "min": 0,
            "thresholds": {"mode": "absolute", "steps": [{"value": at, "color": colour} for at, colour in self.steps]},
        }
        if self.most is not None:
            defaults["max"] = self.most
        if self.kind == "timeseries":
            stacking = {"mode": "normal" if self.stacked else "none", "group": "A"}
            defaults["custom"] = {"fillOpacity": 30 if self.stacked else 8, "stacking": stacking, "showPoints": "never"}
            if len(self.steps) > 1:
                defaults["custom"]["thresholdsStyle"] = {"mode": "line"}
        return {
            "id": number,
            "title": self.title,
            "description": self.what,
            "type": self.kind,
            "datasource": DATASOURCE,
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height},
            "fieldConfig": {"defaults": defaults, "overrides": []},
            "options": _OPTIONS[self.kind],
            "targets": [self._target(chr(ord("A") + at), *pair) for at, pair in enumerate(self.queries.items())],
        }

    def _target(self, name: str, legend: str, query: str) -> dict[str, Any]:
        target = {"refId": name, "datasource": DATASOURCE, "expr": query, "legendFormat": legend}
        if self.kind == "timeseries":
            return target
        return {**target, "instant": True, "format": "table" if self.kind == "table" else "time_series"}


_REDUCED = {"calcs": ["lastNotNull"], "fields": "", "values": False}
_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "timeseries": {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    },
    "stat": {"reduceOptions": _REDUCED, "colorMode": "value", "graphMode": "area", "textMode": "auto"},
    "bargauge": {"reduceOptions": _REDUCED, "displayMode": "basic", "orientation": "horizontal"},
    "table": {"showHeader": True, "cellHeight": "sm"},
}


@dataclass(frozen=True)
class Row:
    """A heading, and the panels under it from left to right."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Variable:
    """A choice on top of a dashboard: the values of a metric's label; all of them to begin with."""

    name: str
    metric: str
    label: str

    def document(self) -> dict[str, Any]:
        """Return it as Grafana reads it."""
        query = f"label_values({self.metric}, {self.label})"
        return {
            "name": self.name,
            "type": "query",
            "datasource": DATASOURCE,
            "query": {"query": query, "refId": self.name},
            "refresh": 2,
            "includeAll": True,
            "multi": True,
            "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
            "sort": 1,
        }


@dataclass(frozen=True)
class Dashboard:
    """A dashboard.

    Args:
        name: of its file, and in its address.
        span: how far back it looks when it is opened.
    """

    name: str
    title: str
    what: str
    rows: Sequence[Row]
    variables: Sequence[Variable] = field(default_factory=tuple)
    span: str = "1h"

    def document(self) -> dict[str, Any]:
        """Return it as Grafana reads it."""
        return {
            "uid": f"sparkstack-{self.name}",
            "title": self.title,
            "description": self.what,
            "tags": ["sparkstack"],
            "schemaVersion": _SCHEMA,
            "editable": False,
            "graphTooltip": 1,
            "refresh": "15s",
            "time": {"from": f"now-{self.span}", "to": "now"},
            "timezone": "browser",
            "links": [{"type": "dashboards", "title": "sparkstack", "tags": ["sparkstack"], "asDropdown": False}],
            "templating": {"list": [variable.document() for variable in self.variables]},
            "panels": list(_placed(self.rows)),
        }


def _placed(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the panels with their places: rows below one another, panels wrapped at the last column."""
    placed: list[dict[str, Any]] = []
    y = 0
    for row in rows:
        place = {"x": 0, "y": y, "w": _COLUMNS, "h": 1}
        placed.append({"id": len(placed) + 1, "type": "row", "title": row.title, "gridPos": place, "panels": []})
        x, y, tallest = 0, y + 1, 0
        for panel in row.panels:
            if x + panel.width > _COLUMNS:
                x, y, tallest = 0, y + tallest, 0
            placed.append(panel.document(len(placed) + 1, x, y))
            x, tallest = x + panel.width, max(tallest, panel.height)
        y += tallest
    return placed


def quantiles(metric: str, by: str, matching: str, *quantiles: float) -> dict[str, str]:
    """Return the queries of a histogram's quantiles, by their legend."""
    inner = f"sum by ({by}, le) (rate({metric}_bucket{{{matching}}}[$__rate_interval]))"
    return {f"p{100 * each:g} {{{{{by}}}}}": f"histogram_quantile({each:g}, {inner})" for each in quantiles}

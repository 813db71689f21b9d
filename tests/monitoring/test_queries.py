"""Every query of dashboards, rules, alerts and runbooks names metrics, labels and data sources that exist."""

import re
from pathlib import Path

import pytest
import yaml

from compose.grafana.boards import BOARDS, path_of, text_of
from compose.grafana.panels import Dashboard, Panel, Row
from docs import generate_metrics
from tests.monitoring import queries
from tests.monitoring.queries import Query
from tests.monitoring.registries import samples

ROOT = Path(__file__).parents[2]
QUERIES = queries.every_query()
PROVISIONED = yaml.safe_load((ROOT / "compose/grafana/provisioning/datasources/sparkstack.yml").read_text())
BOARD_IDS = [board.name for board in BOARDS]


@pytest.fixture(scope="module")
def known() -> dict[str, set[str]]:
    return queries.known(samples())


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.where)
def test_it_names_metrics_and_labels_that_exist(query, known):
    named = query.metrics()
    assert named, query.text
    assert named - known.keys() == set()
    assert query.labels() - set().union(*(known[name] for name in named)) == set()


def test_what_does_not_exist_is_noticed(known):
    query = Query(
        "", 'sum by (colour) (rate(gateway_exchanges_totals{outcome="ok", taste!="sour"}[$__rate_interval])) > 2'
    )
    assert query.metrics() - known.keys() == {"gateway_exchanges_totals"}
    assert query.labels() == {"colour", "outcome", "taste"}


@pytest.mark.parametrize(
    ("text", "metrics"),
    [
        ("up == 0", {"up"}),
        ("a / on (job) group_left () b", {"a", "b"}),
        ('count by (x) (y{z="rate, (q)"} offset 1d) or vector(0)', {"y"}),
        ("histogram_quantile(0.95, sum by (le) (rate(t_bucket[5m])))", {"t_bucket"}),
        ("level:metric:rate5m unless 1e3 * metric", {"level:metric:rate5m", "metric"}),
    ],
)
def test_the_metrics_of_a_query_are_read_out_of_it(text, metrics):
    assert Query("", text).metrics() == metrics


def test_there_are_queries_of_every_kind():
    places = {query.where for query in QUERIES}
    assert {"ServiceDown", "model:ttft_seconds:p95_5m", "gateway.json: Tokens", "service-down.md"} <= places
    assert len(QUERIES) > 100


# --- dashboards -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("board", BOARDS, ids=BOARD_IDS)
def test_the_file_of_a_dashboard_is_what_the_code_says(board):
    assert path_of(board).read_text() == text_of(board), "run: python -m compose.grafana.boards"


def test_no_dashboard_is_there_that_no_code_makes():
    assert {path.name for path in queries.DASHBOARDS.iterdir()} == {path_of(board).name for board in BOARDS}


@pytest.mark.parametrize("board", BOARDS, ids=BOARD_IDS)
def test_its_data_sources_are_provisioned(board):
    provisioned = {(source["type"], source["uid"]) for source in PROVISIONED["datasources"]}
    document = board.document()
    named = [panel["datasource"] for panel in queries.panels(document)]
    named += [target["datasource"] for panel in queries.panels(document) for target in panel["targets"]]
    named += [variable["datasource"] for variable in document["templating"]["list"]]
    assert {(source["type"], source["uid"]) for source in named} <= provisioned


@pytest.mark.parametrize("board", BOARDS, ids=BOARD_IDS)
def test_each_panel_has_its_own_place_and_says_what_it_shows(board):
    taken: dict[tuple[int, int], str] = {}
    panels = board.document()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
        if panel["type"] != "row":
            assert panel["description"].endswith(".")
            assert panel["targets"]


@pytest.mark.parametrize("board", BOARDS, ids=BOARD_IDS)
def test_each_variable_is_used_and_each_that_is_used_is_there(board):
    text = " ".join(target["expr"] for panel in queries.panels(board.document()) for target in panel["targets"])
    used = {word for word in queries.VARIABLE.findall(text) if not word.startswith("__")}
    assert used == {variable.name for variable in board.variables}


def test_panels_that_do_not_fit_beside_one_another_go_below():
    wide = Panel("w", {"": "up"}, "What.", width=16, height=5)
    board = Dashboard("x", "X", "X.", [Row("one", [wide, wide]), Row("two", [wide])])
    places = [tuple(panel["gridPos"].values()) for panel in board.document()["panels"]]
    assert places == [(0, 0, 24, 1), (0, 1, 16, 5), (0, 6, 16, 5), (0, 11, 24, 1), (0, 12, 16, 5)]


# --- alerts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alert", queries.alerts(), ids=lambda alert: alert["alert"])
def test_an_alert_says_how_bad_it_is_and_what_it_is(alert):
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert set(alert["annotations"]) == {"summary", "description", "runbook"}
    assert alert["annotations"]["description"].endswith(".")
    assert (ROOT / alert["annotations"]["runbook"]).is_file()


def test_alertmanager_speaks_of_alerts_that_exist():
    document = yaml.safe_load((ROOT / "compose/alertmanager/alertmanager.yml").read_text())
    names = {alert["alert"] for alert in queries.alerts()}
    matchers = [
        matcher
        for rule in document["inhibit_rules"]
        for matcher in rule["source_matchers"] + rule["target_matchers"]
        if matcher.startswith("alertname")
    ]
    named = {name for matcher in matchers for name in matcher.split("=")[-1].strip(' ~"').split("|")}
    assert len(named) >= 8
    assert named <= names


@pytest.fixture(scope="module")
def tested() -> dict[str, list[bool]]:
    """Return, by alert, whether each of its unit tests expects it to fire."""
    found: dict[str, list[bool]] = {}
    for path in sorted((Path(__file__).parent / "rules").glob("*.yml")):
        for group in yaml.safe_load(path.read_text())["tests"]:
            for check in group["promql_expr_test"]:
                (name,) = re.findall(r'alertname="(\w+)"', check["expr"])
                found.setdefault(name, []).append(bool(check["exp_samples"]))
    return found


@pytest.mark.parametrize("alert", queries.alerts(), ids=lambda alert: alert["alert"])
def test_an_alert_has_unit_tests_in_which_it_fires_and_in_which_it_does_not(alert, tested):
    assert set(tested[alert["alert"]]) == {True, False}


def test_every_metric_that_is_asked_for_is_in_the_reference():
    reference = generate_metrics.TARGET.read_text()
    recorded = {rule.get("record") for rule in queries.rules()} | queries.OF_PROMETHEUS.keys()
    named = set().union(*(query.metrics() for query in QUERIES)) - recorded
    assert len(named) > 50
    parts = re.compile(r"_(bucket|sum|count)$")
    assert {name for name in named if f"`{parts.sub('', name)}`" not in reference} == set()

"""Each alert has its page, of one form, and what a page tells people to type exists."""

import re
import shlex
from pathlib import Path

import click
import pytest

from services.cli.main import VERBS, cli
from services.embeddings.settings import EmbeddingsSettings
from services.engines.settings import EnginesSettings
from services.gateway.settings import GatewaySettings
from services.kit.settings import describe_settings
from services.rag.settings import RagSettings
from services.tracking.settings import TrackingSettings
from tests.monitoring import queries

ROOT = Path(__file__).parents[2]
FOLDER = queries.RUNBOOKS
ALERTS = {alert["alert"]: alert for alert in queries.alerts()}
PAGES = {Path(alert["annotations"]["runbook"]).name: name for name, alert in ALERTS.items()}
PARTS = ["Symptom", "Confirm", "Act", "Verify"]
# Pages that are of no alert.
OTHERS = {"spark-guard.md"}
SETTINGS = (GatewaySettings, EnginesSettings, EmbeddingsSettings, RagSettings, TrackingSettings)
# Of engines and of the tests' own starts; .env.example has them.
VARIABLES = {row.variable for settings in SETTINGS for row in describe_settings(settings)} | set(
    re.findall(r"^#?([A-Z][A-Z0-9_]*)=", (ROOT / ".env.example").read_text(), re.MULTILINE)
)
SERVICES = {"8000": "gateway", "8010": "engines", "8011": "embeddings", "8012": "rag", "8015": "tracking"}


def text_of(page: str) -> str:
    return (FOLDER / page).read_text()


def commands(page: str) -> list[str]:
    """Return what the page has in its shell blocks, line by line, and in backticks where that is a command of ours."""
    text = text_of(page)
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    found = [line.strip() for block in blocks for line in block.splitlines()]
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    return found + [
        word for word in re.findall(r"`([^`]+)`", prose) if re.match(r"(\.venv/bin/)?sparkstack |curl ", word)
    ]


def command_of(words: list[str]) -> tuple[click.Command, list[str]]:
    """Return the command that the words call, and the words after it."""
    command: click.Command = cli
    context = click.Context(cli)
    while words and isinstance(command, click.Group) and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        assert found is not None, words
        command, words = found, words[1:]
    return command, words


def test_each_alert_has_a_page_of_its_own_and_each_page_an_alert():
    assert len(PAGES) == len(ALERTS)
    assert {path.name for path in FOLDER.glob("*.md")} == PAGES.keys() | OTHERS


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_named_for_its_alert_and_has_the_four_parts(page):
    name = PAGES[page]
    assert page == re.sub(r"(?<!^)(?=[A-Z])", "-", name).lower() + ".md"
    text = text_of(page)
    assert text.startswith(f"# {name}\n")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == PARTS
    assert "```promql\n" in text.partition("## Confirm")[2].partition("## Act")[0]


@pytest.mark.parametrize("page", PAGES)
def test_it_asks_for_what_the_alert_is_made_of(page):
    named = set().union(*(query.metrics() for query in queries.of_runbooks() if query.where == page))
    assert named & metrics_behind(ALERTS[PAGES[page]]["expr"])


def metrics_behind(expression: str) -> set[str]:
    """Return the metrics of a rule, those that are recorded and what they are recorded from."""
    recorded = {rule["record"]: rule["expr"] for rule in queries.rules() if "record" in rule}
    found = queries.Query("", expression).metrics()
    return found.union(*(queries.Query("", recorded[name]).metrics() for name in found if name in recorded))


@pytest.mark.parametrize("page", PAGES)
def test_its_commands_exist(page):
    for line in commands(page):
        words = shlex.split(line)
        if not words[0].endswith("sparkstack"):
            continue
        command, rest = command_of(words[1:])
        options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
        assert {word for word in rest if word.startswith("-")} <= options, line
        assert words[1] in VERBS


@pytest.mark.parametrize("page", PAGES)
def test_the_addresses_that_it_asks_exist(page):
    for line in commands(page):
        for port, path in re.findall(r"http://127\.0\.0\.1:(\d+)(/[\w/.-]*)", line):
            folder = ROOT / "services" / SERVICES[port]
            files = [each for each in folder.rglob("*.py") if "tests" not in each.parts]
            code = "".join(each.read_text() for each in [*files, ROOT / "services/kit/app.py"])
            assert f'"{path}"' in code, line


@pytest.mark.parametrize("page", PAGES)
def test_the_variables_that_it_names_exist(page):
    named = set(re.findall(r"`([A-Z]+_[A-Z_]+)(?:=\w*)?`", text_of(page)))
    assert named <= VARIABLES


@pytest.mark.parametrize("page", sorted(PAGES.keys() | OTHERS))
def test_the_pages_that_it_points_to_exist(page):
    for link in re.findall(r"\]\(([^)#]+)\)", text_of(page)):
        assert (FOLDER / link).is_file(), link

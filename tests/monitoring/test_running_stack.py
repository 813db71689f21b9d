"""A real Prometheus beside the running stack, as compose/README.md says it is set up."""

import contextlib
import json
import subprocess
import sys

import httpx
import pytest

from compose.prometheus import render
from tests.e2e.conftest import new_stack
from tests.e2e.stacks import REPOSITORY, wait_for
from tests.monitoring import queries
from tests.testkit.ports import free_port

__all__ = ["new_stack"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def mode():
    """These stacks run as processes, which Prometheus beside them reaches."""
    return "embedded"


@contextlib.contextmanager
def prometheus_beside(stack, program, folder):
    """Run Prometheus with the configuration that is rendered for this stack; yields how to ask it."""
    rendered = subprocess.run(
        [sys.executable, "-m", "compose.prometheus.render", "--stack", str(stack.home.stack_file)],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip
    path = folder / "prometheus.yml"
    path.write_text(rendered.replace("interval: 15s", "interval: 1s").replace("timeout: 10s", "timeout: 1s"))
    address = f"127.0.0.1:{free_port()}"
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(
            [program("prometheus"), f"--config.file={path}", f"--storage.tsdb.path={folder / 'data'}",
             f"--web.listen-address={address}"],
            stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        with httpx.Client(base_url=f"http://{address}/api/v1", trust_env=False) as client:
            yield client
    finally:
        process.terminate()
        process.wait(30)


def ask(client, query):
    """Return the series that a query finds; None while Prometheus doesn't answer."""
    with contextlib.suppress(httpx.TransportError):
        answer = client.post("/query", data={"query": query})
        if answer.status_code != 503:
            document = json.loads(answer.content)
            assert document["status"] == "success", f"{query}: {document}"
            return document["data"]["result"]
    return None


def test_prometheus_scrapes_the_running_stack(new_stack, program, tmp_path):
    stack = new_stack(WITHOUT="mlflow")
    stack.up()
    stack.ask()
    with prometheus_beside(stack, program, tmp_path) as client:

        def said():
            return (tmp_path / "prometheus.log").read_text() + stack.all_logs()

        def jobs_up():
            found = ask(client, f'up{{job=~"{"|".join(render.SCRAPED)}"}} == 1') or []
            return {series["metric"]["job"] for series in found} == set(render.SCRAPED)

        wait_for(jobs_up, "every service scraped", said)
        (answered,) = ask(client, 'sum(gateway_exchanges_total{outcome="ok"})')
        assert float(answered["value"][1]) >= 1
        assert ask(client, 'engine_state{state=~"ready|busy"} == 1')
        wait_for(lambda: ask(client, "host:memory_available:ratio"), "a recorded rule", said)
        for query in queries.every_query():
            assert ask(client, query.plain()) is not None, query
        assert not ask(client, 'ALERTS{alertname="ServiceDown"}')

"""A real Prometheus, with the tree's configuration, scrapes what the services' own registries export.

Every query of every dashboard finds something, alerts reach a real Alertmanager, and targets are found as configured.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.exposition import generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from compose.prometheus import render
from services.engines.prometheus_routes import target_groups
from services.engines.watching.health import EngineTarget
from tests.monitoring import queries
from tests.monitoring.registries import MODEL, Exported, exported
from tests.testkit.ports import free_port
from tests.testkit.processes import run_process
from tests.testkit.server import running

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[2]
VLLM = 'vllm:num_requests_running{engine="0"} 2\n'
STRANGER = "somebody_elses_metric 1\n"


def app_of(service: Exported, targets: Callable[[], list[dict[str, Any]]]) -> Starlette:
    """Return a service that has figures and nothing else; everything has moved since the last scrape."""

    def metrics(_request: Request) -> Response:
        service.move()
        return PlainTextResponse(generate_latest(service.registry))

    def discovery(_request: Request) -> Response:
        return JSONResponse(targets())

    return Starlette(routes=[Route("/metrics", metrics), Route("/prometheus/targets", discovery)])


def vllm() -> Starlette:
    """Return an engine's own server."""

    def metrics(_request: Request) -> Response:
        return PlainTextResponse(VLLM + STRANGER)

    return Starlette(routes=[Route("/metrics", metrics)])


@dataclass
class Monitored:
    """A Prometheus and an Alertmanager that run, and how to ask them."""

    prometheus: httpx.AsyncClient
    alertmanager: httpx.AsyncClient

    async def ask(self, query: str) -> list[dict[str, Any]]:
        """Return the series that a query finds now."""
        answer = await self.prometheus.post("/api/v1/query", data={"query": query})
        document = answer.json()
        assert document["status"] == "success", f"{query}: {document}"
        return document["data"]["result"]

    async def targets(self) -> dict[str, list[dict[str, Any]]]:
        """Return the targets by their job."""
        found: dict[str, list[dict[str, Any]]] = {}
        for each in (await self.prometheus.get("/api/v1/targets")).json()["data"]["activeTargets"]:
            found.setdefault(each["labels"]["job"], []).append(each)
        return found


async def until(condition: Callable[[], Awaitable[Any]], timeout_s: float = 60.0) -> Any:
    """Wait until a condition holds; on failure with its last value."""
    value = None
    try:
        async with asyncio.timeout(timeout_s):
            while not (value := await condition()):
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"still {value!r} after {timeout_s} s") from None
    return value


@contextlib.asynccontextmanager
async def fake_services() -> AsyncIterator[dict[str, str]]:
    """Run a target a service; yield host:port by name."""
    async with contextlib.AsyncExitStack() as stack:
        engine = await stack.enter_async_context(running(vllm()))
        engines = [
            EngineTarget(MODEL, "vllm", engine, "key", MODEL, gpu=True),
            EngineTarget("tiny", "llamacpp", "http://127.0.0.1:9", "key", "tiny"),
        ]
        found = {}
        for name, service in exported().items():
            url = await stack.enter_async_context(running(app_of(service, lambda: target_groups(engines))))
            found[name] = url.removeprefix("http://")
        yield found


@contextlib.asynccontextmanager
async def monitored(program, alertmanager, folder: Path) -> AsyncIterator[Monitored]:
    """Run all of it, with the tree's template, rules and Alertmanager's configuration."""
    ports = {name: f"127.0.0.1:{free_port()}" for name in render.PORTS}
    async with fake_services() as services:
        path = folder / "prometheus.yml"
        rendering = render.Rendering({**services, **ports}, rules=str(render.RULES), interval="1s", timeout="1s")
        path.write_text(render.render(rendering))
        binary, place = alertmanager
        told_by = [
            binary,
            f"--config.file={ROOT / 'compose/alertmanager/alertmanager.yml'}",
            f"--storage.path={folder / 'alertmanager'}",
            f"--web.listen-address={ports['alertmanager']}",
            "--cluster.listen-address=",
        ]
        prometheus = [
            program("prometheus"),
            f"--config.file={path}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={ports['prometheus']}",
        ]
        urls = {name: f"http://{address}" for name, address in ports.items()}
        async with (
            run_process(told_by, ready_url=f"{urls['alertmanager']}/-/ready", cwd=place, timeout_s=60),
            run_process(prometheus, ready_url=f"{urls['prometheus']}/-/ready", timeout_s=60),
            httpx.AsyncClient(base_url=urls["prometheus"], trust_env=False) as asked,
            httpx.AsyncClient(base_url=urls["alertmanager"], trust_env=False) as told,
        ):
            yield Monitored(asked, told)


async def test_every_service_is_scraped_and_every_panel_shows_something(program, alertmanager, tmp_path):
    async with monitored(program, alertmanager, tmp_path) as stack:

        async def all_up() -> bool:
            targets = await stack.targets()
            named = {*render.SCRAPED, *render.PORTS, "engine-servers"}
            return targets.keys() == named and all(each["health"] == "up" for job in targets.values() for each in job)

        await until(all_up)
        await the_engines_own_server_is_found(stack)
        await every_query_finds_something(stack)
        await alerts_are_told(stack)


async def the_engines_own_server_is_found(stack: Monitored) -> None:
    (target,) = (await stack.targets())["engine-servers"]
    assert (target["labels"]["model"], target["labels"]["engine"]) == (MODEL, "vllm")
    (series,) = await stack.ask("vllm:num_requests_running")
    assert series["metric"]["model"] == MODEL
    assert await stack.ask("somebody_elses_metric") == [], "what isn't an engine's figure is not kept"


async def every_query_finds_something(stack: Monitored) -> None:
    """A panel that can show nothing, whatever happens, is one whose labels do not fit."""
    for query in queries.of_dashboards():
        # There is no day before in a Prometheus that has just begun.
        text = query.plain().replace(" offset 1d", "").replace(" offset 1w", "")
        try:
            await until(lambda text=text: stack.ask(text), timeout_s=40)
        except AssertionError as error:
            raise AssertionError(f"{query.where}: {text}: {error}") from None
    for query in [*queries.of_rules(), *queries.of_runbooks()]:
        await stack.ask(query.plain())


async def alerts_are_told(stack: Monitored) -> None:
    """The exported counters have failed loads, and a drift alarm."""

    async def alerts() -> dict[str, Any]:
        found = json.loads((await stack.alertmanager.get("/api/v2/alerts")).content)
        told = {alert["labels"]["alertname"]: alert for alert in found}
        return told if {"LoadsFail", "DriftFound"} <= told.keys() else {}

    told = await until(alerts)
    assert "ServiceDown" not in told
    assert told["LoadsFail"]["annotations"]["summary"] == f"{MODEL} could not be loaded"
    assert [alert for alert in told.values() if "error expanding" in str(alert["annotations"])] == []
    (rules,) = [(await stack.prometheus.get("/api/v1/rules")).json()["data"]["groups"]]
    wrong = {rule["name"]: rule["lastError"] for group in rules for rule in group["rules"] if rule.get("lastError")}
    assert wrong == {}

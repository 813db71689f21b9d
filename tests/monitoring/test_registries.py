"""What dashboards are tried on is what the services export: the same families, under the same names and types."""

import asyncio
import re

import httpx
from prometheus_client.exposition import generate_latest

from services.tracking.app import create_app as tracking_app
from services.tracking.service import Parts
from services.tracking.settings import TrackingSettings
from tests.integration.engine_services import engine_service
from tests.monitoring.registries import OUTCOMES, exported, samples
from tests.testkit.fake_runtime import FakeRuntime
from tests.testkit.server import running


def families(text: str) -> set[str]:
    """Return name and type of each family; when a series began is only told once there is one."""
    return {found for found in re.findall(r"^# TYPE (\S+ \S+)$", text, re.MULTILINE) if "_created " not in found}


def tried(service: str) -> set[str]:
    found = exported()[service]
    found.move()
    return families(generate_latest(found.registry).decode())


async def test_of_tracking(tmp_path):
    settings = TrackingSettings(state=tmp_path)
    app = await asyncio.to_thread(tracking_app, settings, Parts(counters=list))  # it reads files
    async with running(app) as url, httpx.AsyncClient(trust_env=False) as client:
        assert families((await client.get(f"{url}/metrics")).text) == tried("tracking")


async def test_of_engines(tmp_path):
    runtime = FakeRuntime()
    try:
        async with engine_service(tmp_path, runtime, models={"model-a": 2**30}) as service:
            assert families((await service.client.get("/metrics")).text) == tried("engines")
    finally:
        await runtime.end_all()


def test_each_outcome_is_tried():
    names = {name.removesuffix("_total") for name, labels in samples().items() if "outcome" in labels}
    named = {re.sub(r"_(bucket|sum|count)$", "", name) for name in names}
    assert named - {"tracking_records"} == OUTCOMES.keys()

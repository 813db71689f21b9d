"""The engines service tells Prometheus where the figures of running engines are."""

import dataclasses

from tests.integration.engine_services import GIB, engine_service
from tests.testkit.fake_runtime import FakeRuntime

NO_KEY = {"authorization": ""}


async def test_prometheus_asks_without_a_key_and_is_told_of_what_runs(tmp_path):
    runtime = FakeRuntime()
    try:
        async with engine_service(tmp_path, runtime, models={"model-a": GIB}, memory_gib=8.0) as service:
            await service.until("model-a", "ready")
            answer = await service.client.get("/prometheus/targets", headers=NO_KEY)
            assert answer.json() == [], "llama.cpp shows its figures to nobody without its key"

            engine = service.service.controller.fleet.engines["model-a"]
            engine.target = dataclasses.replace(engine.target, engine="vllm")
            answer = await service.client.get("/prometheus/targets", headers=NO_KEY)
            assert answer.status_code == 200
            (group,) = answer.json()
            assert group["targets"] == [engine.target.url.removeprefix("http://")]
            assert group["labels"]["model"] == "model-a"
            assert engine.target.api_key not in answer.text
    finally:
        await runtime.end_all()

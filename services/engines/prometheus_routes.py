"""Where the engines' own figures are, for Prometheus (`http_sd_configs`): engines come and go, and so do their ports.

Source: https://prometheus.io/docs/prometheus/latest/http_sd/
"""

from collections.abc import Iterable
from typing import Any

from fastapi import APIRouter, Request

from services.engines.routes import controller_of
from services.engines.watching.engine_metrics import NAMES
from services.engines.watching.health import EngineTarget

# It tells no more than `/metrics` does, and wants no key where that wants none.
router = APIRouter()

# llama.cpp shows its figures to those alone who have its key, which is a new one with each engine.
_OPEN = ("vllm", "sglang", "trtllm")


@router.get("/prometheus/targets", summary="Where the engines' own figures are, for Prometheus")
async def targets(request: Request) -> list[dict[str, Any]]:
    """Engines that run now and show their figures without a key."""
    return target_groups(engine.target for engine in controller_of(request).fleet.engines.values())


def target_groups(engines: Iterable[EngineTarget]) -> list[dict[str, Any]]:
    """Return a group of one target an engine, with the labels that `engine_state` has."""
    return [_group(engine) for engine in engines if engine.engine in _OPEN]


def _group(engine: EngineTarget) -> dict[str, Any]:
    labels = {"model": engine.model_id, "engine": engine.engine, "__metrics_path__": NAMES[engine.engine].path}
    return {"targets": [engine.url.partition("://")[2].rstrip("/")], "labels": labels}

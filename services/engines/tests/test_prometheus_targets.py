"""Prometheus is told of the engines that show it their figures."""

import dataclasses

from services.engines.prometheus_routes import target_groups
from services.engines.watching.health import EngineTarget

VLLM = EngineTarget("qwen-nvfp4", "vllm", "http://127.0.0.1:8021", "secret", "qwen", gpu=True)


def test_an_engine_is_listed_with_the_labels_that_its_state_has():
    assert target_groups([VLLM]) == [
        {
            "targets": ["127.0.0.1:8021"],
            "labels": {"model": "qwen-nvfp4", "engine": "vllm", "__metrics_path__": "/metrics"},
        }
    ]


def test_tensorrt_llm_has_its_figures_elsewhere():
    (group,) = target_groups([dataclasses.replace(VLLM, engine="trtllm")])
    assert group["labels"]["__metrics_path__"] == "/prometheus/metrics"


def test_one_that_wants_its_key_or_has_no_figures_is_left_out():
    others = [dataclasses.replace(VLLM, engine=name) for name in ("llamacpp", "ollama")]
    assert target_groups(others) == []


def test_no_key_is_told():
    assert "secret" not in str(target_groups([VLLM]))

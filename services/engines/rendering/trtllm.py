"""TensorRT-LLM: `trtllm-serve`.

Source: the options of tensorrt_llm/commands/serve.py (1.3); NVIDIA's playbook for the DGX Spark.
"""

from typing import Any

import yaml

from services.engines.rendering.options import environment, options, words
from services.engines.rendering.order import CLOUDS, SHM_BYTES, Order, Rendered, RenderError

_CONFIG = "/etc/sparkstack/trtllm.yaml"
_START_S = 1800
_KV_DTYPES = {"f16": "auto", "bf16": "auto", "fp8": "fp8"}
# /prometheus/metrics is there with the first; the second fills it.
_REPORTS = {"return_perf_metrics": True, "enable_iter_perf_stats": True}


def render_trtllm(order: Order) -> Rendered:
    """Return how TensorRT-LLM serves a recipe.

    The map `extra_llm_api_options` of the recipe's arguments becomes a file beside the container.

    Raises:
        RenderError
    """
    order.refuse("process", why="TensorRT-LLM runs in its image; use compose or kubernetes")
    order.refuse(*CLOUDS, why="the clouds are served by vLLM; give the recipe an engine vllm")
    arguments = order.arguments
    if not order.gpu:
        raise RenderError(f"{order.where}.device is {arguments.device!r}: TensorRT-LLM needs a GPU; write device: gpu")
    if arguments.temperature is not None or arguments.top_p is not None:
        raise RenderError(f"{order.where}: TensorRT-LLM has no default temperature or top_p to set; leave them out")
    found = options(order, _fields(order), {})
    config = _config(order, found.pop("extra_llm_api_options", {}))
    line = words(order, {**found, "extra_llm_api_options": _CONFIG})
    compose = order.target == "compose"
    return Rendered(
        image=arguments.image,
        command=("trtllm-serve", order.model, *line),
        environment=environment(order, order.hub_environment()),
        port=order.port,
        health_path="/health",
        start_period_s=_START_S,
        gpu=True,
        shm_bytes=SHM_BYTES,
        ipc_host=compose,
        ulimits={"memlock": -1, "stack": 67108864} if compose else {},
        volumes=order.volumes({}),
        files={_CONFIG: yaml.safe_dump(config, sort_keys=True)},
    )


def _fields(order: Order) -> dict[str, Any]:
    revision = getattr(order.recipe.source, "revision", None)
    return {
        "host": order.host,  # its default is localhost, which no other container reaches
        "port": order.port,
        "max_seq_len": order.context_tokens,
        "max_batch_size": order.sequences,
        "revision": revision if not order.model_is_path and revision != "main" else None,
    }


def _config(order: Order, given: dict[str, Any]) -> dict[str, Any]:
    cache = dict(given.get("kv_cache_config", {}))
    if order.arguments.kv_dtype not in _KV_DTYPES:
        known = ", ".join(_KV_DTYPES)
        raise RenderError(f"{order.where}.kv_dtype: TensorRT-LLM has no {order.arguments.kv_dtype!r}; it has: {known}")
    if "dtype" in cache:
        raise RenderError(f"{order.where}: kv_cache_config.dtype is set by the recipe's kv_dtype; leave it out there")
    if "free_gpu_memory_fraction" not in cache:
        raise RenderError(
            f"{order.where}.arguments.extra_llm_api_options.kv_cache_config.free_gpu_memory_fraction is missing: "
            "the engine's default, 0.9 of what the weights leave, takes the whole machine"
        )
    cache["dtype"] = _KV_DTYPES[order.arguments.kv_dtype]
    return {**_REPORTS, **given, "kv_cache_config": cache}

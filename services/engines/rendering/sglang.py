"""SGLang: `sglang serve`.

Source: the options of sglang/srt/arg_groups/fields (0.5.23); NVIDIA's playbook for the DGX Spark.
"""

from typing import Any

from services.engines.rendering.options import environment, options, words
from services.engines.rendering.order import CLOUDS, SHM_BYTES, Order, Rendered, RenderError

_CACHES = {"flashinfer": "/root/.cache/flashinfer", "triton": "/root/.triton"}
_START_GPU_S = 1800  # a first start compiles kernels and captures CUDA graphs
_START_CPU_S = 300
_KV_DTYPES = {"f16": None, "bf16": None, "fp8": "fp8_e4m3"}  # None: the model's own


def render_sglang(order: Order) -> Rendered:
    """Return how SGLang serves a recipe.

    Raises:
        RenderError
    """
    order.refuse(*CLOUDS, why="the clouds are served by vLLM; give the recipe an engine vllm")
    found = options(order, _fields(order), {"enable-metrics": True, "enable-cache-report": True})
    if order.gpu and "mem-fraction-static" not in found:
        raise RenderError(
            f"{order.where}.arguments.mem-fraction-static is missing: the share of memory that holds weights and KV "
            "cache. What memory_utilization says is that and the engine's overhead"
        )
    line = words(order, found)
    process = order.target == "process"
    shares = order.gpu and order.target == "compose"
    return Rendered(
        image=None if process else order.arguments.image,
        command=("-m", "sglang.launch_server", *line) if process else ("sglang", "serve", *line),
        environment=environment(order, order.hub_environment()),
        port=order.port,
        health_path="/health",
        start_period_s=_START_GPU_S if order.gpu else _START_CPU_S,
        gpu=order.gpu,
        shm_bytes=SHM_BYTES if order.gpu and not process else 0,
        ipc_host=shares,
        cap_add=("SYS_NICE",) if shares else (),
        volumes=order.volumes(_CACHES),
    )


def _fields(order: Order) -> dict[str, Any]:
    arguments = order.arguments
    if arguments.kv_dtype not in _KV_DTYPES:
        known = ", ".join(_KV_DTYPES)
        raise RenderError(f"{order.where}.kv_dtype: SGLang has no {arguments.kv_dtype!r}; it has: {known}")
    revision = getattr(order.recipe.source, "revision", None)
    sampling = {"temperature": arguments.temperature, "top_p": arguments.top_p}
    preferred = {name: value for name, value in sampling.items() if value is not None}
    return {
        "model-path": order.model,
        "revision": revision if not order.model_is_path and revision != "main" else None,
        "served-model-name": order.served_name,
        "host": order.host,
        "port": order.port,
        "context-length": order.context_tokens,
        "max-running-requests": order.sequences,
        "kv-cache-dtype": _KV_DTYPES[arguments.kv_dtype],
        # Its own /generate takes these; /v1 takes those of the model's generation_config.json.
        "preferred-sampling-params": preferred or None,
    }

"""vLLM: `vllm serve`.

Source: the options of vllm/engine/arg_utils.py and vllm/entrypoints (0.32); NVIDIA's recipes for the DGX Spark (0.28,
0.24) for what the recipes set.
"""

import math
from typing import Any

from services.engines.rendering.options import environment, options, text, words
from services.engines.rendering.order import CLOUDS, SHM_BYTES, Order, Rendered, RenderError

# Where it keeps what it has compiled: with these kept, the second start is minutes shorter.
_CACHES = {
    "vllm": "/root/.cache/vllm",
    "flashinfer": "/root/.cache/flashinfer",
    "triton": "/root/.triton",
}
_START_GPU_S = 1800  # a first start compiles kernels for sm_121
_START_CPU_S = 300
_GIB = 1 << 30
# In a cloud the GPU has memory of its own, and serves this model alone: vLLM's default.
_CLOUD_UTILIZATION = 0.92

# AWS's build of vLLM, whose entrypoint makes options of SM_VLLM_* variables. SageMaker starts a container with the
# argument `serve`, which vLLM's own image would take for the model.
SAGEMAKER_IMAGE = "public.ecr.aws/deep-learning-containers/vllm:server-sagemaker-cuda-v1"

_KV_DTYPES = {"f16": None, "bf16": None, "fp8": "fp8"}  # None: the model's own

# Read no more since 0.33; an engine that ignores them silently does something else than the recipe says.
_GONE = {
    "VLLM_ATTENTION_BACKEND": "arguments.attention-backend",
    "VLLM_USE_V1": "nothing: there is no other",
    "VLLM_USE_FLASHINFER_MOE_FP4": "arguments.moe-backend",
    "VLLM_USE_FLASHINFER_MOE_FP8": "arguments.moe-backend",
    "VLLM_USE_FLASHINFER_MOE_FP16": "arguments.moe-backend",
    "VLLM_NVFP4_GEMM_BACKEND": "arguments.linear-backend",
}

_INVOKE = (
    ("embeddings", "/v1/embeddings"),
    ("rerank", "/v1/rerank"),
    ("transcription", "/v1/audio/transcriptions"),
)


def render_vllm(order: Order) -> Rendered:
    """Return how vLLM serves a recipe.

    Raises:
        RenderError
    """
    for name in order.arguments.environment:
        if name in _GONE:
            raise RenderError(f"{order.where}.environment.{name}: vLLM reads it no more; set {_GONE[name]}")
    if order.target in CLOUDS and not order.gpu:
        raise RenderError(f"{order.recipe.id}@vllm can't be rendered for {order.target}: its device is no GPU there")
    found = options(order, _fields(order), _defaults(order))
    return _AT[order.target](order, found)


def _fields(order: Order) -> dict[str, Any]:
    arguments = order.arguments
    if arguments.kv_dtype not in _KV_DTYPES:
        raise RenderError(
            f"{order.where}.kv_dtype: vLLM has no {arguments.kv_dtype!r}; it has: {', '.join(_KV_DTYPES)}"
        )
    sampling = {"temperature": arguments.temperature, "top_p": arguments.top_p}
    revision = getattr(order.recipe.source, "revision", None)
    return {
        "model": order.model,
        "revision": revision if not order.model_is_path and revision != "main" else None,
        "served-model-name": order.served_name,
        "host": order.host,
        "port": order.port,
        "max-model-len": order.context_tokens,
        "max-num-seqs": order.sequences,
        "gpu-memory-utilization": _utilization(order),
        "kv-cache-memory-bytes": arguments.kv_cache_bytes if order.gpu else None,
        "kv-cache-dtype": _KV_DTYPES[arguments.kv_dtype],
        "override-generation-config": {name: value for name, value in sampling.items() if value is not None} or None,
    }


def _utilization(order: Order) -> float | None:
    if order.target in CLOUDS:
        return _CLOUD_UTILIZATION
    return order.arguments.memory_utilization if order.gpu else None


def _defaults(order: Order) -> dict[str, Any]:
    # A pooling model generates nothing, which vLLM doesn't see by the weights of every one.
    pools = {"embeddings", "rerank"} & set(order.recipe.capabilities)
    return {"runner": "pooling" if pools else None}


def _environment(order: Order) -> dict[str, str]:
    found = {**order.hub_environment(), "VLLM_NO_USAGE_STATS": "1"}
    if not order.gpu:
        # Threads that wait for work must sleep: on few cores they would take the gateway's time.
        found["KMP_BLOCKTIME"] = "0"
        if order.arguments.kv_cache_bytes is not None:
            found["VLLM_CPU_KVCACHE_SPACE"] = str(math.ceil(order.arguments.kv_cache_bytes / _GIB))  # whole GiB
    return environment(order, found)


def _process(order: Order, found: dict[str, Any]) -> Rendered:
    return Rendered(
        image=None,
        command=("-m", "vllm.entrypoints.openai.api_server", *words(order, found)),
        environment=_environment(order),
        port=order.port,
        health_path="/health",
        start_period_s=_START_GPU_S if order.gpu else _START_CPU_S,
        gpu=order.gpu,
    )


def _container(order: Order, found: dict[str, Any]) -> Rendered:
    image = order.arguments.image or ""
    # NVIDIA's image has a general entrypoint; that of vLLM's own is `vllm serve`.
    verb = ("vllm", "serve") if image.startswith("nvcr.io/") else ()
    rest = {name: value for name, value in found.items() if name != "model"}
    # A pod has /dev/shm as a volume of memory, and can neither raise limits nor needs the host's IPC for it.
    shares = order.gpu and order.target == "compose"
    return Rendered(
        image=image,
        command=(*verb, order.model, *words(order, rest)),
        environment=_environment(order),
        port=order.port,
        health_path="/health",
        start_period_s=_START_GPU_S if order.gpu else _START_CPU_S,
        gpu=order.gpu,
        shm_bytes=SHM_BYTES if order.gpu and order.target in ("compose", "kubernetes") else 0,
        ipc_host=shares,
        ulimits={"memlock": -1, "stack": 67108864} if shares else {},
        volumes=order.volumes(_CACHES),
    )


def _sagemaker(order: Order, found: dict[str, Any]) -> Rendered:
    """SageMaker: options as variables, because the container's one argument is `serve`."""
    # The entrypoint sets these two itself.
    shown = {name: value for name, value in found.items() if name not in ("host", "port")}
    variables = {}
    for name, value in shown.items():
        if isinstance(value, list):
            raise RenderError(f"{order.where}.arguments.{name}: SageMaker's image takes one word a variable, no list")
        plain = f"no-{name}" if value is False else name
        variables["SM_VLLM_" + plain.replace("-", "_").upper()] = "true" if isinstance(value, bool) else text(value)
    return Rendered(
        image=SAGEMAKER_IMAGE,
        command=("serve",),
        environment=environment(order, {**order.hub_environment(), "VLLM_NO_USAGE_STATS": "1"}, variables),
        port=order.port,
        health_path="/ping",
        start_period_s=_START_GPU_S,
        gpu=True,
        invoke_path="/invocations",
    )


def _vertex(order: Order, found: dict[str, Any]) -> Rendered:
    """Vertex AI: the container of compose, and the routes that an upload of the model names.

    Vertex itself sets AIP_* from that upload; they stand here so that the image is tried in the same way elsewhere.
    """
    plain = _container(order, found)
    capabilities = order.recipe.capabilities
    invoke = next((path for capability, path in _INVOKE if capability in capabilities), "/v1/chat/completions")
    routes = {"AIP_HTTP_PORT": str(order.port), "AIP_HEALTH_ROUTE": "/health", "AIP_PREDICT_ROUTE": invoke}
    return Rendered(
        image=plain.image,
        command=plain.command,
        environment={**plain.environment, **routes},
        port=order.port,
        health_path="/health",
        start_period_s=_START_GPU_S,
        gpu=True,
        shm_bytes=SHM_BYTES,
        invoke_path=invoke,
    )


_AT = {
    "process": _process,
    "compose": _container,
    "kubernetes": _container,
    "sagemaker": _sagemaker,
    "vertex": _vertex,
}

"""llama.cpp: `llama-server` in its image, `sparkstack engine llamacpp` as a process.

Source: tools/server/README.md of llama.cpp; the flags that are recommended for the DGX Spark.
"""

from typing import Any

from services.engines.rendering.options import environment, options, words
from services.engines.rendering.order import CLOUDS, Order, Rendered, RenderError

_START_GPU_S = 900  # 60 GB that are read once
_START_CPU_S = 120
_KV_DTYPES = {"f32": "f32", "f16": None, "bf16": "bf16", "q8_0": "q8_0", "q4_0": "q4_0"}  # None: the default

# An open stream holds one of the server's threads, and its page is not for the network that engines are in.
_ALWAYS = {"jinja": True, "metrics": True, "threads-http": 128, "no-webui": True}
# Prompts kept for the next request with the same beginning. llama.cpp's default, 8 GB, would come out of a Spark's one
# pool of memory unseen.
_PROMPT_CACHE_MIB = 512
_ON_GPU = {"n-gpu-layers": 999, "flash-attn": "on", "ubatch-size": 2048}
# No memory map: a page of the file and its copy for the GPU would take the same memory twice. The option was
# `--no-mmap` until autumn 2026 and is `--load-mode none` since; either refuses the other. Of variables each reads its
# own, so both are set: the tag of the image moves.
_NO_MMAP = {"LLAMA_ARG_LOAD_MODE": "none", "LLAMA_ARG_MMAP": "0"}


def render_llamacpp(order: Order) -> Rendered:
    """Return how llama.cpp serves a recipe.

    Raises:
        RenderError
    """
    order.refuse(*CLOUDS, why="the clouds are served by vLLM; give the recipe an engine vllm")
    if order.arguments.kv_dtype not in _KV_DTYPES:
        known = ", ".join(_KV_DTYPES)
        raise RenderError(f"{order.where}.kv_dtype: llama.cpp has no {order.arguments.kv_dtype!r}; it has: {known}")
    return _process(order) if order.target == "process" else _container(order)


def _process(order: Order) -> Rendered:
    arguments = order.arguments
    if order.gpu:
        raise RenderError(f"{order.recipe.id}@llamacpp needs a GPU: as a process llama.cpp has none; use compose")
    if arguments.arguments or arguments.kv_dtype != "f16":
        named = [f"arguments.{name}" for name in arguments.arguments] or ["kv_dtype"]
        raise RenderError(f"{order.where}.{named[0]}: `sparkstack engine llamacpp` has no such option; leave it out")
    given = {
        "--model": order.model,
        "--id": order.served_name,
        "--port": order.port,
        "--slots": order.sequences,
        "--context": order.context_tokens,
        "--threads": order.threads and order.threads.decode,
        "--threads-batch": order.threads and order.threads.batch,
        "--temperature": arguments.temperature,
        "--top-p": arguments.top_p,
    }
    line = [str(word) for option in given.items() if option[1] is not None for word in option]
    return Rendered(
        image=None,
        command=("-m", "services.cli.main", "engine", "llamacpp", *line),
        environment=environment(order, {}),
        port=order.port,
        health_path="/health",
        start_period_s=_START_CPU_S,
    )


def _container(order: Order) -> Rendered:
    arguments = order.arguments
    kv_dtype = _KV_DTYPES[arguments.kv_dtype]
    pools = {"embeddings": "embeddings", "rerank": "reranking"}
    fields: dict[str, Any] = {
        "model": order.model,
        "alias": order.served_name,
        "host": order.host,
        "port": order.port,
        "ctx-size": order.context_tokens * order.sequences,  # its slots divide it
        "parallel": order.sequences,
        "cache-type-k": kv_dtype,
        "cache-type-v": kv_dtype,
        "threads": None if order.gpu or order.threads is None else order.threads.decode,
        "threads-batch": None if order.gpu or order.threads is None else order.threads.batch,
        "temp": arguments.temperature,
        "top-p": arguments.top_p,
        **{option: True for capability, option in pools.items() if capability in order.recipe.capabilities},
    }
    defaults = {**_ALWAYS, "cache-ram": _PROMPT_CACHE_MIB, **(_ON_GPU if order.gpu else {})}
    # On a CPU waiting threads must sleep, and a memory map is what makes a load quick.
    variables = _NO_MMAP if order.gpu else {"OMP_WAIT_POLICY": "PASSIVE"}
    return Rendered(
        image=arguments.image,
        command=words(order, options(order, fields, defaults)),
        environment=environment(order, variables),
        port=order.port,
        health_path="/health",
        start_period_s=_START_GPU_S if order.gpu else _START_CPU_S,
        gpu=order.gpu,
        volumes=order.volumes({}),
    )

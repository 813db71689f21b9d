"""Ollama: `ollama serve`, which is configured by variables alone; the names in a recipe are those without OLLAMA_.

Source: envconfig/config.go of Ollama; the settings that are recommended for the DGX Spark.
"""

from typing import Any

from services.engines.rendering.options import environment, options
from services.engines.rendering.order import CLOUDS, Order, Rendered, RenderError

_START_S = 60
_KV_DTYPES = {"f16": "f16", "q8_0": "q8_0", "q4_0": "q4_0"}


def render_ollama(order: Order) -> Rendered:
    """Return how Ollama serves a recipe: the server; it loads the model at the first request for it.

    Raises:
        RenderError
    """
    order.refuse("process", why="Ollama's server is no Python program; use compose or kubernetes")
    order.refuse(*CLOUDS, why="the clouds are served by vLLM; give the recipe an engine vllm")
    arguments = order.arguments
    if arguments.temperature is not None or arguments.top_p is not None:
        raise RenderError(f"{order.where}: Ollama keeps temperature and top_p with the model; leave them out")
    if arguments.kv_dtype not in _KV_DTYPES:
        known = ", ".join(_KV_DTYPES)
        raise RenderError(f"{order.where}.kv_dtype: Ollama has no {arguments.kv_dtype!r}; it has: {known}")
    found = options(order, _fields(order), _defaults())
    variables = {"OLLAMA_" + name.replace("-", "_").upper(): _value(value) for name, value in found.items()}
    return Rendered(
        image=arguments.image,
        command=("serve",),
        environment=environment(order, {}, variables),
        port=order.port,
        health_path="/api/version",
        start_period_s=_START_S,
        gpu=order.gpu,
        volumes={"ollama": "/root/.ollama"},
    )


def _fields(order: Order) -> dict[str, Any]:
    return {
        "host": f"{order.host}:{order.port}",
        # Its own default grows with the memory, to 256k tokens on a Spark.
        "context-length": order.context_tokens,
        "num-parallel": order.sequences,
        "kv-cache-type": _KV_DTYPES[order.arguments.kv_dtype],
    }


def _defaults() -> dict[str, Any]:
    # One model at a time: which one is the controller's to say, and it can see two of its models only as one.
    return {"flash-attention": True, "keep-alive": "30m", "max-loaded-models": 1}


def _value(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool) else str(value)

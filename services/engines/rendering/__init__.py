"""Recipe → command line, image and environment, one module an engine, for every place where an engine runs.

    render(recipe, "vllm", "compose", port=8020, model="nvidia/…")  →  Rendered

What a recipe says that its engine doesn't know is an error here, not in a container that restarts all night.
"""

from collections.abc import Callable
from typing import get_args

from services.engines.recipes import EngineName, HubSource, OllamaSource, PackageSource, Recipe
from services.engines.rendering.llamacpp import render_llamacpp
from services.engines.rendering.ollama import render_ollama
from services.engines.rendering.order import CLOUD_PORT, CLOUDS, Order, Rendered, RenderError, Target
from services.engines.rendering.sglang import render_sglang
from services.engines.rendering.trtllm import render_trtllm
from services.engines.rendering.vllm import render_vllm
from services.engines.threads import Threads

__all__ = ["PORTS", "RenderError", "Rendered", "Target", "model_in_container", "render", "targets"]

PORTS: dict[EngineName, int] = {"llamacpp": 8080, "vllm": 8020, "sglang": 30000, "trtllm": 8355, "ollama": 11434}
"""Where each engine listens, unless told otherwise."""

_RENDERERS: dict[EngineName, Callable[[Order], Rendered]] = {
    "llamacpp": render_llamacpp,
    "vllm": render_vllm,
    "sglang": render_sglang,
    "trtllm": render_trtllm,
    "ollama": render_ollama,
}
_AS_PROCESSES = ("llamacpp", "vllm", "sglang")


def render(
    recipe: Recipe,
    engine: EngineName,
    target: Target,
    *,
    port: int,
    model: str,
    host: str = "127.0.0.1",
    served_name: str | None = None,
    context_tokens: int | None = None,
    sequences: int | None = None,
    threads: Threads | None = None,
) -> Rendered:
    """Return how an engine is started for a recipe at a target.

    Args:
        model: path or hub id, as the engine is told to load it.
        host: that a process binds; in a container it is every interface, whose network is the container's own.
        served_name: the model's name in the engine's API; the recipe's id where None.
        context_tokens: of one request; the recipe's where None. So `sequences`.
        threads: of llama.cpp on a CPU; its own choice where None.

    Raises:
        RenderError: an option that the engine doesn't know, a value of the wrong type, a fact that the recipe lacks, or
            a target that the engine can't run at. The message names it and what to do.
    """
    if engine not in recipe.engines:
        raise RenderError(f"{recipe.id} has no recipe for the engine {engine!r}; it has: {', '.join(recipe.engines)}")
    if target not in get_args(Target):
        raise RenderError(f"there is no target {target!r}; there are: {', '.join(get_args(Target))}")
    arguments = recipe.engines[engine]
    order = Order(
        recipe=recipe,
        arguments=arguments,
        engine=engine,
        target=target,
        port=port,
        model=model,
        host=host if target == "process" else "0.0.0.0",  # noqa: S104 (a container's own network)
        served_name=served_name or recipe.id,
        context_tokens=context_tokens or arguments.context_tokens,
        sequences=sequences or arguments.sequences,
        threads=threads,
    )
    order.check()
    return _RENDERERS[engine](order)


def targets(recipe: Recipe, engine: EngineName) -> tuple[Target, ...]:
    """Return the targets that make sense for a recipe on an engine.

    As processes run the engines of a machine without a GPU: with one, an engine's image brings the CUDA libraries that
    it was built with. The clouds get vLLM alone: SageMaker's calls (`/ping`, `/invocations`) and Vertex's are its own.
    """
    arguments = recipe.engines[engine]
    found: list[Target] = []
    if engine in _AS_PROCESSES and arguments.device != "gpu":
        found.append("process")
    if arguments.image:
        found += ["compose", "kubernetes"]
        if engine == "vllm" and arguments.device == "gpu":
            found += CLOUDS
    return tuple(found)


def model_in_container(recipe: Recipe) -> str:
    """Return what an engine in a container is told to load.

    A hub's repository by its name, which the mounted cache resolves; a single file under `/models`.
    """
    source = recipe.source
    if isinstance(source, OllamaSource):
        return source.model
    if isinstance(source, HubSource):
        if recipe.format == "safetensors":
            return source.repository
        return f"/models/{source.files[0] if source.files else recipe.id + '.gguf'}"
    if isinstance(source, PackageSource):
        return f"/models/{source.file.rpartition('/')[2]}"
    return f"/models/{recipe.id}"


def port_at(target: Target, engine: EngineName) -> int:
    """Return where an engine listens at a target unless told otherwise; clouds prescribe it."""
    return CLOUD_PORT if target in CLOUDS else PORTS[engine]

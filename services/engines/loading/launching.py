"""From an offer to what a runtime starts."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from services.engines.offers import Offer, engine_python, whole_number
from services.engines.rendering import RenderError, render
from services.engines.runtimes import EngineStartError, LaunchSpec
from services.engines.threads import Threads, default_threads

_KEY_VARIABLES = {"llamacpp": "ENGINE_API_KEY", "vllm": "VLLM_API_KEY"}
"""Engines that read their key from the environment: a process list shows arguments to everyone."""


def launch_spec(
    offer: Offer, model: Path, port: int, api_key: str, variables: Mapping[str, str] = os.environ
) -> tuple[LaunchSpec, str, str]:
    """Return what the runtime starts, the path that tells whether it is well, and a digest of the command line.

    Raises:
        EngineStartError: the recipe does not say what the engine needs, or the engine isn't installed.
    """
    python = engine_python(offer.engine, variables)
    if python is None:
        raise EngineStartError(f"{offer.engine} is not installed here; see docs/engine-matrix.md")
    try:
        rendered = render(
            offer.recipe,
            offer.engine,
            "process",
            port=port,
            model=str(model),
            served_name=offer.id,
            context_tokens=offer.arguments.context_tokens,
            sequences=offer.arguments.sequences,
            threads=threads_for(variables) if offer.engine == "llamacpp" else None,
        )
    except RenderError as error:
        raise EngineStartError(str(error)) from None
    command = (str(python), *rendered.command)
    key = {_KEY_VARIABLES[offer.engine]: api_key} if offer.engine in _KEY_VARIABLES else {}
    spec = LaunchSpec(
        name=f"{offer.engine}-{offer.recipe.id}",
        model_id=offer.id,
        engine=offer.engine,
        command=command,
        port=port,
        environment={**rendered.environment, **key},
        gpu=rendered.gpu,
    )
    without_port = [word for word in command if word != str(port)]
    digest = hashlib.sha256(json.dumps([without_port, rendered.environment], sort_keys=True).encode()).hexdigest()
    return spec, rendered.health_path, digest[:16]


def threads_for(variables: Mapping[str, str]) -> Threads:
    """Return llama.cpp's threads: `LLAMACPP_THREADS` and `LLAMACPP_THREADS_BATCH` win over what suits the machine.

    Raises:
        OfferError: one is no number.
    """
    default = default_threads()
    return Threads(
        whole_number(variables, "LLAMACPP_THREADS", default.decode, 1),
        whole_number(variables, "LLAMACPP_THREADS_BATCH", default.batch, 1),
    )

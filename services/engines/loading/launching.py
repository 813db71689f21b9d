"""From an offer to what a runtime starts, as a process of this machine."""

import hashlib
import json
import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from services.engines.files.store import ModelStore
from services.engines.loading.ports import free_port
from services.engines.offers import Offer, engine_python, offers_here, whole_number
from services.engines.recipes import Recipe
from services.engines.rendering import RenderError, render
from services.engines.runtimes import EngineStartError, LaunchSpec
from services.engines.threads import Threads, default_threads

_KEY_VARIABLES = {"llamacpp": "ENGINE_API_KEY", "vllm": "VLLM_API_KEY"}
"""Engines that read their key from the environment: a process list shows arguments to everyone."""


@dataclass(frozen=True)
class Launch:
    """One engine about to be started.

    Args:
        url: where it will answer.
        upstream_id: its own name of its model.
        digest: of all that it is started with, but for its place and its key.
    """

    spec: LaunchSpec
    url: str
    api_key: str
    upstream_id: str
    health_path: str
    digest: str


class Launcher(Protocol):
    """What can be started here, and how. Both methods read files; `launch` may copy one."""

    def offers(self, recipes: Iterable[Recipe]) -> list[Offer]:
        """Return what can be served, in the recipes' order.

        Raises:
            OfferError: a variable is wrong.
        """

    def launch(self, offer: Offer, *, port: int | None = None, api_key: str | None = None) -> Launch:
        """Return how an offer is started.

        Args:
            port: the one that an engine has already; a free one where None. So `api_key`.

        Raises:
            RecipeError: the model's files are not here.
            EngineStartError: the engine isn't.
        """


class ProcessLauncher:
    """Engines as processes of this machine, each on a port of its own and with a key that is made for it."""

    def __init__(self, store: ModelStore, variables: Mapping[str, str] = os.environ) -> None:
        self._store = store
        self._variables = variables

    def offers(self, recipes: Iterable[Recipe]) -> list[Offer]:
        """Return what the installed engines can serve.

        Raises:
            OfferError
        """
        return offers_here(recipes, self._variables)

    def launch(self, offer: Offer, *, port: int | None = None, api_key: str | None = None) -> Launch:
        """Return how an offer is started.

        Raises:
            RecipeError, EngineStartError
        """
        path = self._store.path_of(offer.recipe)
        key = secrets.token_urlsafe(24) if api_key is None else api_key
        place = free_port(offer.engine) if port is None else port
        spec, health_path, digest = launch_spec(offer, path, place, key, self._variables)
        return Launch(spec, f"http://127.0.0.1:{place}", key, offer.id, health_path, digest)


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
    return spec, rendered.health_path, digest_of([without_port, rendered.environment])


def digest_of(document: object) -> str:
    """Return a short digest of what json can write."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]


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

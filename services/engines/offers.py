"""What this stack can serve here: which model on which engine, under which name, with what arguments.

A recipe is offered when one of its engines runs on this machine. Its first such engine gets the recipe's id, any
further one `id@engine`.
"""

import importlib.util
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import services
from services.engines.admission import Need
from services.engines.planning.machines import Machine
from services.engines.planning.memory import ModelPlan, plan_model
from services.engines.recipes import EngineArguments, EngineName, OllamaSource, PackageSource, Recipe, RecipeError

_ROOT = Path(services.__file__).resolve().parents[1]
_STAMP = ".sparkstack-stamp"


class OfferError(Exception):
    """A variable does not let a model be served; the message says what to do."""


@dataclass(frozen=True)
class Offer:
    """A model on one engine.

    Args:
        id: its public name.
        arguments: the recipe's, with what the environment changes.
    """

    id: str
    recipe: Recipe
    engine: EngineName
    arguments: EngineArguments

    def plan(self, machine: Machine) -> ModelPlan:
        """Return what it will take, and how fast it can be."""
        arguments = self.arguments
        context, sequences = arguments.context_tokens, arguments.sequences
        return plan_model(self.recipe, self.engine, machine, context_tokens=context, sequences=sequences)

    def need(self, machine: Machine) -> Need:
        """Return what it will take."""
        planned = self.plan(machine)
        return Need(planned.held_bytes, planned.transient_bytes)

    def facts(self, aliases: Iterable[str]) -> dict[str, Any]:
        """Return what the gateway's catalogue says of it."""
        recipe = self.recipe
        source = recipe.source
        size = source.size_bytes if isinstance(source, PackageSource) else recipe.memory.weight_bytes
        return {
            "id": self.id,
            "aliases": list(aliases),
            "capabilities": list(recipe.capabilities),
            "context_tokens": self.arguments.context_tokens,
            "size_bytes": size,
            "parameters": recipe.parameters,
            "quantization": recipe.quantization,
            "family": recipe.family,
            "format": recipe.format,
            "licence": recipe.licence,
            "digest": f"sha256:{source.sha256}" if isinstance(source, PackageSource) else None,
            "created": 0,
        }


def engine_python(engine: EngineName, variables: Mapping[str, str] = os.environ) -> Path | None:
    """Return the interpreter that runs an engine as a process here; None where the engine isn't installed.

    `ENGINES_VLLM_PYTHON` and `ENGINES_SGLANG_PYTHON` name one of the user's own.
    """
    if engine == "llamacpp":
        return Path(sys.executable) if importlib.util.find_spec("xllamacpp") else None
    if engine not in ("vllm", "sglang"):
        return None
    named = variables.get(f"ENGINES_{engine.upper()}_PYTHON", "").strip()
    if named:
        return Path(named)
    folder = _ROOT / ".venvs" / f"{engine}-cpu"
    return folder / "bin" / "python" if (folder / _STAMP).is_file() else None


def offers_here(recipes: Iterable[Recipe], variables: Mapping[str, str] = os.environ) -> list[Offer]:
    """Return what can be served by processes of this machine, in the recipes' order.

    Args:
        variables: `LLAMACPP_SLOTS` and `LLAMACPP_CONTEXT` (tokens a slot) win over every recipe of llama.cpp's.

    Raises:
        OfferError: a variable is wrong.
    """
    found = []
    for recipe in recipes:
        if isinstance(recipe.source, OllamaSource):
            continue
        names = [name for name, arguments in recipe.engines.items() if arguments.device != "gpu"]
        here = [name for name in names if engine_python(name, variables) is not None]
        for place, name in enumerate(here):
            public = recipe.id if place == 0 else f"{recipe.id}@{name}"
            arguments = recipe.engines[name]
            if name == "llamacpp":
                arguments = _changed(public, recipe, arguments, variables)
            found.append(Offer(public, recipe, name, arguments))
    return found


def find_offer(name: str, offers: Iterable[Offer]) -> Offer:
    """Return the offer of an id, an alias, or either with `@engine`.

    Raises:
        RecipeError: naming what there is.
    """
    known = list(offers)
    wanted, _, engine = name.partition("@")
    for offer in known:
        if wanted in (offer.recipe.id, *offer.recipe.aliases) and engine in ("", offer.engine):
            return offer
    here = ", ".join(offer.id for offer in known) or "nothing"
    raise RecipeError(
        f"{name!r} can't be served here; what can: {here}. `sparkstack models --all` says what others need"
    )


def _changed(public: str, recipe: Recipe, arguments: EngineArguments, variables: Mapping[str, str]) -> EngineArguments:
    context = whole_number(variables, "LLAMACPP_CONTEXT", arguments.context_tokens, 256)
    if context > recipe.context_tokens:
        if context != arguments.context_tokens and _is_set(variables, "LLAMACPP_CONTEXT"):
            raise OfferError(
                f"LLAMACPP_CONTEXT={context}: {public} was trained for {recipe.context_tokens}; set that or less"
            )
        context = recipe.context_tokens
    slots = whole_number(variables, "LLAMACPP_SLOTS", arguments.sequences, 1)
    return arguments.model_copy(update={"context_tokens": context, "sequences": slots})


def _is_set(variables: Mapping[str, str], name: str) -> bool:
    return bool(variables.get(name, "").strip())


def whole_number(variables: Mapping[str, str], name: str, default: int, lowest: int) -> int:
    """Return a variable's number.

    Raises:
        OfferError: it is none, or too low.
    """
    text = variables.get(name, "").strip()
    if not text:
        return default
    if not text.isdecimal() or int(text) < lowest:
        raise OfferError(f"{name}={text}: it must be a whole number of {lowest} or more")
    return int(text)

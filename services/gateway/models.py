"""What clients and the page are told of each model, and the routes that load and unload one."""

from typing import Any

from msgspec import structs

from services.gateway.catalogue import Entry, ModelFacts, Target
from services.gateway.control import ManagedModel
from services.gateway.door import Door
from services.kit.asgi import Scope, header
from services.kit.errors import UnsupportedParameter

OWNED_BY = "sparkstack"
CAPABILITY = b"x-sparkstack-capability"
_LOADING = ("reason", "pinned", "need_bytes", "held_bytes", "queue_position", "eta_s", "expires_at", "on_gpu")
"""What is known only of models that are loaded on demand."""


def wanted(door: Door, scope: Scope) -> list[Entry]:
    """Return the models for a list: all, or those that can do what `X-Sparkstack-Capability` names.

    Chat pages would offer models that only make vectors. What nobody described may be able to do it.
    """
    return [entry for entry in door.catalogue.entries() if _can(entry, scope)]


def wanted_names(door: Door, scope: Scope) -> list[tuple[str, Entry]]:
    """Return the promoted names for such a list, each with what it stands for."""
    return [(name, entry) for name, entry in door.catalogue.promoted_entries() if _can(entry, scope)]


def _can(entry: Entry, scope: Scope) -> bool:
    capability = (header(scope, CAPABILITY) or b"").decode("latin-1")
    known = entry.target.facts.capabilities
    return not capability or not known or capability in known


def listed(door: Door, entry: Entry) -> dict[str, Any]:
    """Return one model of `/v1/models`; `sparkstack` holds what OpenAI's form has no field for."""
    target = entry.target
    facts = target.facts
    own: dict[str, Any] = {
        "state": door.state(target),
        "backend": target.backend,
        "aliases": list(entry.aliases),
        "capabilities": list(facts.capabilities),
        "context_tokens": facts.context_tokens,
        **_described(facts),
    }
    known = managed(door, target)
    if known is not None:
        own["engine"] = known.engine
        own.update(_residency(known))
    return {
        "id": target.public_id,
        "object": "model",
        "created": facts.created,
        "owned_by": OWNED_BY,
        "sparkstack": own,
    }


def listed_as(door: Door, name: str, entry: Entry) -> dict[str, Any]:
    """Return one more line of `/v1/models`: a model under a name that was given to it by promotion."""
    line = listed(door, entry)
    return {**line, "id": name, "sparkstack": {**line["sparkstack"], "stands_for": line["id"]}}


def shown(door: Door, entry: Entry) -> dict[str, Any]:
    """Return one model of `/status`."""
    target = entry.target
    facts = target.facts
    known = managed(door, target)
    return {
        "id": target.public_id,
        "state": door.state(target),
        "backend": target.backend,
        "engine": door.backends[target.backend].engine if known is None else known.engine,
        "managed": known is not None,
        "aliases": list(entry.aliases),
        "capabilities": list(facts.capabilities),
        "context_tokens": facts.context_tokens,
        **_described(facts),
        "size_bytes": facts.size_bytes,
        "parameters": facts.parameters,
        "quantization": facts.quantization,
        "requests_in_flight": door.live.in_flight(target.public_id),
        **({} if known is None else _residency(known)),
    }


def capabilities(door: Door) -> dict[str, list[str]]:
    """Return what each backend's models can do together, as far as it is known."""
    found: dict[str, dict[str, None]] = {}
    for entry in door.catalogue.entries():
        found.setdefault(entry.target.backend, {}).update(dict.fromkeys(entry.target.facts.capabilities))
    return {backend: list(words) for backend, words in found.items()}


def _described(facts: ModelFacts) -> dict[str, Any]:
    """Return what few models have, where they have it."""
    found = {
        "dimensions": facts.dimensions,
        "family": facts.family,
        "licence": facts.licence,
        "digest": facts.digest,
    }
    return {name: value for name, value in found.items() if value}


def managed(door: Door, target: Target) -> ManagedModel | None:
    """Return what the engines service last said of a model; None for one that it does not load."""
    return door.managed[target.upstream_id] if target.managed and door.managed is not None else None


def loadable(name: str, target: Target) -> str:
    """Return the id by which the engines service knows a model.

    Raises:
        UnsupportedParameter: another server has it, which loads what it likes.
    """
    if not target.managed:
        raise UnsupportedParameter(
            f"{name} is served by {target.backend}, which decides by itself what it loads; only models of the engines "
            "service are loaded and unloaded here",
            param="model",
        )
    return target.upstream_id


def _residency(known: ManagedModel) -> dict[str, Any]:
    fields = structs.asdict(known)
    return {name: fields[name] for name in _LOADING}

"""What Ollama's clients are told of models: lists, details, what is loaded."""

import datetime
import hashlib
from typing import Any

from services.gateway.catalogue import Entry, ModelFacts, Target
from services.gateway.control import ManagedModel

API_VERSION = "0.32.15"
"""The version of Ollama whose API this is; clients ask before they use newer fields."""

_FOREVER = "2318-01-01T00:00:00Z"
"""What Ollama itself says of a model that is kept for good."""


def listed(entry: Entry) -> dict[str, Any]:
    """Return one model of `/api/tags`."""
    facts = entry.target.facts
    return {
        "name": entry.target.public_id,
        "model": entry.target.public_id,
        "modified_at": _time(facts.created),
        "size": facts.size_bytes or 0,
        "digest": digest(entry.target),
        "details": details(facts),
    }


def listed_as(name: str, entry: Entry) -> dict[str, Any]:
    """Return one more line of `/api/tags`: a model under a name that was given to it by promotion."""
    return {**listed(entry), "name": name, "model": name}


def running(entry: Entry, managed: ManagedModel | None) -> dict[str, Any]:
    """Return one model of `/api/ps`; of models that the engines service has not loaded little is known.

    A model that is in use, or pinned, has no end.
    """
    facts = entry.target.facts
    held = managed.held_bytes or 0 if managed is not None else 0
    ends = managed.expires_at if managed is not None else None
    return {
        **{key: value for key, value in listed(entry).items() if key != "modified_at"},
        "size": held or facts.size_bytes or 0,
        "expires_at": _FOREVER if ends is None else _time(ends),
        "size_vram": held if managed is not None and managed.on_gpu else 0,
        "context_length": facts.context_tokens or 0,
    }


def shown(target: Target) -> dict[str, Any]:
    """Return the answer of `/api/show`."""
    facts = target.facts
    family = facts.family or "unknown"
    return {
        "modelfile": f"# served by {target.backend} as {target.upstream_id}\nFROM {target.public_id}\n",
        "parameters": "",
        "template": "",
        "license": facts.licence or "",
        "details": details(facts),
        "model_info": {
            "general.architecture": family,
            "general.basename": target.public_id,
            "general.parameter_count": facts.parameters or 0,
            f"{family}.context_length": facts.context_tokens or 0,
            **({f"{family}.embedding_length": facts.dimensions} if facts.dimensions else {}),
        },
        "capabilities": capabilities(facts),
        "modified_at": _time(facts.created),
    }


def capabilities(facts: ModelFacts) -> list[str]:
    """Return the capabilities in Ollama's words; what nobody described can at least complete."""
    words = {
        "chat": "completion",
        "completion": "completion",
        "embeddings": "embedding",
        "reasoning": "thinking",
    }
    found = [words.get(name, name) for name in facts.capabilities]
    return list(dict.fromkeys(found)) or ["completion"]


def details(facts: ModelFacts) -> dict[str, Any]:
    """Return a model's `details`."""
    return {
        "parent_model": "",
        "format": facts.format or "",
        "family": facts.family or "",
        "families": [facts.family] if facts.family else [],
        "parameter_size": _size_label(facts.parameters),
        "quantization_level": facts.quantization or "",
    }


def digest(target: Target) -> str:
    """Return the file's sha256, or a stable stand-in made of the names where the engine has none to tell."""
    known = (target.facts.digest or "").removeprefix("sha256:")
    return known or hashlib.sha256(f"{target.backend}/{target.upstream_id}".encode()).hexdigest()


def _size_label(parameters: int | None) -> str:
    if not parameters:
        return ""
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if parameters >= size:
            return f"{parameters / size:.4g}{unit}"
    return str(parameters)


def _time(unix_s: float) -> str:
    return datetime.datetime.fromtimestamp(unix_s, datetime.UTC).isoformat().replace("+00:00", "Z")

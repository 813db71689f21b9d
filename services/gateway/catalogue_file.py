"""`catalogue.json`: what is behind the gateway, known before anything there has answered.

    {"backends": [{"name", "url", "engine", "models": [facts]}], "managed": [facts], "default": "<id>"}

`managed` are the models that the engines service loads on demand.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.gateway.catalogue import ModelFacts, facts_from_document
from services.gateway.settings import GatewaySettings, backend_url
from services.kit.settings import SettingsError


@dataclass(frozen=True)
class ListedBackend:
    """A server that is there whether the gateway runs or not, with the models that it is known to have."""

    name: str
    url: str
    engine: str = "openai"
    models: tuple[ModelFacts, ...] = ()


@dataclass(frozen=True)
class Listed:
    """What the settings and the file name."""

    backends: tuple[ListedBackend, ...] = ()
    managed: tuple[ModelFacts, ...] = field(default=())
    default: str = ""


def read_catalogue(settings: GatewaySettings) -> Listed:
    """Return the backends of the catalogue file, then those of the settings; and the models loaded on demand.

    Raises:
        SettingsError: a file that can't be read, or is none.
    """
    backends: dict[str, ListedBackend] = {}
    managed: tuple[ModelFacts, ...] = ()
    default = ""
    if settings.catalogue is not None:
        document = _load(settings.catalogue)
        try:
            backends = {item["name"]: _backend(item) for item in document["backends"]}
            managed = tuple(facts_from_document(model) for model in document.get("managed", ()))
            default = document.get("default") or ""
        except (KeyError, TypeError, ValueError) as error:
            raise SettingsError(f"GATEWAY_CATALOGUE={settings.catalogue}: not a catalogue: {error!r}") from None
    for name, url in settings.backends.items():
        backends.pop(name, None)
        backends[name] = ListedBackend(name, url)
    return Listed(tuple(backends.values()), managed, default)


def _backend(item: Mapping[str, Any]) -> ListedBackend:
    models = tuple(facts_from_document(model) for model in item.get("models", ()))
    return ListedBackend(item["name"], backend_url(item["name"], item["url"]), item.get("engine", "openai"), models)


def _load(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SettingsError(f"GATEWAY_CATALOGUE={path}: {error}; `make up` writes it anew") from None
    return document

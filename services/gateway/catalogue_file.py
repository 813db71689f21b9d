"""`catalogue.json`: what is behind the gateway, known before anything there has answered.

    {"backends": [{"name", "url", "engine", "models": [facts], "paths": ["/v1/files"]}],
     "managed": [facts], "default": "<id>"}

`managed` are the models that the engines service loads on demand. `engine` is `sparkstack` for the stack's own
services, which are shown the key and the caller's name. `paths` are passed on to a backend as they come, with all
that is below them.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.gateway.catalogue import ModelFacts, facts_from_document
from services.gateway.settings import GatewaySettings, backend_url
from services.kit.settings import SettingsError

_PATH = re.compile(r"/v1(/[A-Za-z0-9_\-]+)+")


@dataclass(frozen=True)
class ListedBackend:
    """A server that is there whether the gateway runs or not, with the models that it is known to have."""

    name: str
    url: str
    engine: str = "openai"
    models: tuple[ModelFacts, ...] = ()
    paths: tuple[str, ...] = ()


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
    paths = tuple(item.get("paths", ()))
    for path in paths:
        if not _PATH.fullmatch(path):
            raise ValueError(f"{path!r} of {item['name']} is not a path such as /v1/files")
    url = backend_url(item["name"], item["url"])
    return ListedBackend(item["name"], url, item.get("engine", "openai"), models, paths)


def _load(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SettingsError(f"GATEWAY_CATALOGUE={path}: {error}; `make up` writes it anew") from None
    return document

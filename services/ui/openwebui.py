"""What Open WebUI is given to run with: the settings in openwebui.env, where things are here, and its secrets."""

import json
import secrets
from collections.abc import Mapping
from pathlib import Path

from dotenv import dotenv_values

from services.kit.files import write_private
from services.ui.settings import OpenWebuiSettings

SETTINGS_FILE = Path(__file__).with_name("openwebui.env")
_KEY = "@KEY@"
# The stack's own, which are no business of a page; those of RAG would even be taken for Open WebUI's own.
_KEPT_BACK = ("SPARKSTACK_", "GATEWAY_", "ENGINES_", "EMBEDDINGS_", "RAG_", "TRACKING_", "OPENWEBUI_", "HF_TOKEN")
_LOCAL = ("127.0.0.1", "localhost", "::1")


def environment(settings: OpenWebuiSettings, variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of its process: those around it, the file's, and what depends on the place.

    A variable that is set around it wins over the file; what depends on the place wins over both.
    """
    file = file_settings()
    around = {name: value for name, value in variables.items() if not name.startswith(_KEPT_BACK)}
    return {**file, **around, **_placed(settings, {**file, **around}), **_proxies(variables)}


def file_settings() -> dict[str, str]:
    """Return what the file sets."""
    return {name: value or "" for name, value in dotenv_values(SETTINGS_FILE, interpolate=False).items()}


def session_key(folder: Path) -> str:
    """Return what its sessions are signed with; made on the first start."""
    path = folder / "session.key"
    if not path.is_file():
        write_private(path, secrets.token_urlsafe(32) + "\n")
    return path.read_text(encoding="ascii").strip()


def _placed(settings: OpenWebuiSettings, given: Mapping[str, str]) -> dict[str, str]:
    gateway, key, folder = settings.gateway, settings.key, settings.folder
    placed = {
        "OPENAI_API_BASE_URLS": f"{gateway}/v1",
        "OPENAI_API_KEYS": key,
        "OLLAMA_BASE_URLS": gateway,
        "OLLAMA_API_CONFIGS": given["OLLAMA_API_CONFIGS"].replace(_KEY, json.dumps(key)[1:-1]),
        "RAG_OPENAI_API_BASE_URL": f"{gateway}/v1",
        "RAG_OPENAI_API_KEY": key,
        "RAG_EXTERNAL_RERANKER_URL": f"{gateway}/v1/rerank",
        "RAG_EXTERNAL_RERANKER_API_KEY": key,
        "DATA_DIR": str(folder),
        "WEBUI_SECRET_KEY": session_key(folder),
        "FORWARD_USER_INFO_HEADER_JWT_SECRET": settings.shared_secret,
        "CORS_ALLOW_ORIGIN": ";".join(settings.origins),
        "WEBUI_URL": settings.url or settings.origins[0],
    }
    if not settings.shared_secret:  # plain names would travel, and nobody believes them
        placed["ENABLE_FORWARD_USER_INFO_HEADERS"] = "False"
    if settings.url.startswith("https:"):
        placed |= {"WEBUI_SESSION_COOKIE_SECURE": "True", "WEBUI_AUTH_COOKIE_SECURE": "True"}
    if settings.task_model:
        placed |= {"TASK_MODEL_EXTERNAL": settings.task_model, "TASK_MODEL": f"ollama.{settings.task_model}"}
    return placed


def _proxies(variables: Mapping[str, str]) -> dict[str, str]:
    """Return what keeps a proxy of the environment out of the way to this machine's own gateway."""
    named = [part for name in ("NO_PROXY", "no_proxy") for part in variables.get(name, "").split(",") if part.strip()]
    value = ",".join(dict.fromkeys([*(part.strip() for part in named), *_LOCAL]))
    return {"NO_PROXY": value, "no_proxy": value}

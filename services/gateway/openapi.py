"""The OpenAPI document: FastAPI's own, completed by the raw routes, which it can't see."""

import re
from collections.abc import Iterable
from typing import Any

import msgspec
from fastapi import FastAPI

from services.gateway.generate import HOT_ROUTES
from services.gateway.ollama import requests as ollama
from services.gateway.ollama.routes import OLLAMA_ROUTES
from services.gateway.passage import METHODS
from services.kit import openai

_TEMPLATE = "#/components/schemas/{name}"
_REQUESTS: dict[str, type[msgspec.Struct]] = {
    "/v1/chat/completions": openai.ChatCompletionRequest,
    "/v1/completions": openai.CompletionRequest,
    "/v1/embeddings": openai.EmbeddingRequest,
    "/v1/rerank": openai.RerankRequest,
    "/v2/rerank": openai.RerankRequest,
    "/api/chat": ollama.ChatRequest,
    "/api/generate": ollama.GenerateRequest,
    "/api/embed": ollama.EmbedRequest,
    "/api/embeddings": ollama.LegacyEmbedRequest,
    "/api/show": ollama.ShowRequest,
    "/api/pull": ollama.PullRequest,
    "/api/delete": ollama.DeleteRequest,
}
_EVENT_STREAM: dict[str, Any] = {
    "text/event-stream": {
        "schema": {
            "description": "Of each event. Its data is a chunk as JSON, or an error; the last one's is [DONE].",
            "type": "object",
            "required": ["data"],
            "properties": {"data": {"type": "string"}},
        }
    }
}
_LINES: dict[str, Any] = {
    "application/x-ndjson": {"schema": {"type": "string", "description": "A JSON object a line; the last is done."}}
}
_STREAMS = {
    "/v1/chat/completions": _EVENT_STREAM,
    "/v1/completions": _EVENT_STREAM,
    "/api/chat": _LINES,
    "/api/generate": _LINES,
    "/api/pull": _LINES,
}
_ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}
_OLLAMA_ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}},
}


def add_openapi(app: FastAPI, passages: Iterable[tuple[str, str]] = ()) -> None:
    """Make `/openapi.json` tell of every route, its errors and how callers are identified.

    Args:
        passages: paths that are passed on, with the backend's name.
    """
    original = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = original()
            _complete(document, passages)
            app.openapi_schema = document
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _complete(document: dict[str, Any], passages: Iterable[tuple[str, str]]) -> None:
    _, schemas = msgspec.json.schema_components(list(_REQUESTS.values()), ref_template=_TEMPLATE)
    components = document.setdefault("components", {})
    components["schemas"] = {
        **{name: schema for name, schema in components.get("schemas", {}).items() if "Validation" not in name},
        **schemas,
        "Error": _ERROR_SCHEMA,
        "OllamaError": _OLLAMA_ERROR_SCHEMA,
    }
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    for kind in HOT_ROUTES:
        document["paths"][kind.path] = {"post": _operation(kind, "openai", "Error")}
    for route in OLLAMA_ROUTES:
        document["paths"].setdefault(route.path, {})[route.method.lower()] = _operation(route, "ollama", "OllamaError")
    for path, backend in passages:
        for template in (path, f"{path}/{{rest}}"):
            document["paths"][template] = _passage(template, backend)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            _finish(operation, path)


def _operation(kind: Any, tag: str, error: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"type": "object"}}, **_STREAMS.get(kind.path, {})}
    summary = (kind.__doc__ or "").partition(": ")[2]
    operation: dict[str, Any] = {
        "tags": [tag],
        "summary": summary[:1].upper() + summary[1:],
        "operationId": f"{kind.method.lower()}{kind.path.replace('/', '_')}",
        "responses": {"200": {"description": "The answer", "content": content}},
        "x-error": error,
    }
    if kind.path in _REQUESTS:
        schema = {"$ref": _TEMPLATE.format(name=_REQUESTS[kind.path].__name__)}
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return operation


def _passage(path: str, backend: str) -> dict[str, Any]:
    """Return the operations of a path that a service answers; its own document says what it takes and gives."""
    rest = {"name": "rest", "in": "path", "required": True, "schema": {"type": "string"}}
    return {
        method.lower(): {
            "tags": [backend],
            "summary": f"Passed on to {backend}, body and answer as they come",
            "operationId": f"{method.lower()}{re.sub(r'[^a-z0-9]+', '_', path)}",
            **({"parameters": [rest]} if "{rest}" in path else {}),
            "responses": {"default": {}},
        }
        for method in METHODS
        if method != "HEAD"
    }


def _finish(operation: dict[str, Any], path: str) -> None:
    error = operation.pop("x-error", "Error")
    responses = operation["responses"]
    responses.pop("422", None)
    responses["default"] = {
        "description": "An error: docs/errors.md lists them",
        "content": {"application/json": {"schema": {"$ref": _TEMPLATE.format(name=error)}}},
    }
    if path.startswith(("/v1", "/v2", "/api", "/status")):
        operation["security"] = [{"key": []}]

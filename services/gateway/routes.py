"""The routes that are not hot: models, status and the page."""

import asyncio
import time
from pathlib import Path
from typing import Any

import psutil
from fastapi import APIRouter, Depends, Request
from fastapi.responses import FileResponse, Response
from pydantic import BaseModel

from services import __version__
from services.gateway import models
from services.gateway.catalogue import DEFAULT_ALIAS, ENGINES
from services.gateway.door import Door
from services.gateway.exchange import Exchange
from services.kit.asgi import Scope
from services.kit.errors import ModelNotPulled, NotFound

_PAGE = Path(__file__).parent / "page"
_PAGE_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_PAGE_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-cache",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def door_of(request: Request) -> Door:
    """Return the gateway's door."""
    door: Door = request.app.state.door
    return door


async def identify(request: Request) -> str:
    """Return the caller's name; a dependency of every keyed route.

    Raises:
        InvalidApiKey, PermissionDenied
    """
    return door_of(request).keys.identify(request.scope)  # type: ignore[arg-type]


public = APIRouter()
keyed = APIRouter(dependencies=[Depends(identify)])


@keyed.get("/v1/models", tags=["openai"], summary="Every model, at once, with its state")
async def list_models(request: Request) -> dict[str, Any]:
    """Answers from memory whatever is broken behind it; `sparkstack` holds what OpenAI's form has no field for."""
    door = door_of(request)
    scope: Scope = request.scope  # type: ignore[assignment]
    found = [models.listed(door, entry) for entry in models.wanted(door, scope)]
    found += [models.listed_as(door, name, entry) for name, entry in models.wanted_names(door, scope)]
    return {"object": "list", "data": found}


class LoadRequest(BaseModel):
    """`pin`: it is not unloaded for another model (null: as it is); `wait`: the answer comes when it is loaded."""

    pin: bool | None = None
    wait: bool = False


class UnloadRequest(BaseModel):
    """`force`: at once, also where requests are in flight."""

    force: bool = False


# Before the route of one model, whose path has room for theirs: a wrong method is told the right one.
@keyed.post("/v1/models/{model:path}/load", tags=["stack"], summary="Load a model, and keep it loaded")
async def load_model(request: Request, model: str, asked: LoadRequest | None = None) -> dict[str, Any]:
    """Of models that the engines service loads; answers with what that service says."""
    door = door_of(request)
    asked = asked or LoadRequest()
    name = models.loadable(model, await door.resolve(model))
    engines = door.engines()
    answer = await engines.service.load(name, pin=asked.pin, wait=asked.wait)
    await engines.look_again(at_once=True)
    return answer


@keyed.post("/v1/models/{model:path}/unload", tags=["stack"], summary="Unload a model when nobody uses it")
async def unload_model(request: Request, model: str, asked: UnloadRequest | None = None) -> dict[str, Any]:
    """Of models that the engines service loads; answers with what that service says."""
    door = door_of(request)
    asked = asked or UnloadRequest()
    name = models.loadable(model, await door.resolve(model))
    return await door.unload(name, force=asked.force)


@keyed.get("/v1/models/{model:path}", tags=["openai"], summary="One model, by id or alias")
async def get_model(request: Request, model: str) -> dict[str, Any]:
    """Answers with the model's own id, also where an alias was asked for."""
    door = door_of(request)
    target = await door.find(model)
    for entry in door.catalogue.entries():
        if entry.target is target:
            return models.listed(door, entry)
    raise ModelNotPulled(
        f"{model} is not on this machine; `sparkstack pull {target.upstream_id}` gets it", param="model"
    )


@keyed.get("/status", tags=["stack"], summary="Models, memory, live requests and rates: what the page shows")
async def status(request: Request) -> dict[str, Any]:
    """Figures of this moment; rates are over the last ten seconds."""
    door = door_of(request)
    memory = await asyncio.to_thread(_memory)  # it reads files of /proc
    requests_per_s, tokens_per_s = door.live.rates()
    totals = door.live.totals
    entries = door.catalogue.entries()
    return {
        "version": __version__,
        "uptime_s": round(time.monotonic() - request.app.state.started_at, 1),
        "ready": "ok" in door.readiness().values(),
        "default_model": next((e.target.public_id for e in entries if DEFAULT_ALIAS in e.aliases), None),
        "models": [models.shown(door, entry) for entry in entries],
        "not_pulled": [] if door.managed is None else [m.id for m in door.managed.all() if m.state == "missing"],
        "backends": _backends(door),
        "links": [{"name": name, "url": url} for name, url in door.settings.links.items()],
        "memory": memory,
        "live": [_exchange(exchange) for exchange in door.live],
        "rates": {"requests_per_s": round(requests_per_s, 2), "tokens_per_s": round(tokens_per_s, 1)},
        "totals": {
            "requests": totals.requests,
            "failed": totals.failed,
            "cancelled": totals.cancelled,
            "prompt_tokens": totals.prompt_tokens,
            "completion_tokens": totals.completion_tokens,
        },
    }


def _memory() -> dict[str, int]:
    memory = psutil.virtual_memory()
    return {
        "total_bytes": memory.total,
        "available_bytes": memory.available,
        "gateway_rss_bytes": psutil.Process().memory_info().rss,
    }


def _backends(door: Door) -> list[dict[str, Any]]:
    able = models.capabilities(door)
    found = [
        {
            "name": b.name,
            "url": b.api.url,
            "state": b.state,
            "message": b.message,
            "engine": b.engine,
            "capabilities": able.get(b.name, []),
        }
        for b in door.backends.all()
    ]
    managed = door.managed
    if managed is not None:
        url = managed.service.url
        engines = {"name": ENGINES, "url": url, "state": managed.state, "message": managed.message, "engine": ENGINES}
        found.insert(0, {**engines, "capabilities": able.get(ENGINES, [])})
    return found


def _exchange(exchange: Exchange) -> dict[str, Any]:
    seconds = time.monotonic() - exchange.started
    per_token_s = exchange.per_token_s
    return {
        "request_id": exchange.request_id,
        "model": exchange.model,
        "operation": exchange.operation,
        "stream": exchange.stream,
        "phase": _phase(exchange),
        "seconds": round(seconds, 2),
        "tokens": exchange.deltas,
        "tokens_per_s": round(1 / per_token_s, 1) if per_token_s else 0.0,
        "client": exchange.client,
    }


def _phase(exchange: Exchange) -> str:
    if exchange.held:
        return "held"
    return "waiting" if exchange.first_token_at is None else "streaming"


@public.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
def page() -> Response:
    """The page; it asks for the key itself. `HEAD` is how Ollama's command line asks whether anybody is there."""
    return _page_file("index.html")


@public.get("/page/{name}", include_in_schema=False)
def page_file(name: str) -> Response:
    """A file of the page."""
    return _page_file(name)


def _page_file(name: str) -> Response:
    path = _PAGE / name
    media_type = _PAGE_TYPES.get(path.suffix)
    if media_type is None or path.parent != _PAGE or not path.is_file():
        raise NotFound(f"the page has no file {name!r}")
    return FileResponse(path, media_type=media_type, headers=_PAGE_HEADERS)

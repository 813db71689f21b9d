"""The control API. Thin: the controller decides, this speaks HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from services.engines.controller import Controller
from services.engines.desk import Granted, Progress
from services.engines.listing import model_documents
from services.engines.planning.kv_cache import KVDtypeError
from services.engines.planning.machines import MachineError
from services.engines.planning.memory import PlanError
from services.engines.planning.named import Wishes, plan_named
from services.engines.recipes import RecipeError
from services.engines.residency import DoesNotFitError, LeaseLapsedError, NotServedError
from services.engines.service import Service
from services.kit.errors import (
    AppError,
    InsufficientMemory,
    InvalidApiKey,
    InvalidRequest,
    LeaseNotFound,
    ModelFailed,
    ModelLoading,
    ModelNotPulled,
    waiting_headers,
)

_SHORTEST_RETRY_S = 1.0


def service_of(request: Request) -> Service:
    """Return the service behind the routes."""
    service: Service = request.app.state.service
    return service


def controller_of(request: Request) -> Controller:
    """Return the controller behind the routes."""
    return service_of(request).controller


async def check_key(request: Request) -> None:
    """Check the caller's key.

    Raises:
        InvalidApiKey
    """
    if not service_of(request).knows(request.headers.get("authorization", "")):
        raise InvalidApiKey("this service starts and stops engines: send `Authorization: Bearer $ENGINES_API_KEY`")


router = APIRouter(dependencies=[Depends(check_key)])


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class LeaseRequest(_Body):
    """Who wants which model; `wait`: hold the answer until it is ready, and tell how far it is."""

    model: str = Field(min_length=1)
    holder: str = Field(min_length=1, max_length=200)
    wait: bool = False


class RenewRequest(_Body):
    """How many requests the holder has under way."""

    in_flight: int = Field(ge=0)


class LostRequest(_Body):
    """Why the holder could not reach the engine."""

    reason: str = Field(max_length=2000)


class LoadRequest(_Body):
    """Pin it (never unloaded for another), and whether the answer waits until it is ready."""

    pin: bool | None = None
    wait: bool = False


class UnloadRequest(_Body):
    """`force`: requests under way are cut off."""

    force: bool = False


@router.get("/models", summary="Every model that can be served here, with its state")
async def list_models(request: Request) -> dict[str, Any]:
    """Answered from memory."""
    service = service_of(request)
    data = model_documents(service.controller, service.clock(), service.missing)
    return {"object": "list", "default": service.default, "data": data}


@router.post("/leases", summary="Use a model: at once, or when it has been loaded")
async def lease(request: Request, body: LeaseRequest) -> Response:
    """See docs/decisions/0008-leases.md for the events."""
    service = service_of(request)
    controller = service.controller
    offer = controller.find(body.model)
    if offer.id in service.missing and not service.is_loaded(offer):
        raise ModelNotPulled(f"{offer.id} is not here yet: `sparkstack pull {offer.recipe.id}` gets it", param="model")
    try:
        if body.wait:
            events = controller.lease_when_ready(offer, body.holder)
            first = await anext(events)
            return StreamingResponse(_events(first, events), media_type="text/event-stream", headers=_NO_CACHE)
        answer = await controller.lease_at_once(offer, body.holder)
    except NotServedError as error:
        raise app_error(error) from None
    if isinstance(answer, Granted):
        return JSONResponse(answer.document)
    wait = ModelLoading(answer.message, retry_after_s=max(_SHORTEST_RETRY_S, (answer.eta_s or 0) * 1.1))
    headers = [*wait.headers(), *waiting_headers(answer.position, answer.eta_s)]
    return Response(wait.body(), 503, {name.decode(): value.decode() for name, value in headers})


_NO_CACHE = {"cache-control": "no-cache", "x-accel-buffering": "no"}


async def _events(first: Progress | Granted, rest: AsyncIterator[Progress | Granted]) -> AsyncIterator[bytes]:
    try:
        yield _event_of(first)
        async for item in rest:
            yield _event_of(item)
    except NotServedError as error:
        known = app_error(error)
        yield _event("error", {**known.envelope(), "status": known.status, "retry_after_s": known.retry_after_s})
    finally:
        await rest.aclose()  # type: ignore[attr-defined]


def _event_of(item: Progress | Granted) -> bytes:
    return _event("granted", dict(item.document)) if isinstance(item, Granted) else _event("progress", asdict(item))


def _event(name: str, document: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(document)}\n\n".encode()


def app_error(error: NotServedError) -> AppError:
    """Return what a client is told."""
    if isinstance(error, DoesNotFitError):
        return InsufficientMemory(str(error), retry_after_s=error.retry_after_s)
    return ModelFailed(str(error), retry_after_s=error.retry_after_s)


@router.put("/leases/{lease_id}", summary="Prolong a lease")
async def renew(request: Request, lease_id: str, body: RenewRequest) -> dict[str, Any]:
    """`draining`: take no new requests on it, and release it when the last has ended."""
    controller = controller_of(request)
    try:
        draining = controller.renew(lease_id, body.in_flight)
    except LeaseLapsedError as error:
        raise LeaseNotFound(str(error)) from None
    return {"expires_in_s": controller.residency.limits.lease_s, "draining": draining}


@router.delete("/leases/{lease_id}", status_code=204, summary="End a lease")
async def release(request: Request, lease_id: str, keep_alive_s: float | None = None) -> None:
    """`keep_alive_s` sets the model's idle time: 0 unloads it when nobody holds it, -1 keeps it."""
    try:
        controller_of(request).release(lease_id, keep_alive_s)
    except LeaseLapsedError as error:
        raise LeaseNotFound(str(error)) from None


@router.post("/leases/{lease_id}/lost", status_code=202, summary="The engine can't be reached: look at it")
async def lost(request: Request, lease_id: str, body: LostRequest) -> dict[str, Any]:
    """The lease is over."""
    try:
        controller_of(request).lost(lease_id, body.reason)
    except LeaseLapsedError as error:
        raise LeaseNotFound(str(error)) from None
    return {"looking": True}


@router.post("/models/{model:path}/load", summary="Load a model on purpose and keep it")
async def load(request: Request, model: str, body: LoadRequest) -> dict[str, Any]:
    """It is not unloaded for being idle; pinned, nor for another."""
    service = service_of(request)
    offer = service.controller.find(model)
    try:
        await service.controller.want_loaded(offer.id, pin=body.pin)
        if body.wait:
            await service.controller.until_loaded(offer.id)
    except NotServedError as error:
        raise app_error(error) from None
    return service.document(offer)


@router.post("/models/{model:path}/unload", summary="Unload a model when nobody holds it, or at once")
async def unload(request: Request, model: str, body: UnloadRequest) -> dict[str, Any]:
    """Requests under way go on, unless `force`."""
    service = service_of(request)
    offer = service.controller.find(model)
    service.controller.unload(offer.id, force=body.force)
    return service.document(offer)


@router.get("/plan", summary="Would these models fit?")
async def plan(
    request: Request,
    models: Annotated[str, Query(description="ids or aliases, by comma")],
    on: Annotated[str, Query(alias="machine", description="spark-128, spark-64, dual-spark, this, or 24GiB")] = "this",
    context: Annotated[int | None, Query(gt=0)] = None,
    sequences: Annotated[int | None, Query(gt=0)] = None,
    kv_dtype: str | None = None,
) -> dict[str, Any]:
    """The same document as `sparkstack plan --json`."""
    service = service_of(request)
    names = [name.strip() for name in models.split(",") if name.strip()]
    wishes = Wishes(context_tokens=context, sequences=sequences, kv_dtype=kv_dtype)
    try:
        planned = await asyncio.to_thread(plan_named, names, on, wishes, recipes=service.recipes)
        return planned.document()
    except (RecipeError, MachineError, PlanError, KVDtypeError) as error:
        raise InvalidRequest(str(error)) from None


@router.get("/receipts", summary="What each load was predicted to take, and took")
async def receipts(request: Request, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> dict[str, Any]:
    """The newest first."""
    found = await asyncio.to_thread(controller_of(request).receipts.newest, limit)
    return {"object": "list", "data": [asdict(item) for item in found]}


@router.get("/logs/{model:path}", summary="An engine's last lines", response_class=Response)
async def logs(request: Request, model: str, lines: Annotated[int, Query(ge=1, le=10_000)] = 50) -> Response:
    """Plain text."""
    service = service_of(request)
    offer = service.controller.find(model)
    return Response(await service.last_lines(offer, lines), media_type="text/plain; charset=utf-8")

"""Records in; numbers, costs, single requests and deletion out."""

import time
from datetime import date
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse

from services.kit.asgi import read_body
from services.kit.errors import InvalidRequest, PermissionDenied
from services.kit.records import RecordBatch
from services.tracking import looking
from services.tracking.accounts import By, sums
from services.tracking.errors import RequestNotFound
from services.tracking.feedback import by_model
from services.tracking.identity import CallerOf, caller_of, require_operator
from services.tracking.service import Service, ServiceOf

router = APIRouter(tags=["tracking"])
MAX_BATCH_BYTES = 64_000_000
_batch = msgspec.json.Decoder(RecordBatch)


@router.get(
    "/v1/models", summary="No model: the gateway asks every service behind it", dependencies=[Depends(caller_of)]
)
async def models() -> dict[str, Any]:
    """List nothing."""
    return {"object": "list", "data": []}


@router.post("/v1/tracking/records", status_code=202, summary="Records of requests, from the gateway alone")
async def records(request: Request, caller: CallerOf, service: ServiceOf) -> JSONResponse:
    """Take a batch; it is stored later, and what the queue can't hold is dropped and counted."""
    if not caller.direct:
        raise PermissionDenied("records come from the gateway itself, not from its callers")
    body = await read_body(dict(request.scope), request.receive, MAX_BATCH_BYTES, "nothing: send smaller batches")
    try:
        batch = _batch.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the body is no batch of records: {error}") from None
    dropped = service.store.add(batch)
    return JSONResponse({"accepted": len(batch.records) - dropped, "dropped": dropped}, status_code=202)


@router.get("/v1/tracking/summary", summary="The last hours at a glance")
async def summary(
    caller: CallerOf, service: ServiceOf, hours: Annotated[float, Query(gt=0, le=24 * 366)] = 24
) -> dict[str, Any]:
    """Return numbers on requests of the last hours, feedback by model, and the state of the service."""
    since = time.time() - hours * 3600
    key = caller.only_key
    found = await service.read(lambda connection: looking.summary(connection, since, key))
    if caller.operator:
        found["feedback"] = await service.read(by_model)
        found["service"] = _state(service)
    return {"object": "tracking.summary", "hours": hours, **found}


@router.get("/v1/tracking/costs", summary="Tokens, seconds, energy and money by key, model or day")
async def costs(
    caller: CallerOf,
    service: ServiceOf,
    by: By = "model",
    from_: Annotated[date | None, Query(alias="from", description="first day, UTC")] = None,
    to: Annotated[date | None, Query(description="last day, UTC; it counts")] = None,
) -> dict[str, Any]:
    """Return sums; a key that is no operator's sees its own."""
    first, last = (day.isoformat() if day else "" for day in (from_, to))
    if first and last and first > last:
        raise InvalidRequest(f"from is {first}, after to, {last}", param="from")
    tariff, key = service.tariff, caller.only_key
    listed, whole, unpriced = await service.read(
        lambda connection: sums(connection, tariff, by, first, last, key),
    )
    metered = bool(service.meter.sources)
    return {
        "object": "tracking.costs",
        "by": by,
        "from": first or None,
        "to": last or None,
        "currency": tariff.currency or None,
        "energy_sources": list(service.meter.sources),
        "unpriced_models": unpriced,
        "data": [each.document(metered=metered) for each in listed],
        "total": whole.document(metered=metered),
    }


@router.get("/v1/tracking/requests/{request_id}", summary="One request, by its id or its trace's")
async def request_by_id(request_id: str, caller: CallerOf, service: ServiceOf) -> dict[str, Any]:
    """Return what is kept of it, of inner requests on its way, and what was said of it."""
    found = await service.read(lambda connection: looking.find(connection, request_id, caller.only_key))
    if found is None:
        raise RequestNotFound(
            f"no request {request_id!r} is kept; records are kept for {service.settings.keep_days} days, and stand "
            "here a few seconds after the answer"
        )
    return {"object": "tracking.request", **found}


@router.delete("/v1/tracking/users/{user:path}", summary="Delete what is kept of a user")
async def delete_user(user: str, caller: CallerOf, service: ServiceOf) -> dict[str, Any]:
    """Delete requests, texts and feedback of whom clients named so; sums of cost name no user and stay."""
    if not user:  # it would be all those who named nobody
        raise InvalidRequest("name the user: DELETE /v1/tracking/users/{user}", param="user")
    erased = await service.erase_user(user, caller.only_key)
    return {"object": "tracking.deleted", "user": user, "deleted": erased.document()}


@router.delete("/v1/tracking/keys/{key:path}", summary="Delete what is kept of a key")
async def delete_key(key: str, caller: CallerOf, service: ServiceOf) -> dict[str, Any]:
    """Delete a key's requests, texts and feedback; its sums become those of `(deleted)`, where an operator asks."""
    if key != caller.name:
        require_operator(caller, "deleting what another key has asked")
    erased = await service.erase_key(key, keeps_sums=not caller.operator)
    return {"object": "tracking.deleted", "key": key, "deleted": erased.document()}


def _state(service: Service) -> dict[str, Any]:
    counts = service.store.counts
    settings = service.settings
    return {
        "records": service.store.state,
        "waiting": service.store.waiting,
        "stored": counts.stored,
        "dropped": counts.queue_full + counts.sender_dropped,
        "invalid": counts.invalid,
        "energy_sources": list(service.meter.sources),
        "stores_text": settings.store_text,
        "keep_days": settings.keep_days,
        "keep_text_days": settings.keep_text_days if settings.store_text else None,
        "mlflow": settings.mlflow_url or None,
    }

"""Drift over HTTP: what was found, references, reports. For operators: it tells of everybody's requests."""

import time
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from services.kit.errors import InvalidRequest, Overloaded
from services.tracking.drift import references as kept
from services.tracking.drift.references import NoSuchReference, NotEnough, Reference, Window
from services.tracking.drift.service import DriftOf
from services.tracking.errors import DriftNotFound
from services.tracking.identity import Caller, caller_of, require_operator
from services.tracking.service import ServiceOf

_MOST_REPORTS = 3
_MAX_WINDOWS = 50
_HTML_HEADERS = {
    # The page brings its own scripts; it is to have no part in the origin that it is served from.
    "content-security-policy": "sandbox allow-scripts allow-popups",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}


async def _operator(caller: Annotated[Caller, Depends(caller_of)]) -> None:
    require_operator(caller, "drift")


router = APIRouter(tags=["drift"], dependencies=[Depends(_operator)])


class ReferenceWanted(BaseModel):
    """A reference that is to be made of stored windows."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    windows: int | None = Field(None, ge=1, le=_MAX_WINDOWS, description="of so many windows, the newest (default: 2)")
    window: int | None = Field(None, ge=1, description="of this window alone")
    note: str = Field("", max_length=500)
    promote: bool = Field(False, description="compare windows with it from now on")


class ReportWanted(BaseModel):
    """A report that is to be made."""

    model_config = ConfigDict(extra="forbid")

    window: int | None = Field(None, ge=1, description="on this window (default: the newest that was compared)")


@router.get("/v1/tracking/drift", summary="What has changed: the newest windows against the reference")
async def drift(
    service: ServiceOf, drift: DriftOf, windows: Annotated[int, Query(ge=0, le=1000)] = 20
) -> dict[str, Any]:
    """Return the state of the monitor and the newest windows with what was found in each."""
    found = await service.read(lambda connection: kept.windows(connection, windows))
    in_use = await service.read(kept.reference_in_use)
    state = drift.monitor.state
    return {
        "object": "tracking.drift",
        "reference": in_use.document() if in_use else None,
        "trouble": state.trouble or None,
        "window_records": service.settings.window_records,
        "filled": state.filled,
        "measures_meaning": drift.measures_meaning,
        "windows": [each.document() for each in found],
    }


@router.get("/v1/tracking/references", summary="The named references, the one in use first")
async def references(service: ServiceOf) -> dict[str, Any]:
    """List them."""
    found = await service.read(kept.references)
    return {"object": "list", "data": [each.document() for each in found]}


@router.post("/v1/tracking/references", status_code=201, summary="Make a reference of stored windows")
async def make_reference(wanted: ReferenceWanted, service: ServiceOf, drift: DriftOf) -> dict[str, Any]:
    """Make it, or replace the one of this name."""
    if wanted.window is not None and wanted.windows is not None:
        raise InvalidRequest("name `window` or `windows`, one of them", param="windows")
    async with drift.monitor.changing:
        if wanted.window is not None:
            of = [await _window(service, wanted.window)]
        else:
            count = wanted.windows or kept.AUTOMATIC_WINDOWS
            of = await service.read(lambda connection: kept.windows(connection, count))
            if len(of) < count:
                raise InvalidRequest(
                    f"{len(of)} windows are full so far, {count} are asked for; a window is "
                    f"{service.settings.window_records} sampled requests (TRACKING_WINDOW_RECORDS)",
                    param="windows",
                )
        now = time.time()

        def work(connection: Any) -> Reference:
            made = kept.make_reference(connection, wanted.name, of, now, wanted.note)
            return kept.promote(connection, wanted.name, now) if wanted.promote else made

        try:
            return (await service.write(work)).document()
        except NotEnough as error:
            raise InvalidRequest(str(error), param="windows") from None


@router.post("/v1/tracking/references/{name}/promote", summary="Compare windows with this reference from now on")
async def promote(name: str, service: ServiceOf, drift: DriftOf) -> dict[str, Any]:
    """Put it in use."""
    try:
        async with drift.monitor.changing:
            return (await service.write(lambda connection: kept.promote(connection, name, time.time()))).document()
    except NoSuchReference:
        raise _no_reference(name) from None


@router.delete("/v1/tracking/references/{name}", summary="Remove a reference; its requests stay")
async def remove_reference(name: str, service: ServiceOf, drift: DriftOf) -> dict[str, Any]:
    """Remove it. Where it was in use, the one that was promoted before it is in use again."""
    try:
        async with drift.monitor.changing:
            await service.write(lambda connection: kept.remove_reference(connection, name))
    except NoSuchReference:
        raise _no_reference(name) from None
    return {"object": "tracking.reference.deleted", "name": name, "deleted": True}


@router.get("/v1/tracking/reports", summary="Reports, the newest first")
async def reports(drift: DriftOf) -> dict[str, Any]:
    """List them."""
    return {"object": "list", "data": [each.document() for each in await drift.reports.listed()]}


@router.post("/v1/tracking/reports", status_code=202, summary="Make a report on a window, in the background")
async def make_report(wanted: ReportWanted, service: ServiceOf, drift: DriftOf) -> dict[str, Any]:
    """Begin it; `GET /v1/tracking/reports/{id}` is the page when it is ready, which takes some ten seconds."""
    if drift.reports.waiting >= _MOST_REPORTS:
        raise Overloaded(f"{_MOST_REPORTS} reports are under way; ask again when one is ready", retry_after_s=15)
    if wanted.window is not None:
        window = await _window(service, wanted.window)
        if not window.reference:
            raise InvalidRequest(f"window {window.id} was full before there was a reference", param="window")
    else:
        newest = await service.read(lambda connection: kept.windows(connection, 100))
        compared = [each for each in newest if each.reference]
        if not compared:
            raise InvalidRequest("no window has been compared with a reference yet")
        window = compared[0]
    requests = await service.read(
        lambda connection: kept.requests_between(connection, window.first_seq, window.last_seq)
    )
    reference = await service.read(lambda connection: kept.requests_of_reference(connection, window.reference))
    if not requests or not reference:
        raise InvalidRequest(f"the requests of window {window.id} or of {window.reference!r} are not kept any more")
    return drift.reports.ask(window, requests, reference).document()


@router.get("/v1/tracking/reports/{name}", summary="A report's page; while it is made, how far it is")
async def report(name: str, drift: DriftOf) -> Response:
    """Return HTML where it is ready, else JSON with its status."""
    found = await drift.reports.find(name)
    if found is None:
        raise DriftNotFound(f"there is no report {name!r}; GET /v1/tracking/reports lists them")
    if found.status != "ready":
        return JSONResponse(found.document(), status_code=202 if found.status == "running" else 200)
    return FileResponse(drift.reports.path(found.id), media_type="text/html", headers=_HTML_HEADERS)


async def _window(service: ServiceOf, number: int) -> Window:
    found = await service.read(lambda connection: kept.window_by_id(connection, number))
    if found is None:
        raise DriftNotFound(f"there is no window {number}; GET /v1/tracking/drift lists them")
    return found


def _no_reference(name: str) -> DriftNotFound:
    return DriftNotFound(f"there is no reference {name!r}; GET /v1/tracking/references lists them")

"""Feedback in, from whoever asked; its list out."""

import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field, model_validator

from services.tracking import feedback
from services.tracking.feedback import MAX_LABELS, Feedback
from services.tracking.identity import CallerOf, require_operator
from services.tracking.masking import mask
from services.tracking.openwebui import SOURCE
from services.tracking.service import ServiceOf

router = APIRouter(prefix="/v1/feedback", tags=["feedback"])
Label = Annotated[str, Field(max_length=64)]
Score = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]
_THUMBS = {"up": 1.0, "down": -1.0}


class FeedbackBody(BaseModel):
    """What is said of an answer."""

    model_config = ConfigDict(extra="forbid")

    request_id: str = Field("", max_length=300, description="the answer's `x-request-id`")
    trace_id: str = Field("", max_length=64, description="or its trace's id")
    score: Score | None = Field(None, description="-1 (bad) to 1 (good)")
    thumb: Literal["up", "down"] | None = Field(None, description="the same as a score of 1 or -1")
    comment: str = Field("", max_length=4000, description="personal data in it is masked")
    labels: list[Label] = Field(default_factory=list, max_length=MAX_LABELS)

    @model_validator(mode="after")
    def _whole(self) -> "FeedbackBody":
        if not self.request_id and not self.trace_id:
            raise ValueError("say what it is about: request_id (the answer's x-request-id) or trace_id")
        if (self.score is None) == (self.thumb is None):
            raise ValueError("give a score (-1 to 1) or a thumb (up, down): one of them")
        return self


class RatingBody(BaseModel):
    """One rating that was given elsewhere."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(min_length=1, max_length=200)
    user: str = Field("", max_length=300)
    model: str = Field("", max_length=300)
    score: Score
    comment: str = Field("", max_length=4000)
    labels: list[Label] = Field(default_factory=list, max_length=MAX_LABELS)
    at: float = Field(0, ge=0, lt=1e11, description="Unix seconds; 0: now")


class ImportBody(BaseModel):
    """Ratings out of another system's export."""

    model_config = ConfigDict(extra="forbid")

    source: Literal["openwebui"] = SOURCE
    ratings: list[RatingBody] = Field(max_length=1000)


@router.post("", status_code=201, summary="Say what an answer is worth; the last word on it counts")
async def give(body: FeedbackBody, caller: CallerOf, service: ServiceOf) -> dict[str, Any]:
    """Store it; `known` says whether the request has been recorded yet (it is within seconds)."""
    given = Feedback(
        caller=caller.name,
        score=_THUMBS[body.thumb] if body.thumb else body.score or 0.0,
        at=time.time(),
        request_id=body.request_id,
        trace_id=body.trace_id,
        comment=mask(body.comment),
        labels=tuple(mask(label) for label in body.labels),
    )
    known = await service.keep_feedback([given])
    return {
        "object": "feedback",
        "request_id": body.request_id or None,
        "trace_id": body.trace_id or None,
        "score": given.score,
        "comment": given.comment,
        "labels": list(given.labels),
        "known": bool(known),
    }


@router.post("/import", summary="Take over ratings from another system; the same again changes nothing")
async def import_ratings(body: ImportBody, caller: CallerOf, service: ServiceOf) -> dict[str, Any]:
    """Store them. Who gave each is kept as a digest, as users are everywhere here."""
    require_operator(caller, "importing feedback")
    now = time.time()
    users = await service.users([rating.user for rating in body.ratings])
    given = [
        Feedback(
            caller=f"{body.source}:{user}",
            score=rating.score,
            at=rating.at or now,
            comment=mask(rating.comment),
            labels=tuple(mask(label) for label in rating.labels),
            source=body.source,
            imported=rating.id,
            user=user,
            model=rating.model,
        )
        for rating, user in zip(body.ratings, users, strict=True)
    ]
    await service.keep_feedback(given)
    return {"object": "feedback.import", "source": body.source, "stored": len(given)}


@router.get("", summary="Feedback, the newest first")
async def listed(
    caller: CallerOf,
    service: ServiceOf,
    model: str = "",
    before: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> dict[str, Any]:
    """Return what was said; a key that is no operator's sees its own."""
    found = await service.read(
        lambda connection: feedback.listed(connection, model=model, before=before, limit=limit, caller=caller.only_key)
    )
    return {"object": "list", "data": found, "has_more": len(found) == limit}


@router.get("/models", summary="How each model is liked")
async def liked(caller: CallerOf, service: ServiceOf) -> dict[str, Any]:
    """Return count and mean score by model."""
    require_operator(caller, "everybody's feedback")
    return {"object": "list", "data": await service.read(feedback.by_model)}

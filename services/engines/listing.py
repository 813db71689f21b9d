"""What `GET /models` says: every model that can be served here, and how it is."""

import time
from typing import Any

from services.engines.controller import Controller
from services.engines.offers import Offer


def model_documents(controller: Controller, now: float, missing: frozenset[str]) -> list[dict[str, Any]]:
    """Return one document a model.

    Args:
        now: on the clock of the residency.
        missing: models whose files are not here.
    """
    return [_document(controller, offer, now, missing) for offer in controller.offers.values()]


def _document(controller: Controller, offer: Offer, now: float, missing: frozenset[str]) -> dict[str, Any]:
    model = controller.residency.models[offer.id]
    engine = controller.fleet.engines.get(offer.id)
    ends = controller.residency.expires_at(model)
    state, reason = state_of(controller, offer, missing)
    return {
        **offer.facts(controller.aliases.get(offer.id, ())),
        "engine": offer.engine,
        "state": state,
        "reason": reason,
        "url": engine.target.url if engine else None,
        "upstream_id": engine.target.upstream_id if engine else offer.id,
        "pinned": model.pinned,
        "need_bytes": model.need.held,
        "held_bytes": model.taken if model.resident else None,
        "in_flight": model.in_flight,
        "queue_position": controller.residency.position(offer.id),
        "eta_s": _rounded(controller.eta_hint(offer.id, now)),
        "expires_at": None if ends is None else round(time.time() + ends - now, 1),
        "on_gpu": engine.on_gpu if engine else None,
        "since_s": round(now - model.since, 1) if model.since else None,
        "pids": list(engine.pids) if engine else [],
    }


def state_of(controller: Controller, offer: Offer, missing: frozenset[str]) -> tuple[str, str]:
    """Return a model's state, and a sentence where that needs one."""
    model = controller.residency.models[offer.id]
    if model.state == "ready":
        verdict = controller.fleet.verdicts.get(offer.id)
        if verdict is not None and verdict.state in ("busy", "stalled"):
            return verdict.state, verdict.reason if verdict.state == "stalled" else ""
        return ("busy" if model.in_flight else "ready"), ""
    if model.state in ("stopped", "failed") and offer.id in missing:
        return "missing", f"its files are not here: sparkstack pull {offer.recipe.id}"
    if controller.quarantined == offer.id:
        return "failed", f"the machine stopped while it was loaded; `sparkstack load {offer.id}` tries it again"
    if model.state == "stopped":
        return "stopped", controller.why_not(offer.id)
    return model.state, model.reason


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)

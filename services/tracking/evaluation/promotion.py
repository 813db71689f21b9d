"""What a promotion rests on: runs of both models, a judge's word, drift of the traffic; and how the gateway hears."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import httpx

from services.tracking.evaluation import door as doors
from services.tracking.evaluation.comparison import Comparison, compare
from services.tracking.evaluation.door import Door, Model
from services.tracking.evaluation.gate import DriftFound, JudgeFound
from services.tracking.evaluation.judgements import Judgement, Judgements, pairwise_counts, pairwise_figures
from services.tracking.evaluation.names import NameRefused
from services.tracking.evaluation.pairwise import Judged
from services.tracking.evaluation.runs import Run, Runs
from services.tracking.evaluation.session import Asked, Place
from services.tracking.evaluation.sets import QuestionSet

_LOOK_S = 10.0
_TAKEN_WITHIN_S = 15.0
_POLL_S = 0.2


@dataclass(frozen=True)
class Listed:
    """What the gateway lists.

    Args:
        ids: of models; names: aliases of recipes and settings, and promoted ones.
    """

    ids: frozenset[str] = frozenset()
    names: frozenset[str] = field(default_factory=frozenset)


def look_up(model: str, place: Place) -> tuple[Model, Listed]:
    """Return what a name stands for, and all names that there are.

    Raises:
        DoorError: nothing answers, the key is refused, or the model is not there.
    """

    async def ask() -> tuple[Model, Listed]:
        async with doors.client(place.url, place.key) as client:
            found = await Door(client).model(model)
            data = (await client.get("/v1/models")).json()["data"]
        own = [each.get("sparkstack") or {} for each in data]
        ids = {str(each["id"]) for each, about in zip(data, own, strict=True) if not about.get("stands_for")}
        promoted = {str(each["id"]) for each, about in zip(data, own, strict=True) if about.get("stands_for")}
        aliases = {str(alias) for about in own for alias in about.get("aliases") or ()}
        return found, Listed(frozenset(ids), frozenset(aliases | promoted))

    return asyncio.run(ask())


def check_free(name: str, listed: Listed, given: Sequence[str]) -> None:
    """Refuse a name that stands for something else than by promotion.

    Raises:
        NameRefused
    """
    if name in given:
        return
    if name in listed.ids:
        raise NameRefused(f"{name!r} is itself a model at the gateway: give the candidate another name")
    if name in listed.names:
        raise NameRefused(
            f"{name!r} is already another name of a model (a recipe's alias, or GATEWAY_ALIASES): give another, or "
            "take it away there"
        )


def usable(runs: Runs, asked: Asked, known: Model, questions: QuestionSet) -> Run | None:
    """Return the newest finished run in which this very model was asked the same in the same way; None without."""
    chosen = questions.first(asked.limit)
    wanted = (chosen.digest, asked.seed, asked.temperature, asked.max_tokens, asked.concurrency)
    for run in runs.list(set_name=questions.name):
        how = (run.set_digest, run.seed, run.temperature, run.max_tokens, run.concurrency)
        same_model = (run.recipe, run.revision, run.engine) == (known.id, known.revision, known.engine)
        if run.state == "finished" and run.kind == "set" and how == wanted and same_model:
            return run
    return None


def compared(runs: Runs, baseline: Run, candidate: Run) -> Comparison:
    """Return what the candidate has that the baseline has not.

    Raises:
        NotComparable, RunError
    """
    return compare(baseline, runs.items(baseline), candidate, runs.items(candidate))


def judge_found(judgements: Judgements, each: Sequence[Judgement], confidence: float) -> JudgeFound:
    """Return what a judge found over all sets together; the candidate is `a`."""
    judged = [line for judgement in each for line in judgements.lines(judgement, Judged)]
    counts = pairwise_counts(judged)
    _, length = pairwise_figures(judged, confidence)
    return JudgeFound(
        judge=each[0].judge,
        win_rate=length.win_rate if length else None,
        low=length.lower if length else None,
        asked=counts["asked"],
        contradicted=counts["first"] + counts["second"] + counts["wavered"],
        unreadable=counts["invalid"],
    )


def drift_found(place: Place) -> DriftFound | None:
    """Return what the newest window of traffic says; None where no tracking service runs."""
    try:
        with _client(place) as client:
            answer = client.get("/v1/tracking/drift", params={"windows": 1})
        if answer.status_code == 404:
            return None
        if answer.status_code in (401, 403):
            return DriftFound(trouble="this key may not see it; TRACKING_OPERATORS names keys that may")
        answer.raise_for_status()
        windows = answer.json()["windows"]
        if not windows:
            return DriftFound()
        newest = windows[0]
        changed = tuple(str(finding["signal"]) for finding in newest["findings"] if finding["alarm"])
        return DriftFound(changed, int(newest["id"]))
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        return DriftFound(trouble=f"the tracking service can't be asked: {error or type(error).__name__}")


def wait_until_taken(name: str, model: str, place: Place, sleep: Callable[[float], None] = time.sleep) -> bool:
    """Wait until a name stands for a model at the gateway, or, with an empty one, for none; say whether it does."""
    deadline = time.monotonic() + _TAKEN_WITHIN_S
    with _client(place) as client:
        while time.monotonic() < deadline:
            try:
                answer = client.get(f"/v1/models/{name}")
            except httpx.HTTPError:
                return False
            if answer.status_code == 404 and not model:
                return True
            if answer.status_code == 200 and answer.json().get("id") == model:
                return True
            sleep(_POLL_S)
    return False


def _client(place: Place) -> httpx.Client:
    headers = {"authorization": f"Bearer {place.key}"} if place.key else {}
    # No proxy of the environment stands between this machine's processes; certificates are loaded where some are shown.
    secure = place.url.startswith("https:")
    return httpx.Client(base_url=place.url, headers=headers, timeout=_LOOK_S, trust_env=False, verify=secure)

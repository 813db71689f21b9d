"""A promotion from its beginning to its end: both models are asked, the rules are looked at, the name is given."""

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from services.kit.mlflow import MlflowError
from services.tracking.commands.calling import stack_url
from services.tracking.commands.judge import judge_two
from services.tracking.commands.progress import Bar
from services.tracking.evaluation import promotion
from services.tracking.evaluation.comparison import Comparison, NotComparable
from services.tracking.evaluation.door import DoorError, Model
from services.tracking.evaluation.gate import Checked, Evidence, JudgeFound, check, passes
from services.tracking.evaluation.judgements import JudgementError, Judgements
from services.tracking.evaluation.judging import Judge
from services.tracking.evaluation.names import Event, NameRefused, Names, as_rules, check_name
from services.tracking.evaluation.registry import register
from services.tracking.evaluation.rules import SHIPPED, Rules, RulesError, load_rules
from services.tracking.evaluation.runs import Run, RunError, Runs, evaluations_folder
from services.tracking.evaluation.session import Asked, Place, begin_set, perform
from services.tracking.evaluation.sets import QuestionSet, SetError, find_set, read_set

REFUSED = 3
"""Exit status where the candidate is refused."""
NO_BASELINE = "none"
_MARKS = {"kept": "kept", "broken": "BROKEN", "not shown": "NOT SHOWN", "not asked": "not asked"}


@dataclass(frozen=True)
class Request:
    """What is wished; as the verb's options say."""

    asked: Asked
    name: str
    sets: tuple[str, ...]
    rules_file: Path | None = None
    judge_model: str = ""
    baseline: str = ""
    fresh: bool = False
    dry_run: bool = False
    force: str = ""
    as_json: bool = False


@dataclass(frozen=True)
class _Sides:
    """The candidate's and the baseline's runs, one a set; no baseline: ()."""

    candidate: tuple[Run, ...]
    baseline: tuple[Run, ...]


def promote_candidate(request: Request, names: Names, place: Place) -> None:
    """Ask, look at the rules, and give the name or refuse it.

    Raises:
        click.ClickException, NameRefused
        SystemExit: REFUSED.
    """
    try:
        check_name(request.name)
        rules = load_rules(request.rules_file or SHIPPED)
        sets = [read_set(find_set(each)) for each in request.sets]
        before = names.model(request.name)
        candidate, baseline = _models(request, before, names, place)
        if before == candidate.id:
            click.echo(f"{request.name} stands for {candidate.id} already", err=True)
            return
        runs = Runs(evaluations_folder())
        sides = _sides(request, candidate, baseline, sets, runs, place)
        evidence = _evidence(request, rules, sides, runs, place)
    except (DoorError, JudgementError, NotComparable, RulesError, RunError, SetError) as error:
        raise click.ClickException(str(error)) from None
    checked = check(rules, evidence)
    event = Event(
        "promoted" if passes(checked) else "forced" if request.force else "refused",
        request.name,
        candidate.id,
        before,
        runs=tuple(run.id for run in (*sides.candidate, *sides.baseline)),
        rules=as_rules(checked),
        note=request.force if not passes(checked) else "",
    )
    _decide(request, event, checked, baseline.id if baseline else "", rules, names, place)


def _models(request: Request, before: str, names: Names, place: Place) -> tuple[Model, Model | None]:
    """Return candidate and baseline as the gateway knows them, having looked whether the name is free."""
    candidate, listed = promotion.look_up(request.asked.model, place)
    promotion.check_free(request.name, listed, list(names.all()))
    against = request.baseline or before
    if not against or against == NO_BASELINE:
        return candidate, None
    if against == before and before not in listed.ids | listed.names:
        raise NameRefused(
            f"{request.name} stands for {before}, which the gateway has no more, so nothing can be compared with it: "
            f"name another --baseline MODEL, or --baseline {NO_BASELINE}"
        )
    baseline, _ = promotion.look_up(against, place)
    if baseline.id == candidate.id and before != candidate.id:
        raise NameRefused(f"{candidate.id} can't be compared with itself; name another --baseline, or {NO_BASELINE}")
    return candidate, baseline


def _sides(
    request: Request, candidate: Model, baseline: Model | None, sets: list[QuestionSet], runs: Runs, place: Place
) -> _Sides:
    """Return the runs of both models; set by set, so that both meet the machine in the same state."""
    found: dict[str, list[Run]] = {"baseline": [], "candidate": []}
    for questions in sets:
        for side, model in (("baseline", baseline), ("candidate", candidate)):
            if model is not None:
                found[side].append(_run(request, model, questions, runs, place))
    return _Sides(tuple(found["candidate"]), tuple(found["baseline"]))


def _run(request: Request, model: Model, questions: QuestionSet, runs: Runs, place: Place) -> Run:
    asked = Asked(**{**asdict(request.asked), "model": model.id})
    there = None if request.fresh else promotion.usable(runs, asked, model, questions)
    if there is not None:
        click.echo(f"{model.id} on {questions.name}: run {there.id} is used; --fresh asks anew", err=True)
        return there
    begun = begin_set(asked, questions, place, runs)
    bar = Bar(f"{model.id} on {questions.name}")
    try:
        ended = perform(begun, runs, place, bar.show)
    finally:
        bar.end()
    if ended.state != "finished":
        raise RunError(f"{model.id} on {questions.name}: {ended.note}")
    return ended


def _evidence(request: Request, rules: Rules, sides: _Sides, runs: Runs, place: Place) -> Evidence:
    pairs = list(zip(sides.baseline, sides.candidate, strict=False))
    comparisons = tuple(promotion.compared(runs, baseline, candidate) for baseline, candidate in pairs)
    return Evidence(
        items={run.id: tuple(runs.items(run)) for run in sides.candidate},
        comparisons=comparisons,
        judge=_judged(request, rules, comparisons, runs, place) if request.judge_model and rules.judge else None,
        drift=promotion.drift_found(place) if rules.drift else None,
    )


def _judged(
    request: Request, rules: Rules, comparisons: tuple[Comparison, ...], runs: Runs, place: Place
) -> JudgeFound | None:
    if not comparisons:
        return None
    assert rules.judge is not None
    judgements = Judgements(evaluations_folder())
    judge = Judge(request.judge_model, concurrency=request.asked.concurrency)
    ended = []
    for each in comparisons:
        ended.append(judge_two(judge, each.second, each.first, place, runs, judgements))
        if ended[-1].state != "finished":
            raise JudgementError(ended[-1].note)
    return promotion.judge_found(judgements, ended, rules.judge.confidence)


def _decide(
    request: Request,
    event: Event,
    checked: list[Checked],
    baseline: str,
    rules: Rules,
    names: Names,
    place: Place,
) -> None:
    """Show the rules and do what follows from them."""
    against = f"compared with {baseline}" if baseline else "with nothing to compare it with"
    if request.as_json:
        document = {"verdict": event.what, **asdict(event), "baseline": baseline, "dry_run": request.dry_run}
        click.echo(json.dumps(document, indent=1, ensure_ascii=False))
    else:
        click.echo(f"{event.model} as {event.name}, {against}, by {rules.source}:")
        _show(checked)
    refused = event.what == "refused"
    if request.dry_run:
        click.echo(f"nothing was changed: it would be {event.what}", err=True)
    elif refused:
        names.refuse(event)
        stands = f"goes on standing for {event.before}" if event.before else "stands for nothing, as before"
        click.echo(f"refused: {event.model} is not promoted; {event.name} {stands}", err=True)
    else:
        noted = names.promote(event)
        _register(noted, names)
        # On standard output there is the document, where one is wished for.
        say_taken(noted, names, place, to_stderr=request.as_json)
    if refused:
        sys.exit(REFUSED)


def _register(event: Event, names: Names) -> None:
    """Note a promotion in MLflow's registry, where a server is there."""
    uri = mlflow_url()
    if not uri:
        return
    tags: dict[str, Any] = {
        "sparkstack.model": event.model,
        "sparkstack.before": event.before,
        "sparkstack.what": event.what,
        "sparkstack.by": event.by,
        "sparkstack.note": event.note,
        "sparkstack.runs": ", ".join(event.runs),
        **{f"rule.{rule['rule']}": f"{rule['outcome']}: {rule['figure']}" for rule in event.rules},
    }
    try:
        version = register(uri, event.name, event.model, tags, f"{event.model}, {event.what} {event.at}")
    except MlflowError as error:
        click.echo(f"not noted in MLflow's registry: {error}", err=True)
        return
    names.note_version(event, version)
    click.echo(f"mlflow: {uri.rstrip('/')}/#/models/{event.name.replace('/', '.')}/versions/{version}", err=True)


def mlflow_url() -> str:
    """Return where MLflow is; empty where nobody says."""
    return os.environ.get("MLFLOW_TRACKING_URI") or stack_url("mlflow")


def say_taken(event: Event, names: Names, place: Place, *, to_stderr: bool = False) -> None:
    """Say what a name stands for now, when the gateway has taken it over.

    Raises:
        click.ClickException: it has not.
    """
    told = f"{event.name} stands for {event.model}" if event.model else f"{event.name} stands for nothing"
    told += f" ({event.what}; before: {event.before})" if event.before else f" ({event.what})"
    if promotion.wait_until_taken(event.name, event.model, place):
        click.echo(told, err=to_stderr)
        return
    raise click.ClickException(
        f"{told} in {names.path}, but the gateway at {place.url} has not taken it over: it must run, and read this "
        "file (GATEWAY_ALIASES_FILE; `make up` sets it); `sparkstack logs gateway` says more"
    )


def _show(checked: list[Checked]) -> None:
    rows = [["RULE", "FOUND", "WANTED", "", ""]]
    rows += [[each.rule, each.figure, each.limit, _MARKS[each.outcome], each.note] for each in checked]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

"""`sparkstack eval judge`: a model judges the answers of two runs against each other, or of one by a rubric."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from services.tracking.commands.calling import stack_key, stack_url
from services.tracking.commands.progress import Bar, terminated_as_interrupted

if TYPE_CHECKING:
    from services.tracking.evaluation.judgements import Judgement, Judgements
    from services.tracking.evaluation.judging import Judge
    from services.tracking.evaluation.runs import Run, Runs
    from services.tracking.evaluation.session import Place


@click.command("judge")
@click.argument("run_a", metavar="RUN_A")
@click.argument("run_b", metavar="[RUN_B]", required=False, default="")
@click.option("--judge", "judge_model", required=True, metavar="MODEL", help="Who judges; the larger the better.")
@click.option("--rubric", default="", metavar="NAME|PATH", help="Of one run: what grades mean. [helpful]")
@click.option("--reasons/--no-reasons", default=True, help="Have the judge say why before it decides.  [default: yes]")
@click.option("--references", is_flag=True, help="Show the judge the right answer, where an item has one in words.")
@click.option(
    "--max-tokens", type=click.IntRange(1), default=None, help="Of a reply; more for a judge that thinks first."
)
@click.option("--concurrency", type=click.IntRange(1, 64), default=1, show_default=True, help="Answers at a time.")
@click.option("--again", is_flag=True, help="Judge anew what was judged already.")
@click.option("--mlflow/--no-mlflow", default=True, help="Log to MLFLOW_TRACKING_URI, or to the stack's own server.")
@click.option("--url", default="", help="Where the gateway is. [as `up` has started it]")
@click.option("--key", default="", help="The key to it. [SPARKSTACK_API_KEY]")
@click.option("--json", "as_json", is_flag=True, help="The judgement as JSON, instead of words.")
def judge(
    run_a: str,
    run_b: str,
    judge_model: str,
    rubric: str,
    reasons: bool,
    references: bool,
    max_tokens: int | None,
    concurrency: int,
    again: bool,
    mlflow: bool,
    url: str,
    key: str,
    as_json: bool,
) -> None:
    """Have MODEL say whose answers are better, RUN_A's or RUN_B's; or grade RUN_A's alone by a rubric.

    Of two runs each pair is judged twice, with the answers' places swapped: where the judge then contradicts itself,
    the pair is a tie, and counted. The win rate is also told as it would be if all answers were equally long.

    \b
    sparkstack eval judge RUN_A RUN_B --judge qwen3.6-35b
    sparkstack eval judge RUN_A --judge qwen3.6-35b --rubric faithful
    """
    from services.tracking.evaluation.door import DoorError
    from services.tracking.evaluation.grading import RubricError
    from services.tracking.evaluation.judgements import JudgementError, Judgements
    from services.tracking.evaluation.judging import Judge
    from services.tracking.evaluation.runs import RunError, Runs, evaluations_folder
    from services.tracking.evaluation.session import Place

    if run_b and rubric:
        raise click.UsageError("--rubric grades the answers of one run: leave RUN_B out")
    runs, judgements = Runs(evaluations_folder()), Judgements(evaluations_folder())
    place = Place(url.rstrip("/") or stack_url("gateway"), key or stack_key())
    asked = Judge(judge_model, reasons, references, max_tokens, concurrency)
    try:
        first = runs.load(run_a)
        if run_b:
            ended = judge_two(asked, first, runs.load(run_b), place, runs, judgements, again=again)
        else:
            ended = _grade(asked, first, rubric or "helpful", place, runs, judgements, again=again)
    except (DoorError, JudgementError, RubricError, RunError) as error:
        raise click.ClickException(str(error)) from None
    _show(ended, judgements, as_json=as_json)
    if ended.state != "finished":
        sys.exit(1)
    if mlflow:
        log(ended, judgements)


def judge_two(
    asked: "Judge",
    first: "Run",
    second: "Run",
    place: "Place",
    runs: "Runs",
    judgements: "Judgements",
    *,
    again: bool = False,
) -> "Judgement":
    """Return the judgement of two runs, shown as it goes; one that has finished is not asked anew.

    Raises:
        DoorError, JudgementError, RunError
        SystemExit: 130, it was interrupted.
    """
    from services.tracking.evaluation.judging import begin_pairs, judge_pairs, pairings

    pairs = pairings(runs.items(first), runs.items(second), references=asked.references)
    begun = begin_pairs(asked, first, second, place, judgements)
    # A run that went on since has more answers than were judged.
    if begun.state == "finished" and begun.counts.get("pairs") == len(pairs) and not again:
        return begun
    if again:
        judgements.forget(begun)
    bar = Bar(f"{asked.model} judges {first.model} against {second.model}")
    with _watched(bar):
        return judge_pairs(begun, pairs, place, judgements, asked, bar.show)


def _grade(
    asked: "Judge", run: "Run", name: str, place: "Place", runs: "Runs", judgements: "Judgements", *, again: bool
) -> "Judgement":
    from services.tracking.evaluation.grading import load_rubric
    from services.tracking.evaluation.judgements import JudgementError
    from services.tracking.evaluation.judging import begin_grades, judge_grades

    rubric = load_rubric(name)
    items = runs.items(run)
    if not items:
        raise JudgementError(f"{run.id} has no answers yet")
    begun = begin_grades(asked, run, rubric, place, judgements)
    if begun.state == "finished" and begun.counts.get("answers") == len(items) and not again:
        return begun
    if again:
        judgements.forget(begun)
    bar = Bar(f"{asked.model} grades {run.model}")
    with _watched(bar):
        return judge_grades(begun, items, rubric, place, judgements, asked, bar.show)


def log(ended: "Judgement", judgements: "Judgements") -> None:
    """Log a judgement to MLflow, where a server is there."""
    from services.kit.mlflow import MlflowError, log_run
    from services.tracking.evaluation.judge_report import metrics_of, parameters_of, tags_of
    from services.tracking.evaluation.recording import EXPERIMENT

    uri = os.environ.get("MLFLOW_TRACKING_URI") or stack_url("mlflow")
    if not uri:
        return
    files = [judgements.path(ended) / name for name in ("report.md", "judgement.json", "verdicts.jsonl")]
    try:
        where = log_run(
            uri,
            EXPERIMENT,
            name=ended.id,
            metrics=metrics_of(ended),
            parameters=parameters_of(ended),
            tags=tags_of(ended),
            files=[path for path in files if path.is_file()],
        )
    except (MlflowError, OSError) as error:
        click.echo(f"not logged to MLflow: {error}", err=True)
    else:
        click.echo(f"mlflow: {where}", err=True)


@contextmanager
def _watched(bar: Bar) -> Iterator[None]:
    """End the bar's line, and an interrupted verb with status 130: what was judged is kept."""
    try:
        with terminated_as_interrupted():
            yield
    except KeyboardInterrupt:
        bar.end()
        click.echo("sparkstack: interrupted; what was judged is kept, the same command again goes on", err=True)
        sys.exit(130)
    finally:
        bar.end()


def _show(ended: "Judgement", judgements: "Judgements", *, as_json: bool) -> None:
    from services.tracking.evaluation.judge_report import lines

    if as_json:
        click.echo(json.dumps(asdict(ended), indent=1, ensure_ascii=False))
        return
    click.echo("\n".join(lines(ended)))
    click.echo(f"report: {judgements.path(ended) / 'report.md'}")

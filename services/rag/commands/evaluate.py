"""`sparkstack rag eval`: how well a collection is searched and answered, on a set of questions."""

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import httpx

    from services.rag.evaluating.runner import Evaluation, Plan

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("eval", short_help="measure a collection on questions with judgements")
@click.option("--collection", required=True, metavar="NAME", help="The collection that is asked.")
@click.option("--questions", required=True, type=_FILE, help="JSON lines: id, question, kind, split.")
@click.option("--qrels", required=True, type=_FILE, help="Judgements in TREC's form: question 0 document grade.")
@click.option(
    "--split", type=click.Choice(["dev", "held_out", "all"]), default="all", show_default=True, help="Which questions."
)
@click.option("--presets", default="fast,balanced", show_default=True, metavar="A,B", help="Ways to retrieve.")
@click.option("--k", "k", type=click.IntRange(1, 100), default=10, show_default=True, help="Documents looked at.")
@click.option("--judge", "judge_model", default="", metavar="MODEL", help="Also answer, and have MODEL judge answers.")
@click.option("--at-once", type=click.IntRange(1, 64), default=1, show_default=True, help="Questions at a time.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), help="Folder for the report.")
@click.option("--plots/--no-plots", default=True, show_default=True, help="A picture, where matplotlib is.")
@click.pass_obj
def evaluate(
    url: str | None,
    collection: str,
    questions: Path,
    qrels: Path,
    split: str,
    presets: str,
    k: int,
    judge_model: str,
    at_once: int,
    out: Path | None,
    plots: bool,
) -> None:
    """Ask a collection a set of questions and measure what it finds: nDCG, recall, MRR, milliseconds.

    With --judge the collection also answers each question, and MODEL judges the answers: are they borne out by the
    passages, do they address the question. Where MLFLOW_TRACKING_URI is set the figures are logged there, too.

    \b
    sparkstack rag eval --collection postgresql --questions corpora/postgresql/questions.jsonl \\
        --qrels corpora/postgresql/qrels.txt --split held_out --presets fast,balanced --out report
    """
    from services.rag.evaluating.questions import QuestionsError, read_qrels, read_questions
    from services.rag.evaluating.runner import Plan
    from services.rag.evaluating.service import ServiceError

    names = [name.strip() for name in presets.split(",") if name.strip()]
    if not names:
        raise click.ClickException("--presets is empty; name at least one, such as fast")
    try:
        plan = Plan(
            collection=collection,
            questions=read_questions(questions, split),  # type: ignore[arg-type]  # click has checked it
            qrels=read_qrels(qrels),
            presets=names,
            k=k,
            split=split,
            judge_model=judge_model,
            at_once=at_once,
        )
        evaluation = _evaluation(url or "", plan, _progress())
    except (QuestionsError, ServiceError) as error:
        raise click.ClickException(str(error)) from None
    _show(evaluation, out, plots=plots)


def _evaluation(url: str, plan: "Plan", progress: Callable[[str, int, int], None]) -> "Evaluation":
    from services.rag.commands.calling import stack
    from services.rag.evaluating import service

    with stack(url) as door:
        authorization = {name: value for name, value in door.client.headers.items() if name == "authorization"}
        return asyncio.run(_run(service.client(door.url, authorization), plan, progress))


async def _run(client: "httpx.AsyncClient", plan: "Plan", progress: Callable[[str, int, int], None]) -> "Evaluation":
    from services.rag.evaluating.runner import evaluate as run
    from services.rag.evaluating.service import Service

    async with client:
        return await run(Service(client), plan, progress)


def _show(evaluation: "Evaluation", out: Path | None, *, plots: bool) -> None:
    from services.rag.evaluating.report import table, write
    from services.rag.evaluating.summary import summarise

    summary = summarise(evaluation)
    click.echo(table(summary))
    for name, preset in summary["presets"].items():
        if preset["answers"]:
            click.echo(_answers(name, preset["answers"], evaluation.judge_model))
    files: tuple[Path, ...] = ()
    if out is not None:
        try:
            written = write(evaluation, out, plots=plots)
        except OSError as error:
            raise click.ClickException(f"the report can't be written to {out}: {error.strerror}") from None
        files = written.files
        click.echo(f"report: {written.files[0]}" + (f" ({written.note})" if written.note else ""))
    _log(summary, files)


def _answers(preset: str, answers: dict[str, Any], judge_model: str) -> str:
    means = [
        f"{measure} {answers[measure]['mean']:.2f}" for measure in ("faithfulness", "relevance") if answers[measure]
    ]
    shown = ", ".join(means) or "no verdict could be read"
    return f"{preset}: {shown} ({answers['judged']} answers, judged by {judge_model})"


def _log(summary: dict[str, Any], files: tuple[Path, ...]) -> None:
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri:
        return
    from services.kit.mlflow import MlflowError
    from services.rag.evaluating.mlflow import log_run

    try:
        click.echo(f"mlflow: {log_run(uri, summary, files)}")
    except MlflowError as error:
        click.echo(f"not logged to MLflow: {error}", err=True)


def _progress() -> Callable[[str, int, int], None]:
    """Return what shows progress: one line that is written over, or on a pipe one line in ten steps."""
    terminal = sys.stderr.isatty()

    def show(what: str, done: int, of: int) -> None:
        last = done == of
        if terminal:
            click.echo(f"\r{what} {done}/{of}", nl=last, err=True)
        elif last or done % max(1, of // 10) == 0:
            click.echo(f"{what} {done}/{of}", err=True)

    return show

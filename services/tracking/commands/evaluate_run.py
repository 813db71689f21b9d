"""`sparkstack eval run`: ask a model a set of questions, or have lm-evaluation-harness do so."""

import json
import os
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from services.tracking.commands.calling import stack_key, stack_url, state_folder
from services.tracking.commands.progress import Bar, terminated_as_interrupted

if TYPE_CHECKING:
    from services.tracking.evaluation.runs import Run, Runs
    from services.tracking.evaluation.session import Place

_FOLDER = click.Path(file_okay=False, path_type=Path)


@click.command("run")
@click.argument("model", required=False, default="")
@click.option("--set", "set_name", default="", metavar="NAME|PATH", help="A shipped set, or JSON lines of your own.")
@click.option("--task", default="", metavar="TASK", help="A task or group of lm-evaluation-harness.")
@click.option("--limit", type=click.IntRange(1), default=None, help="The first so many questions (of each task) alone.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--temperature", type=click.FloatRange(0, 2), default=0.0, show_default=True)
@click.option("--max-tokens", type=click.IntRange(1), default=None, help="An answer's most. [as the set or task says]")
@click.option(
    "--concurrency",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    help="Questions at a time. Above 1 some engines' answers differ a little from run to run.",
)
@click.option("--shots", type=click.IntRange(0), default=None, help="Of a task: examples before each question.")
@click.option("--include", type=_FOLDER, default=None, help="Of a task: folder with tasks of your own.")
@click.option("--api", type=click.Choice(["chat", "completions"]), default="chat", show_default=True, help="Of a task.")
@click.option("--tokenizer", default="", metavar="NAME", help="Of a task that compares probabilities.")
@click.option("--url", default="", help="Where the gateway is. [as `up` has started it]")
@click.option("--key", default="", help="The key to it. [SPARKSTACK_API_KEY, as `sparkstack key` prints it]")
@click.option("--output", type=_FOLDER, default=None, help="Also write the report, the run and its items there.")
@click.option("--resume", default="", metavar="RUN", help="Go on with a run that was interrupted.")
@click.option("--mlflow/--no-mlflow", default=True, help="Log to MLFLOW_TRACKING_URI, or to the stack's own server.")
@click.option("--wandb", is_flag=True, help="Log by wandb, too; offline unless WANDB_MODE says otherwise.")
@click.option("--json", "as_json", is_flag=True, help="The run as JSON, instead of words.")
def run(
    model: str,
    set_name: str,
    task: str,
    limit: int | None,
    seed: int,
    temperature: float,
    max_tokens: int | None,
    concurrency: int,
    shots: int | None,
    include: Path | None,
    api: str,
    tokenizer: str,
    url: str,
    key: str,
    output: Path | None,
    resume: str,
    mlflow: bool,
    wandb: bool,
    as_json: bool,
) -> None:
    """Ask MODEL a set of questions and measure its answers; or have lm-evaluation-harness run a task on it.

    \b
    sparkstack eval run smollm2 --set basics
    sparkstack eval run smollm2 --set mine.jsonl --limit 20
    sparkstack eval run smollm2 --task sparkstack_arithmetic
    sparkstack eval run --resume RUN

    A run is kept in the state folder (evaluations/RUN) as it goes: what was answered is not asked again.
    """
    from services.tracking.evaluation.door import DoorError
    from services.tracking.evaluation.harness import HarnessError, Task
    from services.tracking.evaluation.runs import RunError, Runs, evaluations_folder
    from services.tracking.evaluation.session import Asked, Place, begin_set, begin_task
    from services.tracking.evaluation.sets import SetError, find_set, read_set

    if resume and (model or set_name or task):
        raise click.UsageError("--resume goes on with a run as it was begun: leave MODEL, --set and --task out")
    if not resume and (not model or bool(set_name) == bool(task)):
        raise click.UsageError("name a MODEL and one of --set and --task (`sparkstack eval sets` lists them)")
    runs = Runs(evaluations_folder())
    try:
        if resume:
            begun = runs.load(resume)
            if begun.state == "finished":
                raise click.ClickException(f"{begun.id} has finished; `sparkstack eval show {begun.id}` shows it")
            place = Place(url.rstrip("/") or begun.url, key or stack_key())
        else:
            asked = Asked(model, limit, seed, temperature, max_tokens, concurrency)
            place = Place(url.rstrip("/") or stack_url("gateway"), key or stack_key())
            if set_name:
                begun = begin_set(asked, read_set(find_set(set_name)), place, runs)
            else:
                own = str(include.resolve()) if include else ""
                begun = begin_task(asked, Task(task, own, api, tokenizer, shots), place, runs)
        ended = _perform(begun, runs, place)
        if ended.state == "failed" and not ended.counts["items"]:
            runs.remove(ended)
            raise click.ClickException(ended.note)
    except (DoorError, HarnessError, RunError, SetError) as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"the run can't be kept in {runs.folder}: {error.strerror or error}") from None
    _show(ended, runs, as_json=as_json)
    _copy(ended, runs, output)
    if ended.state == "finished":
        _record(ended, runs, mlflow=mlflow, wandb=wandb)
    else:
        sys.exit(1)


def _perform(begun: "Run", runs: "Runs", place: "Place") -> "Run":
    from services.tracking.evaluation.session import perform

    bar = Bar(f"{begun.model} on {begun.set}")
    with terminated_as_interrupted():
        try:
            return perform(begun, runs, place, bar.show)
        except KeyboardInterrupt:
            bar.end()
            click.echo(f"\nsparkstack: {runs.load(begun.id).note}", err=True)
            sys.exit(130)
        finally:
            bar.end()


def _show(ended: "Run", runs: "Runs", *, as_json: bool) -> None:
    from services.tracking.evaluation.report import lines

    if as_json:
        click.echo(json.dumps(asdict(ended), indent=1, ensure_ascii=False))
    else:
        click.echo("\n".join(lines(ended, runs.items(ended))))
        click.echo(f"report: {runs.path(ended.id) / 'report.md'}")


def _copy(ended: "Run", runs: "Runs", output: Path | None) -> None:
    from services.tracking.evaluation.session import run_files

    if output is None:
        return
    try:
        output.mkdir(parents=True, exist_ok=True)
        for path in run_files(runs, ended):
            shutil.copyfile(path, output / path.name)
    except OSError as error:
        raise click.ClickException(f"the run can't be written to {output}: {error.strerror}") from None


def _record(ended: "Run", runs: "Runs", *, mlflow: bool, wandb: bool) -> None:
    from services.tracking.evaluation.recording import NotRecordedError, log_to_mlflow, log_to_wandb
    from services.tracking.evaluation.session import run_files

    uri = (os.environ.get("MLFLOW_TRACKING_URI") or stack_url("mlflow")) if mlflow else ""
    if uri:
        try:
            click.echo(f"mlflow: {log_to_mlflow(ended, run_files(runs, ended), uri)}", err=True)
        except NotRecordedError as error:
            click.echo(f"not logged to MLflow: {error}", err=True)
    if wandb:
        try:
            click.echo(f"wandb: {log_to_wandb(ended, runs.path(ended.id), state_folder())}", err=True)
        except NotRecordedError as error:
            click.echo(f"not logged to wandb: {error}", err=True)

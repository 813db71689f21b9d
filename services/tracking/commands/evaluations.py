"""`sparkstack eval sets|list|show`: what there is to ask, and what was asked."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from services.tracking.evaluation.runs import Run, RunError, Runs, evaluations_folder


@click.command("sets")
@click.argument("name", required=False, default="")
@click.option("--json", "as_json", is_flag=True)
def sets(name: str, as_json: bool) -> None:
    """List the sets and tasks that are shipped; of NAME (a set, or the path of one), check it and say what it has."""
    from services.tracking.evaluation.harness import shipped as shipped_tasks
    from services.tracking.evaluation.sets import SetError, find_set, read_set, shipped

    try:
        found = [read_set(path) for path in ([find_set(name)] if name else shipped())]
    except SetError as error:
        raise click.ClickException(str(error)) from None
    tasks = {} if name else shipped_tasks()
    if as_json:
        rows = [
            {
                "name": each.name,
                "questions": len(each.questions),
                "description": each.description,
                "licence": each.licence,
                "version": each.version,
                "digest": each.digest,
                "scorers": sorted({question.scorer_kind for question in each.questions}),
                "kinds": list(dict.fromkeys(question.kind for question in each.questions)),
            }
            for each in found
        ]
        click.echo(json.dumps({"sets": rows, "tasks": tasks}, indent=1, ensure_ascii=False))
        return
    _rows([["SET", "QUESTIONS", ""], *([each.name, str(len(each.questions)), each.description] for each in found)])
    if name:
        (only,) = found
        scorers = sorted({question.scorer_kind for question in only.questions})
        kinds = [kind for kind in dict.fromkeys(question.kind for question in only.questions) if kind]
        about = {
            "scorers": ", ".join(scorers),
            "kinds": ", ".join(kinds),
            "licence": only.licence,
            "version": only.version,
            "digest": only.digest[:16],
        }
        for label, value in about.items():
            if value:
                click.echo(f"  {label}: {value}")
    if tasks:
        click.echo("\nTasks of lm-evaluation-harness (its own can be named, too):")
        _rows([["TASK", ""], *([task, description] for task, description in tasks.items())])


@click.command("list")
@click.option("--model", default="")
@click.option("--set", "set_name", default="")
@click.option("--json", "as_json", is_flag=True)
def list_runs(model: str, set_name: str, as_json: bool) -> None:
    """List the runs, the newest first."""
    runs = Runs(evaluations_folder())
    found = runs.list(model, set_name)
    if as_json:
        click.echo(json.dumps([asdict(run) for run in found], indent=1, ensure_ascii=False))
        return
    if not found:
        click.echo("there are no runs yet; `sparkstack eval run MODEL --set basics` makes one")
        return
    rows = [["RUN", "MODEL", "SET", "SCORE", "ITEMS", "STATE"]]
    for run in found:
        score = f"{run.score.mean:.3f} [{run.score.low:.3f}, {run.score.high:.3f}]" if run.score else "–"
        name = f"{run.set} ({run.limit})" if run.limit else run.set
        rows.append([run.id, run.model, name, score, str(run.counts.get("items", 0)), _state(runs, run)])
    _rows(rows)


@click.command("show")
@click.argument("run_id", metavar="RUN")
@click.option("--items", is_flag=True, help="Every item, not the figures alone.")
@click.option("--failed", is_flag=True, help="The items that scored less than 1.")
@click.option("--json", "as_json", is_flag=True, help="The run and its items.")
def show(run_id: str, items: bool, failed: bool, as_json: bool) -> None:
    """Show RUN (its id, or the beginning of it): figures, counts, and on demand its items."""
    from services.tracking.evaluation.report import item_lines, lines

    runs = Runs(evaluations_folder())
    try:
        run = runs.load(run_id)
        found = runs.items(run)
    except RunError as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        click.echo(json.dumps(asdict(run) | {"items": [asdict(item) for item in found]}, indent=1, ensure_ascii=False))
        return
    click.echo("\n".join(lines(run, found)))
    for item in found:
        if items or (failed and item.score < 1):
            click.echo("\n".join(item_lines(item)))
    report = runs.path(run.id) / "report.md"
    if report.is_file():
        click.echo(f"report: {_short(report)}")


def _state(runs: Runs, run: Run) -> str:
    if run.state == "running":
        return "running" if runs.at_work(run) else "was killed; --resume goes on"
    return run.state


def _short(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _rows(rows: list[list[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

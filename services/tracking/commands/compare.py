"""`sparkstack eval compare`: runs side by side."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from services.tracking.evaluation.runs import Run, Runs

_MOST = 26


@click.command("compare")
@click.argument("names", metavar="RUN RUN…", nargs=-1, required=True)
@click.option("--set", "set_name", default="", metavar="NAME", help="Take the arguments for models: their newest runs.")
@click.option("--items", type=click.IntRange(0), default=5, show_default=True, help="Changed ones that are shown.")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), default=None, help="A report as Markdown.")
@click.option("--json", "as_json", is_flag=True)
def compare(names: tuple[str, ...], set_name: str, items: int, output: Path | None, as_json: bool) -> None:
    """Put two runs or more side by side: of two models, of two recipes, of one model before and after a change.

    Each is compared with the first, on the items that both were asked: the difference of the scores with its interval
    (paired bootstrap), McNemar's test where answers are right or wrong, seconds, tokens, and which items changed.

    \b
    sparkstack eval compare RUN_A RUN_B
    sparkstack eval compare smollm2 qwen3.6-35b --set basics
    """
    from services.tracking.evaluation import compare_report as report
    from services.tracking.evaluation.comparison import NotComparable
    from services.tracking.evaluation.comparison import compare as put_together
    from services.tracking.evaluation.runs import RunError, Runs, evaluations_folder

    if not 2 <= len(names) <= _MOST:
        raise click.UsageError(f"name two runs, or up to {_MOST}")
    runs = Runs(evaluations_folder())
    try:
        chosen = [_newest(runs, name, set_name) if set_name else runs.load(name) for name in names]
        asked = [runs.items(run) for run in chosen]
        found = [put_together(chosen[0], asked[0], run, each) for run, each in zip(chosen[1:], asked[1:], strict=True)]
    except (NotComparable, RunError) as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        click.echo(json.dumps([report.document(each) for each in found], indent=1, ensure_ascii=False))
    else:
        _left_table(report.side_by_side(chosen))
        for letter, run in zip(report.letters(len(chosen)), chosen, strict=True):
            click.echo(f"{letter}: {run.id}" + (f"  ({run.state})" if run.state != "finished" else ""))
        for letter, each in zip(report.letters(len(chosen))[1:], found, strict=True):
            click.echo("\n" + "\n".join(report.lines(each, letter, items)))
    if output is not None:
        try:
            output.write_text(report.markdown(chosen, found), encoding="utf-8")
        except OSError as error:
            raise click.ClickException(f"the report can't be written to {output}: {error.strerror}") from None
        click.echo(f"report: {output}", err=True)


def _newest(runs: "Runs", model: str, set_name: str) -> "Run":
    finished = [run for run in runs.list(set_name=set_name) if run.state == "finished"]
    # A model may have been asked under another of its names.
    found = next((run for run in finished if model in (run.model, run.recipe)), None)
    if found is None:
        raise click.ClickException(
            f"{model} has no finished run on {set_name}; `sparkstack eval run {model} --set {set_name}` makes one"
        )
    return found


def _left_table(rows: list[list[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

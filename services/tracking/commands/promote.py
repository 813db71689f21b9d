"""`sparkstack promote`: a model gets a name if it is not worse than the one that has it, and the name can go back."""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from services.tracking.commands.calling import stack_key, stack_url, state_folder
from services.tracking.commands.progress import terminated_as_interrupted

if TYPE_CHECKING:
    from services.tracking.evaluation.names import Event, Names
    from services.tracking.evaluation.session import Place


@click.command("promote")
@click.argument("candidate", required=False, default="")
@click.option("--as", "name", default="", metavar="NAME", help="The name that it gets, such as production.")
@click.option("--set", "sets", multiple=True, metavar="NAME|PATH", help="What both models are asked. Repeatable.")
@click.option(
    "--rules", "rules_file", type=click.Path(path_type=Path), default=None, help="Rules of your own, as YAML."
)
@click.option("--judge", "judge_model", default="", metavar="MODEL", help="Who judges the answers of both.")
@click.option("--baseline", default="", metavar="MODEL", help="Compare with this one. [what NAME stands for; or none]")
@click.option("--limit", type=click.IntRange(1), default=None, help="The first so many questions of each set alone.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--concurrency", type=click.IntRange(1, 256), default=1, show_default=True, help="Questions at a time.")
@click.option("--fresh", is_flag=True, help="Ask both anew, also where a run on the same questions is there.")
@click.option("--dry-run", is_flag=True, help="Say what would come of it, and change nothing.")
@click.option("--force", default="", metavar="REASON", help="Promote whatever the rules say; noted with the reason.")
@click.option("--rollback", default="", metavar="NAME", help="Have NAME stand for what it stood for before.")
@click.option("--remove", default="", metavar="NAME", help="Have NAME stand for nothing.")
@click.option("--list", "listing", is_flag=True, help="The names, what they stand for, and how that came about.")
@click.option("--url", default="", help="Where the gateway is. [as `up` has started it]")
@click.option("--key", default="", help="The key to it. [SPARKSTACK_API_KEY]")
@click.option("--json", "as_json", is_flag=True)
def promote(
    candidate: str,
    name: str,
    sets: tuple[str, ...],
    rules_file: Path | None,
    judge_model: str,
    baseline: str,
    limit: int | None,
    seed: int,
    concurrency: int,
    fresh: bool,
    dry_run: bool,
    force: str,
    rollback: str,
    remove: str,
    listing: bool,
    url: str,
    key: str,
    as_json: bool,
) -> None:
    """Give CANDIDATE the model name NAME if it is not worse than the model that has it; clients go on asking for NAME.

    Both are asked the same questions through the gateway. Each rule (services/tracking/evaluation/rules.yaml, or your
    own) is shown with what was found and what was wanted. A candidate that breaks a rule, or of which too little is
    known, is refused: exit status 3, and nothing changes.

    \b
    sparkstack promote smollm2 --as production --set basics
    sparkstack promote --rollback production
    sparkstack promote --list
    """
    from services.tracking.commands.promoting import Request, promote_candidate, say_taken
    from services.tracking.evaluation.names import NameRefused, Names
    from services.tracking.evaluation.session import Asked, Place

    _one_of(candidate, rollback, remove, listing=listing)
    names = Names(_names_file())
    place = Place(url.rstrip("/") or stack_url("gateway"), key or stack_key())
    try:
        if listing:
            _list(names, as_json=as_json)
        elif rollback:
            _back(names, rollback, place)
        elif remove:
            say_taken(names.remove(remove), names, place)
        elif not name or not sets:
            raise click.UsageError("say which name it gets (--as production) and what it is asked (--set basics)")
        else:
            asked = Asked(candidate, limit, seed, concurrency=concurrency)
            request = Request(asked, name, sets, rules_file, judge_model, baseline, fresh, dry_run, force, as_json)
            with terminated_as_interrupted():
                promote_candidate(request, names, place)
    except NameRefused as error:
        raise click.ClickException(str(error)) from None
    except KeyboardInterrupt:
        click.echo("\nsparkstack: interrupted; nothing has changed. Runs that have finished are used again", err=True)
        sys.exit(130)


def _one_of(candidate: str, rollback: str, remove: str, *, listing: bool) -> None:
    given = [each for each in (candidate, rollback, remove, listing) if each]
    if len(given) != 1:
        raise click.UsageError("name a CANDIDATE, or one of --rollback NAME, --remove NAME and --list")


def _names_file() -> Path:
    return Path(os.environ.get("GATEWAY_ALIASES_FILE") or state_folder() / "names" / "aliases.json").expanduser()


def _back(names: "Names", name: str, place: "Place") -> None:
    from services.kit.mlflow import MlflowError
    from services.tracking.commands.promoting import mlflow_url, say_taken
    from services.tracking.evaluation.registry import point

    event = names.roll_back(name)
    uri = mlflow_url()
    if uri and event.version:
        try:
            point(uri, name, event.version)
        except MlflowError as error:
            click.echo(f"not noted in MLflow's registry: {error}", err=True)
    say_taken(event, names, place)


def _list(names: "Names", *, as_json: bool) -> None:
    from services.tracking.evaluation.names import shown

    given = names.all()
    if as_json:
        history = {name: [shown(event) for event in names.history(name)] for name in given}
        log = [shown(event) for event in names.log()]
        click.echo(json.dumps({"names": given, "history": history, "log": log}, indent=1, ensure_ascii=False))
        return
    if not given:
        click.echo("no model has been promoted; `sparkstack promote MODEL --as production --set basics` does it")
    for name, model in sorted(given.items()):
        click.echo(f"{name} stands for {model}")
    for event in names.log()[:20]:
        click.echo(f"  {event.at}  {_told(event)}")


def _told(event: "Event") -> str:
    before = f", before: {event.before}" if event.before else ""
    by = f", by {event.by}" if event.by else ""
    note = f" ({event.note})" if event.note else ""
    return f"{event.name}: {event.what} {event.model}{before}{by}{note}".replace("  ", " ")

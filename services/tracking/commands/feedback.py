"""`sparkstack feedback give|list|import`: what people say of answers."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from services.tracking.commands.calling import stack

_PORTION = 500


@click.group()
@click.option("--url", default="", help="Where the stack's gateway is. [as `up` has started it]")
@click.pass_context
def feedback(ctx: click.Context, url: str) -> None:
    """Say what an answer was worth, list what was said, take over ratings from Open WebUI.

    \b
    sparkstack feedback give REQUEST_ID --thumb up --comment "to the point"
    sparkstack feedback import feedback-history-export.json
    """
    ctx.obj = url


@feedback.command(short_help="say what an answer was worth")
@click.argument("request_id")
@click.option("--thumb", type=click.Choice(["up", "down"]), default=None)
@click.option("--score", type=click.FloatRange(-1, 1), default=None, help="-1 (bad) to 1 (good).")
@click.option("--comment", default="", help="Personal data in it is masked.")
@click.option("--label", "labels", multiple=True, help="Repeatable.")
@click.pass_obj
def give(
    url: str, request_id: str, thumb: str | None, score: float | None, comment: str, labels: tuple[str, ...]
) -> None:
    """Say what the answer to REQUEST_ID (its `x-request-id`) was worth. The last word on it counts."""
    if (thumb is None) == (score is None):
        raise click.UsageError("give --thumb up|down or --score NUMBER")
    body = {"request_id": request_id, "comment": comment, "labels": list(labels)}
    with stack(url) as door:
        said = door.ask("POST", "/v1/feedback", json={**body, **({"thumb": thumb} if thumb else {"score": score})})
    known = "" if said["known"] else "; no such request is stored (yet: that takes a few seconds)"
    click.echo(f"{request_id}: {said['score']:+g}{known}")


@feedback.command("list", short_help="list what was said, the newest first")
@click.option("--model", default="", help="Of this model alone.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="The service's answer.")
@click.pass_obj
def list_(url: str, model: str, limit: int, as_json: bool) -> None:
    """List feedback, the newest first."""
    with stack(url) as door:
        found = door.ask("GET", "/v1/feedback", params={"model": model, "limit": limit})
    if as_json:
        click.echo(json.dumps(found, indent=1, ensure_ascii=False))
        return
    if not found["data"]:
        click.echo("nobody has said anything yet")
    for each in found["data"]:
        when = datetime.fromtimestamp(each["at"]).astimezone()
        about = each["request_id"] or each["trace_id"] or each["source"]
        labels = f"  [{', '.join(each['labels'])}]" if each["labels"] else ""
        comment = f"  {each['comment']}" if each["comment"] else ""
        click.echo(f"{when:%Y-%m-%d %H:%M}  {each['score']:+g}  {each['model'] or '-'}  {about}{labels}{comment}")


@feedback.command("import", short_help="take over Open WebUI's ratings")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.pass_obj
def import_(url: str, file: Path) -> None:
    """Take over the ratings in FILE, Open WebUI's export (Admin Panel, Evaluations, Feedbacks).

    The chats in it stay on this machine: rating, reason, comment, model and who gave it (as a digest) are taken.
    The same file again changes nothing.
    """
    from services.tracking.openwebui import NotAnExport, ratings

    found: list[dict[str, Any]]
    try:
        found, others = ratings(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, NotAnExport) as error:
        raise click.ClickException(f"{file}: {error}") from None
    with stack(url) as door:
        for first in range(0, len(found), _PORTION):
            portion = found[first : first + _PORTION]
            door.ask("POST", "/v1/feedback/import", json={"source": "openwebui", "ratings": portion})
    left = f"; {others:,} entries are no ratings" if others else ""
    click.echo(f"{len(found):,} ratings are taken over{left}")

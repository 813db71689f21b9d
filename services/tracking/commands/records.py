"""`sparkstack records summary|show|rm`: what is kept of requests, and how to be rid of it."""

import json
import sys
from datetime import datetime
from typing import Any
from urllib.parse import quote

import click

from services.tracking.commands.calling import show_table, stack

_JSON = click.option("--json", "as_json", is_flag=True, help="The service's answer.")


@click.group()
@click.option("--url", default="", help="Where the stack's gateway is. [as `up` has started it]")
@click.pass_context
def records(ctx: click.Context, url: str) -> None:
    """Look at what is kept of requests, or delete it.

    \b
    sparkstack records summary --hours 1
    sparkstack records show REQUEST_ID
    sparkstack records rm --user ada@example.com
    """
    ctx.obj = url


@records.command(short_help="the last hours at a glance")
@click.option("--hours", type=click.FloatRange(0, 24 * 366, min_open=True), default=24, show_default=True)
@_JSON
@click.pass_obj
def summary(url: str, hours: float, as_json: bool) -> None:
    """Show requests, failures, tokens and times of the last hours."""
    with stack(url) as door:
        found = door.ask("GET", "/v1/tracking/summary", params={"hours": hours})
    if as_json:
        click.echo(json.dumps(found, indent=1, ensure_ascii=False))
        return
    click.echo(
        f"{found['requests']:,} requests in {hours:g} hours, {found['failed']:,} failed; "
        f"{found['prompt_tokens']:,} tokens in, {found['completion_tokens']:,} out\n"
        f"answer: {_times(found['seconds'])}; first token: {_times(found['first_token_s'])}"
    )
    if found["models"]:
        rows = [
            [each["model"], f"{each['requests']:,}", f"{each['failed']:,}", f"{each['mean_seconds']:.2f}"]
            for each in found["models"]
        ]
        show_table([["MODEL", "REQUESTS", "FAILED", "MEAN SECONDS"], *rows])
    state = found.get("service")
    if state:
        lost = f"; {state['dropped']:,} dropped since the service started" if state["dropped"] else ""
        click.echo(f"records: {state['records']}, kept for {state['keep_days']} days{lost}")


@records.command(short_help="one request, by its id or its trace's")
@click.argument("request_id")
@_JSON
@click.pass_obj
def show(url: str, request_id: str, as_json: bool) -> None:
    """Show what is kept of REQUEST_ID (its `x-request-id`, or the id of its trace), and what was said of it."""
    with stack(url) as door:
        found = door.ask("GET", f"/v1/tracking/requests/{quote(request_id, safe='')}")
    if as_json:
        click.echo(json.dumps(found, indent=1, ensure_ascii=False))
        return
    for each in found["requests"]:
        _show_request(each)
    for each in found["feedback"]:
        click.echo(f"{each['score']:+g} by {each['caller']}  {each['comment']}".rstrip())


@records.command(short_help="delete what is kept of a user or of a key")
@click.option("--user", default="", help="Whom the client named in `user`, or a verified identity.")
@click.option("--key", default="", help="The name of a key.")
@click.option("--yes", "-y", is_flag=True, help="don't ask")
@click.pass_obj
def rm(url: str, user: str, key: str, yes: bool) -> None:
    """Delete requests, texts and feedback of a user or of a key. Sums of cost stay, and name neither."""
    if bool(user) == bool(key):
        raise click.UsageError("name --user or --key, one of them")
    kind, name = ("users", user) if user else ("keys", key)
    if not yes and not (sys.stdin.isatty() and click.confirm(f"Delete all records of {name}?")):
        raise click.ClickException("nothing was deleted; `--yes` deletes without asking")
    with stack(url) as door:
        gone = door.ask("DELETE", f"/v1/tracking/{kind}/{quote(name, safe='')}")["deleted"]
    click.echo(f"{gone['requests']:,} requests and {gone['feedback']:,} feedback of {name} are deleted")


def _show_request(each: dict[str, Any]) -> None:
    when = datetime.fromtimestamp(each["at"]).astimezone()
    inner = "  (inner)" if each["hops"] else ""
    click.echo(
        f"{when:%Y-%m-%d %H:%M:%S}  {each['model']}  {each['status']} {each['outcome']}  {each['seconds']:.2f} s  "
        f"{each['prompt_tokens']:,} tokens in, {each['completion_tokens']:,} out  by {each['key']}{inner}"
    )
    for name in ("error", "trace_id", "finish_reason"):
        if each[name]:
            click.echo(f"  {name}: {each[name]}")
    for name, value in sorted(each["features"].items()):
        click.echo(f"  {name}: {value}")
    for name in ("prompt", "answer"):
        if each[name]:
            click.echo(f"  {name}: {each[name]}")


def _times(found: dict[str, float | None]) -> str:
    return ", ".join(f"{name} {value:.2f} s" for name, value in found.items() if value is not None) or "none yet"

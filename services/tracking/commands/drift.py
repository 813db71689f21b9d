"""`sparkstack drift show|reference|promote|report|synthetic`: has anything changed, compared with what, and a trial."""

import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from services.tracking.commands.calling import Stack, stack

_REPORT_S = 330.0
_KINDS = ("none", "language", "topic", "longer", "worse")


@click.group()
@click.option("--url", default="", help="Where the stack's gateway is. [as `up` has started it]")
@click.pass_context
def drift(ctx: click.Context, url: str) -> None:
    """See whether requests or answers have changed; choose what they are compared with.

    \b
    sparkstack drift show
    sparkstack drift promote monday --windows 5
    sparkstack drift report --output report.html
    """
    ctx.obj = url


@drift.command(short_help="the newest window against the reference")
@click.option("--windows", type=click.IntRange(1, 1000), default=10, show_default=True, help="List so many.")
@click.option("--json", "as_json", is_flag=True, help="The service's answer.")
@click.pass_obj
def show(url: str, windows: int, as_json: bool) -> None:
    """Show the newest windows, and what was found in the newest one, signal by signal."""
    with stack(url) as door:
        found = door.ask("GET", "/v1/tracking/drift", params={"windows": windows})
    if as_json:
        click.echo(json.dumps(found, indent=1, ensure_ascii=False))
        return
    _say_state(found)
    if not found["windows"]:
        return
    rows = [["WINDOW", "UNTIL", "REQUESTS", "REFERENCE", "CHANGED"]]
    for window in found["windows"]:
        changed = [finding["signal"] for finding in window["findings"] if finding["alarm"]]
        said = ", ".join(changed) or ("nothing" if window["reference"] else "-")
        until = datetime.fromtimestamp(window["last_at"]).astimezone()
        rows.append(
            [str(window["id"]), f"{until:%m-%d %H:%M}", str(window["size"]), window["reference"] or "(none yet)", said]
        )
    _left_table(rows)
    newest = next((window for window in found["windows"] if window["findings"]), None)
    if newest:
        click.echo(f"\nwindow {newest['id']}:")
        _left_table([["SIGNAL", "SCORE", "P", "", ""], *(_finding(each) for each in newest["findings"])])


@drift.group(short_help="list, make, remove what windows are compared with", invoke_without_command=True)
@click.pass_context
def reference(ctx: click.Context) -> None:
    """List the references; `make` and `rm` are beside."""
    if ctx.invoked_subcommand is not None:
        return
    with stack(ctx.obj) as door:
        found = door.ask("GET", "/v1/tracking/references")["data"]
    if not found:
        click.echo("there is no reference yet: the first two windows become one by themselves")
        return
    rows = [["NAME", "REQUESTS", "MADE", "", ""]]
    for each in found:
        made = datetime.fromtimestamp(each["made_at"]).astimezone()
        size = str(each["kept"]) if each["kept"] == each["size"] else f"{each['kept']} of {each['size']}"
        rows.append([each["name"], size, f"{made:%Y-%m-%d %H:%M}", "in use" if each["in_use"] else "", each["note"]])
    _left_table(rows)


@reference.command("make", short_help="make one of stored windows")
@click.argument("name")
@click.option("--windows", type=click.IntRange(1, 50), default=None, help="Of so many, the newest. [2]")
@click.option("--window", type=click.IntRange(1), default=None, help="Of this one alone.")
@click.option("--note", default="")
@click.pass_obj
def make(url: str, name: str, windows: int | None, window: int | None, note: str) -> None:
    """Make a reference NAME of stored windows; one of this name is replaced."""
    with stack(url) as door:
        _made(door, name, windows, window, note, promoted=False)


@reference.command("rm", short_help="remove one")
@click.argument("name")
@click.pass_obj
def rm(url: str, name: str) -> None:
    """Remove the reference NAME; where it was in use, the one before it is in use again."""
    with stack(url) as door:
        door.ask("DELETE", f"/v1/tracking/references/{quote(name, safe='')}")
    click.echo(f"{name} is removed; its requests stay")


@drift.command(short_help="compare windows with this reference from now on")
@click.argument("name")
@click.option("--windows", type=click.IntRange(1, 50), default=None, help="Make it first, of so many, the newest.")
@click.option("--window", type=click.IntRange(1), default=None, help="Make it first, of this window.")
@click.pass_obj
def promote(url: str, name: str, windows: int | None, window: int | None) -> None:
    """Put the reference NAME in use; with --windows or --window it is made first."""
    with stack(url) as door:
        if windows or window:
            _made(door, name, windows, window, "", promoted=True)
            return
        found = door.ask("POST", f"/v1/tracking/references/{quote(name, safe='')}/promote")
    click.echo(f"{name} is in use: {found['kept']} requests")


@drift.command(short_help="make a page on a window")
@click.option("--window", type=click.IntRange(1), default=None, help="On this one. [the newest that was compared]")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), default=None, help="[drift-WINDOW.html]")
@click.pass_obj
def report(url: str, window: int | None, output: Path | None) -> None:
    """Have Evidently make a page on a window, wait for it, and save it here."""
    with stack(url) as door:
        asked = door.ask("POST", "/v1/tracking/reports", json={"window": window} if window else {})
        path = f"/v1/tracking/reports/{asked['id']}"
        deadline = time.monotonic() + _REPORT_S
        while time.monotonic() < deadline:
            answer = door.client.get(door.url + path)
            if answer.headers.get("content-type", "").startswith("text/html"):
                target = output or Path(f"drift-{asked['window']}.html")
                target.write_bytes(answer.content)
                click.echo(f"{target}: window {asked['window']} against {asked['reference']}; also at {door.url}{path}")
                return
            found = answer.json()
            if answer.status_code >= 400 or found.get("status") == "failed":
                raise click.ClickException(f"no report: {found.get('error')}")
            time.sleep(1)
    raise click.ClickException("the report is not ready yet; `sparkstack logs tracking` may say why")


@drift.command(short_help="send traffic that drifts on purpose")
@click.option("--kind", type=click.Choice(_KINDS), default="none", show_default=True)
@click.option("--count", type=click.IntRange(1, 100_000), default=200, show_default=True)
@click.option("--share", type=click.FloatRange(0, 1), default=1.0, show_default=True, help="So much of it drifts.")
@click.option("--model", default="", help="[the stack's default]")
@click.option("--max-tokens", type=click.IntRange(4, 4096), default=48, show_default=True)
@click.option("--parallel", type=click.IntRange(1, 64), default=4, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True)
@click.pass_obj
def synthetic(
    url: str, kind: str, count: int, share: float, model: str, max_tokens: int, parallel: int, seed: int
) -> None:
    """Send questions to a model: the usual ones (none), in other languages, on another topic, longer, answered worse.

    The gateway samples one request in ten (GATEWAY_RECORD_SAMPLE), and a window is 200 sampled ones
    (TRACKING_WINDOW_RECORDS). For a trial, start the stack with GATEWAY_RECORD_SAMPLE=1 TRACKING_WINDOW_RECORDS=50.

    \b
    sparkstack drift synthetic --count 100                     # two windows: they become the reference
    sparkstack drift synthetic --count 50 --kind language      # a window that has changed
    sparkstack drift show
    """
    from services.tracking.drift.synthetic import SAYS, asks

    chosen: Any = kind
    with stack(url) as door:
        name = model or _default_model(door)

        def send(ask: Any) -> int:
            body: dict[str, Any] = {
                "model": name,
                "messages": [{"role": "user", "content": ask.prompt}],
                "max_tokens": ask.max_tokens,
            }
            if ask.temperature is not None:
                body["temperature"] = ask.temperature
            return door.client.post(f"{door.url}/v1/chat/completions", json=body).status_code

        # The first one says what is wrong, if something is; the client is shared by the threads.
        with ThreadPoolExecutor(parallel) as pool:
            statuses = Counter(pool.map(send, asks(chosen, count, seed, share, max_tokens)))
    click.echo(f"{SAYS[chosen]}: {count:,} requests to {name}, {statuses[200]:,} answered")
    if statuses[200] < count:
        others = ", ".join(f"{number} × {status}" for status, number in sorted(statuses.items()) if status != 200)
        raise click.ClickException(
            f"not answered: {others}; `sparkstack status` and `sparkstack logs gateway` tell more"
        )


def _default_model(door: Stack) -> str:
    models = [
        each["id"]
        for each in door.ask("GET", "/v1/models")["data"]
        if "chat" in each.get("sparkstack", {}).get("capabilities", ["chat"]) and "/" not in each["id"]
    ]
    if not models:
        raise click.ClickException("the stack has no model that chats; name one: --model NAME")
    return str(models[0])


def _made(door: Stack, name: str, windows: int | None, window: int | None, note: str, *, promoted: bool) -> None:
    of = {"window": window} if window else {"windows": windows} if windows else {}
    found = door.ask("POST", "/v1/tracking/references", json={"name": name, "note": note, "promote": promoted, **of})
    use = "in use" if found["in_use"] else f"not in use; `sparkstack drift promote {name}` puts it in use"
    click.echo(f"{name} is made of {found['size']} requests, {use}")


def _say_state(found: dict[str, Any]) -> None:
    in_use = found["reference"]
    if in_use:
        click.echo(f"compared with {in_use['name']} ({in_use['kept']} requests)")
    else:
        click.echo("there is no reference yet: the first two windows become one by themselves")
    click.echo(f"the next window has {found['filled']} of {found['window_records']} sampled requests")
    if not found["measures_meaning"]:
        click.echo("meaning is not measured: the service knows no embeddings service (TRACKING_EMBEDDINGS_URL)")
    if found["trouble"]:
        click.echo(f"trouble: {found['trouble']}")


def _finding(each: dict[str, Any]) -> list[str]:
    detail = ", ".join(f"{name} {value:g}" for name, value in each["detail"].items())
    return [each["signal"], f"{each['score']:.3f}", f"{each['p']:.2g}", "CHANGED" if each["alarm"] else "", detail]


def _left_table(rows: list[list[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

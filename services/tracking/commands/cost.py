"""`sparkstack cost`: tokens, seconds, energy and money."""

import json
from datetime import datetime
from typing import Any

import click

from services.tracking.commands.calling import show_table, stack

_DAY = click.DateTime(["%Y-%m-%d"])


@click.command()
@click.option("--by", type=click.Choice(["key", "model", "day"]), default="model", show_default=True)
@click.option("--from", "first", type=_DAY, help="First day, UTC. [the beginning]")
@click.option("--to", "last", type=_DAY, help="Last day, UTC; it counts. [today]")
@click.option("--json", "as_json", is_flag=True, help="The service's answer.")
@click.option("--url", default="", help="Where the stack's gateway is. [as `up` has started it]")
def cost(by: str, first: datetime | None, last: datetime | None, as_json: bool, url: str) -> None:
    """Show what was used by key, model or day: tokens, seconds of answering, energy where it is measured, money.

    \b
    sparkstack cost --by day --from 2026-12-01
    TRACKING_TARIFF=prices.yaml names your prices; services/tracking/README.md shows the file.
    """
    days = {name: f"{day:%Y-%m-%d}" for name, day in (("from", first), ("to", last)) if day}
    with stack(url) as door:
        found = door.ask("GET", "/v1/tracking/costs", params={"by": by, **days})
    if as_json:
        click.echo(json.dumps(found, indent=1, ensure_ascii=False))
        return
    if not found["data"]:
        click.echo("nothing was used yet, or it is not stored yet: that takes a few seconds")
        return
    currency = found["currency"]
    head = [by.upper(), "REQUESTS", "FAILED", "TOKENS IN", "TOKENS OUT", "SECONDS", "WATT HOURS", (currency or "MONEY")]
    show_table([head, *(_row(each) for each in [*found["data"], found["total"]])])
    for remark in _remarks(found):
        click.echo(remark)


def _row(each: dict[str, Any]) -> list[str]:
    return [
        each["name"] or "-",
        f"{each['requests']:,}",
        f"{each['failed']:,}",
        f"{each['prompt_tokens']:,}",
        f"{each['completion_tokens']:,}",
        f"{each['seconds']:,.1f}",
        "-" if each["joules"] is None else f"{each['joules'] / 3600:,.3f}",
        "-" if each["money"] is None else f"{each['money']:,.4f}",
    ]


def _remarks(found: dict[str, Any]) -> list[str]:
    remarks = []
    total = found["total"]
    if total["joules"] is None:
        remarks.append("Energy is not measured: this machine shows no power that the service may read (NVML, RAPL).")
    elif found["energy_sources"]:
        remarks.append(f"Energy is what {', '.join(found['energy_sources'])} used; (idle): while nothing was asked.")
    if not found["currency"]:
        remarks.append("Money: no prices are known; TRACKING_TARIFF names a file with yours.")
    elif found["unpriced_models"]:
        remarks.append(f"Without a price, and not in the money: {', '.join(found['unpriced_models'])}.")
    if total["estimated"]:
        remarks.append(f"The tokens of {total['estimated']:,} requests are an estimate: their engine counted none.")
    return remarks

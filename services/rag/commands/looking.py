"""`sparkstack rag collections|show|jobs|rm`: what there is, and how to be rid of it."""

import json
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from urllib.parse import quote

import click

from services.rag.commands.calling import Stack, collection_path, stack
from services.rag.commands.progress import describe


@click.command(short_help="list the collections")
@click.option("--json", "as_json", is_flag=True, help="The whole answer of the service.")
@click.pass_obj
def collections(url: str, as_json: bool) -> None:
    """List the collections: each is the model rag/NAME."""
    with stack(url or "") as door:
        listed = door.get("/v1/collections")
    if as_json:
        click.echo(json.dumps(listed, indent=1, ensure_ascii=False))
        return
    if not listed["data"]:
        click.echo("there is none yet; `sparkstack rag ingest PATH --collection NAME` makes one")
        return
    rows = [["NAME", "DOCUMENTS", "CHUNKS", "IN PROGRESS", "FAILED", "VISIBLE", "EMBEDDINGS"]]
    for each in listed["data"]:
        documents = each["documents"]
        rows.append(
            [
                each["name"],
                f"{documents['ready']:,}",
                f"{each['chunks']:,}",
                f"{documents['in_progress']:,}",
                f"{documents['failed']:,}",
                each["visibility"],
                each["embedding_model"],
            ]
        )
    _table(rows)


@click.command(short_help="show a collection and its documents")
@click.argument("name")
@click.option("--status", type=click.Choice(["in_progress", "completed", "failed", "cancelled"]), default=None)
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=50, show_default=True, help="Documents.")
@click.option("--json", "as_json", is_flag=True, help="The service's answers in one document.")
@click.pass_obj
def show(url: str, name: str, status: str | None, limit: int, as_json: bool) -> None:
    """Show the collection NAME and its documents."""
    with stack(url or "") as door:
        about = door.get(collection_path(name))
        documents = _documents(door, name, status, limit)
    if as_json:
        click.echo(json.dumps({**about, "data": documents}, indent=1, ensure_ascii=False))
        return
    cut = about["chunking"]
    counts = about["documents"]
    click.echo(
        f"{about['name']}: {counts['ready']:,} documents ready, {counts['in_progress']:,} in progress, "
        f"{counts['failed']:,} failed; {about['chunks']:,} chunks\n"
        f"{about['visibility']}; cut by {cut['chunker']} to {cut['tokens']} tokens, {cut['overlap_tokens']} shared\n"
        f"embedded by {about['embedding_model']}\n"
    )
    for each in documents:
        reason = f"  {each['error']['message']}" if each["error"] else ""
        click.echo(f"{each['name']}  {each['status']}, {each['chunks']:,} chunks{reason}")
    shown, total = len(documents), counts["total"]
    if status is None and shown < total:
        click.echo(f"… and {total - shown:,} more: --limit {total}")


@click.command(short_help="list what was ingested, and how far it is")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="The service's answers in one document.")
@click.pass_obj
def jobs(url: str, name: str | None, as_json: bool) -> None:
    """List the jobs of NAME, or of every collection, the newest first."""
    with stack(url or "") as door:
        names = [name] if name else [each["name"] for each in door.get("/v1/collections")["data"]]
        listed = {each: door.get(collection_path(each, "/jobs"))["data"] for each in names}
    if as_json:
        click.echo(json.dumps(listed, indent=1, ensure_ascii=False))
        return
    for each, found in listed.items():
        for job in found:
            began = datetime.fromtimestamp(job["created_at"]).astimezone()
            click.echo(f"{each}  {job['id']}  {began:%Y-%m-%d %H:%M}  {job['status']}  {describe(job)}")
    if not any(listed.values()):
        click.echo("nothing was ingested yet")


@click.command(short_help="remove a document, or a whole collection")
@click.argument("name")
@click.argument("document", required=False)
@click.option("--yes", "-y", is_flag=True, help="don't ask")
@click.pass_obj
def rm(url: str, name: str, document: str | None, yes: bool) -> None:
    """Remove DOCUMENT (its name or id) from the collection NAME, or all of NAME."""
    with stack(url or "") as door:
        if document:
            gone = door.delete(collection_path(name, f"/documents/{quote(document)}"))
            click.echo(f"{gone['name']} is removed from {name}")
            return
        about = door.get(collection_path(name))
        count = about["documents"]["total"]
        if not yes and not (sys.stdin.isatty() and click.confirm(f"Remove {name} with its {count:,} documents?")):
            raise click.ClickException("nothing was removed; `--yes` removes without asking")
        door.delete(collection_path(name))
        click.echo(f"{name} is removed with its {count:,} documents")


def _documents(door: Stack, name: str, status: str | None, limit: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    parameters: dict[str, Any] = {"status": status} if status else {}
    while len(found) < limit:
        page = door.get(collection_path(name, "/documents"), limit=min(1000, limit - len(found)), **parameters)
        found += page["data"]
        if not page["has_more"]:
            break
        parameters["after"] = page["last_id"]
    return found


def _table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

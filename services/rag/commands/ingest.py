"""`sparkstack rag ingest`: send files and folders, and wait until all of it is searchable."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from services.rag.commands.calling import Failed, Stack, collection_path, stack
from services.rag.commands.folders import Found, find_documents
from services.rag.commands.progress import ProgressLine

_FILES_AT_ONCE = 100
_BYTES_AT_ONCE = 16_000_000
_LOOK_AGAIN_S = 2.0
_GIVE_UP_S = 120.0
SOME_FAILED = 3


@click.command(short_help="put files and folders into a collection")
@click.argument("paths", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--collection", required=True, metavar="NAME", help="It is made where there is none.")
@click.option(
    "--chunker",
    type=click.Choice(["fixed", "sentence", "heading", "semantic"]),
    help="How documents are cut. An existing collection is cut anew.",
)
@click.option("--chunk-tokens", type=click.IntRange(16, 8192), help="Tokens in a chunk, at most.")
@click.option("--private", is_flag=True, help="Each caller sees its own documents alone (of a new collection).")
@click.option("--sync", is_flag=True, help="Remove the documents of these folders that are no longer in them.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document at the end, no progress.")
@click.pass_obj
def ingest(
    url: str,
    paths: tuple[Path, ...],
    collection: str,
    chunker: str | None,
    chunk_tokens: int | None,
    private: bool,
    sync: bool,
    as_json: bool,
) -> None:
    """Put files and folders into a collection. Returns when all of it is searchable.

    What is there already with the same content costs nothing; other content of the same name replaces it. Exits with
    3 where some files can't be read, naming each.

    \b
    sparkstack rag ingest docs/ --collection handbook
    sparkstack rag ingest docs/ --collection handbook --sync       # and remove what is no longer in docs/
    """
    found = find_documents(paths)
    if not found.files and not sync:
        raise click.ClickException(f"there is no document to send{f' ({found.summary})' if found.skipped else ''}")
    if sync and not found.prefixes:
        raise click.ClickException("--sync needs a folder: it removes the documents of that folder that are gone")
    line = ProgressLine(quiet=as_json)
    with stack(url or "") as door:
        _ensure_collection(door, collection, chunker, chunk_tokens, private=private)
        jobs = [_send(door, collection, part, line, sync=sync) for part in _by_folder(found)]
        ended = [_follow(door, collection, job, line) for job in jobs if job is not None]
    line.end()
    _report(collection, found, ended, as_json=as_json)


def _by_folder(found: Found) -> Iterator[tuple[str, list[tuple[str, Path]]]]:
    """Give what is one job: each folder, and all single files together."""
    rest = list(found.files)
    for prefix in dict.fromkeys(found.prefixes):
        yield prefix, [each for each in rest if each[0].startswith(prefix)]
        rest = [each for each in rest if not each[0].startswith(prefix)]
    if rest:
        yield "", rest


def _ensure_collection(door: Stack, name: str, chunker: str | None, chunk_tokens: int | None, *, private: bool) -> None:
    chunking = {"chunker": chunker, "tokens": chunk_tokens}
    given = {key: value for key, value in chunking.items() if value is not None}
    try:
        there = door.get(collection_path(name))
    except Failed as failed:
        if failed.status != 404:
            raise
        visibility = "private" if private else "shared"
        door.post("/v1/collections", {"name": name, "visibility": visibility, "chunking": given})
        return
    if private and there["visibility"] != "private":
        raise click.ClickException(f"{name} is shared, and stays so; take another name for a private collection")
    if any(there["chunking"][key] != value for key, value in given.items()):
        door.patch(collection_path(name), {"chunking": given})


def _send(
    door: Stack, collection: str, part: tuple[str, list[tuple[str, Path]]], line: ProgressLine, *, sync: bool
) -> dict[str, Any] | None:
    """Send the files of one job; return it. None where there is nothing to send, nor to remove."""
    prefix, files = part
    sync = sync and bool(prefix)
    batches = list(_batches(files)) or ([[]] if sync else [])
    job: dict[str, Any] | None = None
    for number, batch in enumerate(batches, 1):
        parameters: dict[str, Any] = {"more": number < len(batches)}
        if job is not None:
            parameters["job"] = job["id"]
        if sync and number == len(batches):
            parameters |= {"sync": True, "prefix": prefix}
        with ExitStack() as opened:
            # A field that says nothing keeps a request without files a form.
            parts: list[Any] = [("attributes", (None, "{}"))]
            parts += [("files", (name, opened.enter_context(path.open("rb")))) for name, path in batch]
            job = door.upload(collection_path(collection, "/documents"), parts, **_flags(parameters))
        line.show(job)
    return job


def _flags(parameters: dict[str, Any]) -> dict[str, Any]:
    return {name: str(value).lower() if isinstance(value, bool) else value for name, value in parameters.items()}


def _batches(files: list[tuple[str, Path]]) -> Iterator[list[tuple[str, Path]]]:
    batch: list[tuple[str, Path]] = []
    size = 0
    for name, path in files:
        here = path.stat().st_size
        if batch and (len(batch) >= _FILES_AT_ONCE or size + here > _BYTES_AT_ONCE):
            yield batch
            batch, size = [], 0
        batch.append((name, path))
        size += here
    if batch:
        yield batch


def _follow(door: Stack, collection: str, job: dict[str, Any], line: ProgressLine) -> dict[str, Any]:
    """Return a job when it has ended. A service that is restarted meanwhile goes on with it."""
    path = collection_path(collection, f"/jobs/{job['id']}")
    silent_since = time.monotonic()
    while job["stage"] != "done":
        try:
            with door.events("GET", f"{path}?stream=true") as lines:
                for text in lines:
                    if text.startswith("data: "):
                        job = json.loads(text.removeprefix("data: "))
                        if "error" in job:
                            raise click.ClickException(str(job["error"].get("message")))
                        line.show(job)
                        silent_since = time.monotonic()
        except click.ClickException as failed:
            lost = not isinstance(failed, Failed) or failed.status in (502, 503, 504)
            if not lost or time.monotonic() - silent_since > _GIVE_UP_S:
                raise
            line.note("the service doesn't answer; the ingest goes on when it is back")
        if job["stage"] != "done":
            time.sleep(_LOOK_AGAIN_S)
    return job


def _report(collection: str, found: Found, jobs: list[dict[str, Any]], *, as_json: bool) -> None:
    errors = [error for job in jobs for error in job["errors"]]
    total = {key: sum(job["documents"][key] for job in jobs) for key in jobs[0]["documents"]} if jobs else {}
    if as_json:
        document = {
            "collection": collection,
            "model": f"rag/{collection}",
            "documents": total,
            "skipped": found.skipped,
        }
        click.echo(json.dumps({**document, "jobs": jobs}, indent=1, ensure_ascii=False))
    else:
        _say(collection, found, jobs, total, errors)
    if total.get("failed"):
        sys.exit(SOME_FAILED)
    if total.get("cancelled"):
        raise click.ClickException("the job was cancelled; what it had not done is not searchable")


def _say(
    collection: str, found: Found, jobs: list[dict[str, Any]], total: dict[str, int], errors: list[dict[str, str]]
) -> None:
    if found.skipped:
        click.echo(f"left out: {found.summary}")
    for error in errors:
        click.echo(f"not read: {error['name']}: {error['message']} [{error['code']}]", err=True)
    if total.get("failed", 0) > len(errors):
        click.echo(
            f"and {total['failed'] - len(errors):,} more; sparkstack rag show {collection} --status failed", err=True
        )
    chunks = sum(job["chunks"] for job in jobs)
    seconds = sum(job["elapsed_s"] for job in jobs)
    said = [f"{total.get('completed', 0):,} documents indexed in {chunks:,} chunks ({seconds:.1f} s)"]
    said += [f"{total[key]:,} {key}" for key in ("unchanged", "failed", "deleted") if total.get(key)]
    click.echo(f"{collection}: {', '.join(said)}")
    if total.get("completed", 0) + total.get("unchanged", 0):
        click.echo(f'ask it:  sparkstack rag ask {collection} "…"   or, in any client, the model rag/{collection}')

"""`sparkstack rag search|ask`: the passages of a question, or its answer with its sources."""

import json
from typing import Any

import click

from services.rag.commands.calling import collection_path, stack


@click.command(short_help="show the passages that a question finds")
@click.argument("name")
@click.argument("question", nargs=-1, required=True)
@click.option("--preset", default=None, help="How it is searched: fast, balanced, accurate.")
@click.option("--limit", type=click.IntRange(1, 100), default=5, show_default=True, help="Passages.")
@click.option("--json", "as_json", is_flag=True, help="The whole answer of the service.")
@click.pass_obj
def search(url: str, name: str, question: tuple[str, ...], preset: str | None, limit: int, as_json: bool) -> None:
    """Show the passages of NAME that QUESTION finds, best first, and what each step took."""
    body = {"query": " ".join(question), "limit": limit, "preset": preset}
    with stack(url or "") as door:
        found = door.post(collection_path(name, "/search"), {key: value for key, value in body.items() if value})
    if as_json:
        click.echo(json.dumps(found, indent=1, ensure_ascii=False))
        return
    for number, passage in enumerate(found["data"], 1):
        where = f", page {passage['page']}" if passage["page"] else ""
        near = "" if passage["similarity"] is None else f", similarity {passage['similarity']:.2f}"
        click.secho(f"[{number}] {passage['name']}{where}  (score {passage['score']:.3f}{near})", bold=True)
        click.echo(_indented(passage["text"]))
    if not found["data"]:
        click.echo("nothing was found")
    steps = ", ".join(f"{step['name']} {step['ms']:.1f}" for step in found["steps"])
    click.echo(f"{found['ms']:.1f} ms by {found['preset']}: {steps}", err=True)


@click.command(short_help="ask a collection; the answer cites its documents")
@click.argument("name")
@click.argument("question", nargs=-1, required=True)
@click.option("--preset", default=None, help="How it is searched: fast, balanced, accurate.")
@click.pass_obj
def ask(url: str, name: str, question: tuple[str, ...], preset: str | None) -> None:
    """Ask NAME a QUESTION: the answer as it is written, then the sources that it cites."""
    body: dict[str, Any] = {
        "model": f"rag/{name}",
        "messages": [{"role": "user", "content": " ".join(question)}],
        "stream": True,
    }
    if preset:
        body["rag"] = {"preset": preset}
    annotations: list[dict[str, Any]] = []
    with stack(url or "") as door, door.events("POST", "/v1/chat/completions", body) as lines:
        for line in lines:
            data = line.removeprefix("data: ")
            if data == line or data == "[DONE]":
                continue
            event = json.loads(data)
            if "error" in event:
                click.echo()
                raise click.ClickException(str(event["error"].get("message")))
            for choice in event.get("choices", ()):
                delta = choice.get("delta") or {}
                click.echo(delta.get("content") or "", nl=False)
                annotations += delta.get("annotations") or ()
    click.echo()
    _show_sources(annotations)


def _show_sources(annotations: list[dict[str, Any]]) -> None:
    cited: dict[int, dict[str, Any]] = {}
    for annotation in annotations:
        about = annotation.get("sparkstack", {})
        cited.setdefault(int(about.get("number", len(cited) + 1)), annotation)
    for number, annotation in sorted(cited.items()):
        about = annotation.get("sparkstack", {})
        page = f", page {about['page']}" if about.get("page") else ""
        click.secho(f"\n[{number}] {annotation.get('filename')}{page}", bold=True)
        if about.get("quote"):
            click.echo(_indented(str(about["quote"])))


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.strip().splitlines())

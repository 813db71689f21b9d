"""`sparkstack pull`, `rm` and `models`: what models there are, getting them, deleting them."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from services.engines.commands.known import among, known_recipes, model_store

if TYPE_CHECKING:
    from services.engines.files.store import ModelStore
    from services.engines.recipes import Recipe

_LOADED = frozenset({"loading", "ready", "busy", "stalled"})
_ENGINES_TIMEOUT_S = 3.0


@click.command(short_help="get a model's files, or go on getting them")
@click.argument("model")
@click.option("--yes", "-y", is_flag=True, help="don't ask before a large download")
@click.option("--revision", default="", metavar="R", help="branch, tag or commit, instead of the recipe's")
@click.option("--upgrade", is_flag=True, help="take what the recipe's branch has now, and stay on that")
@click.option("--verify", is_flag=True, help="read all files again and compare their checksums")
def pull(model: str, yes: bool, revision: str, upgrade: bool, verify: bool) -> None:
    """Get the files of MODEL, a recipe's id or alias.

    They go to the Hugging Face cache (HF_HOME), which engines in containers share. A pull that was interrupted, even
    killed, goes on where it was. A branch's commit is written down and kept until --upgrade. Gated models need a token:
    HF_TOKEN=hf_…

    \b
    sparkstack pull qwen3.6-35b
    sparkstack pull qwen3.6-35b --verify
    """
    from services.engines.commands.pulling import run_pull

    store, recipes, recipe = _find(model)
    options = _settings().options(revision=revision, upgrade=upgrade, verify=verify)
    got = run_pull(store, recipes, recipe, options, yes=yes)
    checked = ", every file checked" if got or verify else ""
    click.echo(f"{recipe.id} is here{checked}: {_where(store, recipe)}")
    former = _former(store, recipe) if upgrade else 0
    if former:
        click.echo(f"its former revision is still here: `sparkstack rm {recipe.id} --former` frees {_size(former)}")


@click.command(short_help="delete a model's files")
@click.argument("model")
@click.option("--yes", "-y", is_flag=True, help="don't ask")
@click.option("--former", is_flag=True, help="only revisions that `pull --upgrade` has left behind")
def rm(model: str, yes: bool, former: bool) -> None:
    """Delete the files of MODEL, what of them no other model uses. Refuses while it is loaded."""
    from services.engines.files.hub import PullError
    from services.engines.files.removal import Remover

    store, recipes, recipe = _find(model)
    remover = Remover(store, recipes)
    try:
        removal = remover.plan(recipe, former_only=former)
        if removal.is_nothing:
            click.echo(f"nothing of {recipe.id} is here")
            return
        if not former:
            _refuse_if_loaded(store.state, recipe)
        places = ", ".join(map(str, removal.places)) or f"Ollama's {removal.ollama_model}"
        click.echo(f"deleting {recipe.id} frees {_size(removal.freed_bytes)} at {places}")
        if not yes and not (sys.stdin.isatty() and click.confirm("Delete?")):
            raise click.ClickException("nothing was deleted; `--yes` deletes without asking")
        remover.execute(recipe, removal, former_only=former)
    except PullError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{recipe.id} is deleted")


@click.command(short_help="list the models, and which are here")
@click.option("--all", "everything", is_flag=True, help="also those for other machines that are not here")
@click.option("--json", "as_json", is_flag=True, help="one JSON document, of all models")
def models(everything: bool, as_json: bool) -> None:
    """List the models: those that this machine runs first."""
    from services.engines.files.model_table import documents, machines_here, model_rows, table
    from services.engines.planning.machines import this_machine

    store, recipes = _store_and_recipes()
    here = this_machine()
    rows = model_rows(recipes, store, machines_here(here.total_bytes, is_spark=here.gpu))
    if as_json:
        click.echo(json.dumps({"models": documents(rows)}, indent=1, ensure_ascii=False))
        return
    shown = [row for row in rows if everything or row.runnable or row.here]
    cells = table(shown)
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    for row in cells:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if len(shown) < len(rows):
        click.echo(f"{len(rows) - len(shown)} more are for other machines: sparkstack models --all")


def ask_before_download(recipes: Sequence["Recipe"], *, yes: bool = False) -> bool:
    """Say what of these models is still to be downloaded and how large that is, and ask; True when nothing is.

    Without a terminal nobody can be asked: it says what to run, and the answer is no.

    Args:
        yes: go on without asking.
    """
    from services.engines.files.download_plan import free_bytes

    store, _ = _store_and_recipes()
    present = store.presence(recipes)
    missing = [recipe for recipe in recipes if not present[recipe.id] and recipe.source.kind in ("hub", "ollama")]
    if not missing:
        return True
    total = sum(store.size_of(recipe) for recipe in missing)
    for recipe in missing:
        click.echo(f"  {recipe.id}: {_size(store.size_of(recipe))}, not here yet")
    free = _size(free_bytes(store.hub_cache))
    click.echo(f"  {_size(total)} to download to {store.hub_cache}, where {free} are free")
    if yes:
        return True
    if not sys.stdin.isatty():
        click.echo(f"get them first: {' && '.join(f'sparkstack pull {recipe.id} --yes' for recipe in missing)}")
        return False
    return click.confirm("Download now?")


# --- where things are -----------------------------------------------------------------------------------------------


def _settings() -> Any:
    from services.engines.files.pull_settings import PullSettings
    from services.kit.settings import SettingsError, load_settings

    try:
        return load_settings(PullSettings)
    except SettingsError as error:
        raise click.ClickException(str(error)) from None


def _store_and_recipes() -> tuple["ModelStore", list["Recipe"]]:
    return model_store(_settings().ollama_url), known_recipes()


def _find(name: str) -> tuple["ModelStore", list["Recipe"], "Recipe"]:
    store, recipes = _store_and_recipes()
    return store, recipes, among(name, recipes)


def _where(store: "ModelStore", recipe: "Recipe") -> str:
    from services.engines.recipes import RecipeError

    try:
        return f"{store.path_of(recipe)} ({_size(store.size_of(recipe))})"
    except RecipeError:
        return f"in Ollama ({_size(store.size_of(recipe))})"


def _former(store: "ModelStore", recipe: "Recipe") -> int:
    from services.engines.files.removal import Remover

    return Remover(store, [recipe]).plan(recipe, former_only=True).freed_bytes


def _refuse_if_loaded(state: Path, recipe: "Recipe") -> None:
    """Ask the engines service, where it runs, whether the model is loaded.

    Raises:
        click.ClickException: it is.
    """
    for listed in _loaded_models(state):
        if str(listed.get("id", "")).partition("@")[0] == recipe.id and listed.get("state") in _LOADED:
            raise click.ClickException(
                f"{listed['id']} is loaded ({listed['state']}); unload it first: `sparkstack unload {listed['id']}`"
            )


def _loaded_models(state: Path) -> list[dict[str, Any]]:
    import httpx

    from services.kit.files import read_json

    port = read_json(state / "stack.json").get("services", {}).get("engines", {}).get("port")
    if not port:
        return []
    key = os.environ.get("ENGINES_API_KEY", "")
    if not key and (state / "internal.key").is_file():
        key = (state / "internal.key").read_text(encoding="utf-8").strip()
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        url = f"http://127.0.0.1:{port}/models"
        answer = httpx.get(url, headers=headers, timeout=_ENGINES_TIMEOUT_S, trust_env=False)
    except httpx.HTTPError:
        return []  # it does not run, so that nothing of it is loaded
    if answer.status_code != 200:
        raise click.ClickException(
            f"the engines service answers {answer.status_code} when asked what is loaded; look at "
            "`sparkstack status`, or stop the stack first: `make down`"
        )
    listed: list[dict[str, Any]] = answer.json()["data"]
    return listed


def _size(count: float) -> str:
    from services.engines.files.download_plan import gigabytes

    return gigabytes(count)

"""`sparkstack engines`: the service that starts and stops engines; and what `up` needs to know of its models."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from services.engines.settings import EnginesSettings
from services.kit.commands import settings_command
from services.kit.settings import SettingsError, load_settings

if TYPE_CHECKING:
    from services.engines.files.store import ModelStore
    from services.engines.recipes import Recipe

_CAN_BE_GOT = ("hub", "ollama", "converted")


@click.command(cls=settings_command(EnginesSettings))
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 takes a free one. [ENGINES_PORT]")
@click.option(
    "--supervisor",
    "socket",
    type=click.Path(path_type=Path),
    required=True,
    help="Control socket of the supervisord that runs the engines; `up` starts one.",
)
@click.option(
    "--programs",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder of program files that this supervisord includes.",
)
def engines(port: int | None, socket: Path, programs: Path) -> None:
    """Run the service that loads, watches and unloads models. `sparkstack up` does this for you."""
    try:
        settings = load_settings(EnginesSettings, **({} if port is None else {"port": port}))
        run(settings, socket, programs)
    except SettingsError as error:
        raise click.ClickException(str(error)) from None


def run(settings: EnginesSettings, socket: Path, programs: Path) -> None:
    """Bind and serve until told to stop.

    Raises:
        SettingsError: a variable is wrong, or the port is taken.
    """
    from services.engines.app import create_app
    from services.engines.runtimes.processes import SupervisordRuntime
    from services.kit.logs import configure_logs
    from services.kit.server import AddressTaken, bind, serve

    configure_logs("engines", settings.log_level)
    runtime = SupervisordRuntime(socket, programs, settings.state / "logs", settings.state)
    app = create_app(settings, runtime)
    try:
        listener = bind(settings.host, settings.port)
    except AddressTaken as error:
        raise SettingsError(f"{error}. Pick another port: ENGINES_PORT={settings.port + 1}") from None
    host, bound = listener.getsockname()[:2]
    click.echo(f"engines: http://{host}:{bound}", err=True)
    serve(app, [listener])


@dataclass(frozen=True)
class Preloaded:
    """A model that is loaded at the start.

    Args:
        path: of its file, for a packaged one or the user's own; None where it is a folder or not here yet.
        sha256: what the file must have; None where nobody says.
        where: a sentence for a person.
    """

    id: str
    size_bytes: int
    path: Path | None
    sha256: str | None
    where: str


@dataclass(frozen=True)
class StackModels:
    """What the stack is going to serve.

    Args:
        managed: the facts of every model, for the gateway's catalogue.
    """

    default: str
    managed: list[dict[str, Any]]
    preload: list[Preloaded]


def stack_models(overrides: Mapping[str, Any], variables: Mapping[str, str]) -> StackModels:
    """Return what the stack is going to serve, by the environment's variables and `overrides` of settings.

    Models that are to be loaded and aren't here are got first; a person is asked before a large download.

    Raises:
        click.ClickException: with a sentence that says what to do.
        click.exceptions.Exit: a person said no.
    """
    from services.engines.files.store import ModelStore
    from services.engines.gguf import GgufError
    from services.engines.lineup import aliases_of, default_first, known_recipes, preloaded
    from services.engines.offers import OfferError, offers_here
    from services.engines.recipes import RecipeError

    try:
        settings = load_settings(EnginesSettings, **overrides)
        recipes = known_recipes(settings)
        offers = offers_here(recipes, variables)
        chosen = preloaded(settings, offers)
        store = ModelStore(settings.state)
        _get_missing(store, recipes, [offer.recipe for offer in chosen])
        preload = [_preloaded(offer, store) for offer in chosen]
    except (GgufError, OfferError, RecipeError, SettingsError) as error:
        raise click.ClickException(str(error)) from None
    aliases = aliases_of(offers, chosen[0])
    return StackModels(
        chosen[0].id, [offer.facts(aliases[offer.id]) for offer in default_first(offers, chosen)], preload
    )


def _get_missing(store: "ModelStore", recipes: "list[Recipe]", wanted: "list[Recipe]") -> None:
    missing = [recipe for recipe in wanted if not store.is_present(recipe) and recipe.source.kind in _CAN_BE_GOT]
    if not missing:
        return
    from services.engines.commands.models import ask_before_download
    from services.engines.commands.pulling import run_pull
    from services.engines.files.pull_settings import PullSettings

    if not ask_before_download(missing):
        raise click.exceptions.Exit(1)
    for recipe in missing:
        run_pull(store, recipes, recipe, PullSettings().options(), yes=True)


def _preloaded(offer: Any, store: Any) -> Preloaded:
    from services.engines.recipes import FileSource, PackageSource

    source = offer.recipe.source
    path = store.path_of(offer.recipe)
    size = offer.recipe.memory.weight_bytes
    if isinstance(source, PackageSource):
        return Preloaded(offer.id, source.size_bytes, path, source.sha256, f"from the package {source.package}")
    if isinstance(source, FileSource):
        return Preloaded(offer.id, size, path, None, f"your file {path}")
    return Preloaded(offer.id, size, None, None, f"from {path}")

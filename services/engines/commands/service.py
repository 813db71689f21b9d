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
    from services.engines.runtimes import Runtime

_DOCKER_S = 30.0
_DOCKER_AGAIN_S = 0.5
_CAN_BE_GOT = ("hub", "ollama", "converted")


@click.command(cls=settings_command(EnginesSettings))
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on; 0 takes a free one. [ENGINES_PORT]")
@click.option(
    "--supervisor",
    "socket",
    type=click.Path(path_type=Path),
    help="Control socket of the supervisord that runs the engines; `up` starts one.",
)
@click.option(
    "--programs",
    type=click.Path(path_type=Path),
    help="Folder of program files that this supervisord includes.",
)
def engines(port: int | None, socket: Path | None, programs: Path | None) -> None:
    """Run the service that loads, watches and unloads models. `sparkstack up` does this for you.

    Engines are processes of a supervisord, or containers of the Docker that ENGINES_DOCKER names.
    """
    try:
        settings = load_settings(EnginesSettings, **({} if port is None else {"port": port}))
        run(settings, socket, programs)
    except SettingsError as error:
        raise click.ClickException(str(error)) from None


def run(settings: EnginesSettings, socket: Path | None, programs: Path | None) -> None:
    """Bind and serve until told to stop.

    Raises:
        SettingsError: a variable is wrong, the port is taken, or nothing can start engines.
    """
    from services.engines.app import create_app
    from services.kit.logs import configure_logs
    from services.kit.server import AddressTaken, bind, serve

    configure_logs("engines", settings.log_level)
    app = create_app(settings, *_runtime(settings, socket, programs))
    try:
        listener = bind(settings.host, settings.port)
    except AddressTaken as error:
        raise SettingsError(f"{error}. Pick another port: ENGINES_PORT={settings.port + 1}") from None
    host, bound = listener.getsockname()[:2]
    click.echo(f"engines: http://{host}:{bound}", err=True)
    serve(app, [listener])


def _runtime(
    settings: EnginesSettings, socket: Path | None, programs: Path | None
) -> "tuple[Runtime, frozenset[str] | None]":
    """Return where engines run, and which of them have containers.

    Raises:
        SettingsError
    """
    if settings.docker:
        from services.engines.runtimes.docker import DockerRuntime

        containers = _containers(settings)  # first: it judges the address
        return DockerRuntime(settings.docker, settings.project), containers
    if socket is None or programs is None:
        raise SettingsError("name --supervisor and --programs, as `sparkstack up` does; or a Docker: ENGINES_DOCKER")
    from services.engines.runtimes.processes import SupervisordRuntime

    return SupervisordRuntime(socket, programs, settings.state / "logs", settings.state), None


def _containers(settings: EnginesSettings) -> frozenset[str]:
    """Return the engines that have containers; Docker, or the proxy before it, may still be starting."""
    import asyncio
    import time

    from services.engines.runtimes import RuntimeUnreachableError
    from services.engines.runtimes.docker import DockerRuntime

    async def ask() -> frozenset[str]:
        runtime = DockerRuntime(settings.docker, settings.project)
        try:
            return await runtime.created()
        finally:
            await runtime.close()

    give_up_at = time.monotonic() + _DOCKER_S
    while True:
        try:
            return asyncio.run(ask())
        except ValueError as error:
            raise SettingsError(f"ENGINES_DOCKER={settings.docker}: {error}") from None
        except RuntimeUnreachableError as error:
            if time.monotonic() >= give_up_at:
                raise SettingsError(f"ENGINES_DOCKER={settings.docker}: {error}") from None
            time.sleep(_DOCKER_AGAIN_S)


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

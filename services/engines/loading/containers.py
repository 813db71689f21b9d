"""From an offer to the container that compose has created for it.

What it runs with was fixed then, by the same rendering as here: the runtime refuses a container that was created with
something else. What is left to do before a start is to put the model where the container sees it: the folder of models
is a volume that both mount at the same path, this service alone to write.
"""

import os
import shutil
import stat
import tempfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from services.engines.files.store import ModelStore
from services.engines.loading.launching import Launch, digest_of
from services.engines.offers import Offer
from services.engines.recipes import EngineName, HubSource, OllamaSource, PackageSource, Recipe, RecipeError
from services.engines.rendering import PORTS, Rendered, RenderError, model_in_container, render
from services.engines.runtimes import EngineStartError, LaunchSpec

MODELS = Path("/models")
CPU_IMAGE_VARIABLE = "LLAMACPP_CPU_IMAGE"
"""The image of llama.cpp on a CPU, where it is to be another than the recipes name: both take the same options."""


def instance_name(engine: EngineName, recipe: Recipe) -> str:
    """Return the name of an engine's container: that of its service in compose, its label, and its host name."""
    return f"{engine}-{recipe.id}"


def container_image(engine: EngineName, rendered: Rendered, variables: Mapping[str, str]) -> str:
    """Return the image that an engine's container is made from."""
    own = variables.get(CPU_IMAGE_VARIABLE, "").strip()
    return own if own and engine == "llamacpp" and not rendered.gpu else rendered.image or ""


class ContainerLauncher:
    """Engines as containers, each with a host name of its own in a network that nobody else is in.

    They ask for no key: a key would have to stand in what every container is created with.

    Args:
        folder: of models, as this service and the containers see it.
        created: names of the engines that have a container.
    """

    def __init__(
        self, store: ModelStore, folder: Path, created: Collection[str], variables: Mapping[str, str] = os.environ
    ) -> None:
        self._store = store
        self._folder = folder
        self._created = frozenset(created)
        self._variables = variables

    def offers(self, recipes: Iterable[Recipe]) -> list[Offer]:
        """Return what has a container; a recipe's first such engine has the recipe's id, further ones `id@engine`."""
        found = []
        for recipe in recipes:
            here = [name for name in recipe.engines if instance_name(name, recipe) in self._created]
            for place, name in enumerate(here):
                public = recipe.id if place == 0 else f"{recipe.id}@{name}"
                found.append(Offer(public, recipe, name, recipe.engines[name]))
        return found

    def launch(self, offer: Offer, *, port: int | None = None, api_key: str | None = None) -> Launch:
        """Return how an offer is started, having put its model into the folder.

        Raises:
            RecipeError: the model's files are not here, or can't be put there.
            EngineStartError: the recipe can't be rendered.
        """
        recipe, engine = offer.recipe, offer.engine
        try:
            rendered = render(recipe, engine, "compose", port=PORTS[engine], model=model_in_container(recipe))
        except RenderError as error:
            raise EngineStartError(str(error)) from None
        if not isinstance(recipe.source, OllamaSource):
            place(recipe, self._store, self._folder)
        name = instance_name(engine, recipe)
        spec = LaunchSpec(
            name=name,
            model_id=offer.id,
            engine=engine,
            command=rendered.command,
            port=rendered.port,
            environment=rendered.environment,
            image=container_image(engine, rendered, self._variables),
            gpu=rendered.gpu,
            shm_bytes=rendered.shm_bytes,
            ipc_host=rendered.ipc_host,
            ulimits=rendered.ulimits,
            cap_add=rendered.cap_add,
            volumes={folder: volume for volume, folder in rendered.volumes.items()},
            files=rendered.files,
        )
        upstream_id = recipe.source.model if isinstance(recipe.source, OllamaSource) else recipe.id
        digest = digest_of([spec.image, spec.command, dict(spec.environment), spec.files_digest])
        return Launch(spec, f"http://{name}:{rendered.port}", "", upstream_id, rendered.health_path, digest)


def place(recipe: Recipe, store: ModelStore, folder: Path) -> None:
    """Put a model where its container is told to load it from: as a copy where it comes with a package, else as a link.

    A repository of safetensors is found by its name in the hub's cache, which is in the folder too.

    Raises:
        RecipeError: its files are not here, or lie outside the folder.
    """
    path = store.path_of(recipe)
    if isinstance(recipe.source, HubSource) and recipe.format == "safetensors":
        _check_inside(recipe, path, folder)
        _check_readable(recipe, path)
        return
    target = folder / Path(model_in_container(recipe)).relative_to(MODELS)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(recipe.source, PackageSource):
            _copy(path, target)
            return
        _check_inside(recipe, path, folder)
        _check_readable(recipe, path)
        for source, link in _with_its_parts(path, target):
            _link(source, link)
    except OSError as error:
        raise RecipeError(
            f"{recipe.id} can't be put into {folder}: {error.strerror or error}; the user of the engines service "
            "(10001) must be able to write there"
        ) from None


def _check_inside(recipe: Recipe, path: Path, folder: Path) -> None:
    if not path.absolute().is_relative_to(folder.absolute()):
        raise RecipeError(
            f"{recipe.id} lies in {path}, where its container does not see it; put it into the folder of models, "
            f"{folder} here"
        )


def _check_readable(recipe: Recipe, path: Path) -> None:
    """An engine is another user, and root in its container without the right to read what is not everybody's."""
    files = [path] if path.is_file() else [path, *path.iterdir()]
    for file in files:
        if not file.stat().st_mode & (stat.S_IXOTH if file.is_dir() else stat.S_IROTH):
            raise RecipeError(f"{file}, of {recipe.id}, can't be read by its container: chmod -R a+rX {path.parent}")


def _with_its_parts(path: Path, target: Path) -> list[tuple[Path, Path]]:
    """Return a model's file and where it goes; of one in parts (`…-00001-of-00003.gguf`) all, beside each other."""
    if "-of-" not in path.stem:
        return [(path, target)]
    stem = path.name.rpartition("-of-")[0].rpartition("-")[0]
    parts = sorted(path.parent.glob(f"{stem}-*-of-*{path.suffix}"))
    return [(part, target if part == path else target.with_name(part.name)) for part in parts]


def _copy(path: Path, target: Path) -> None:
    if target.is_file() and target.stat().st_size == path.stat().st_size:
        return
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file, path.open("rb") as source:
            shutil.copyfileobj(source, file, 1 << 20)
        Path(name).chmod(0o644)
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _link(path: Path, link: Path) -> None:
    """Link by a relative path: it leads to the same file wherever the folder is mounted."""
    wanted = os.path.relpath(path, link.parent)
    if link.is_symlink() and str(link.readlink()) == wanted:
        return
    link.unlink(missing_ok=True)
    link.symlink_to(wanted)

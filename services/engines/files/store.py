"""Where each model's files are, and whether they are all here. It reads; `pull.py` gets and deletes.

Nothing here imports the hub's library. Calls touch the disk, and for Ollama's models the network: from an event loop,
call them in a thread.
"""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import httpx

from services.engines.files import packaged
from services.engines.files.convert import CARD
from services.engines.files.hub_cache import COMMIT, CachedRepository, HubFile, cache_folder, matching
from services.engines.files.pins import Pins
from services.engines.recipes import (
    ConvertedSource,
    FileSource,
    HubSource,
    OllamaSource,
    PackageSource,
    Recipe,
    RecipeError,
)
from services.kit.files import read_json

_FIRST_SHARD = re.compile(r"-0*1-of-\d+\.gguf$")
_OLLAMA_TIMEOUT_S = 2.0


class ModelStore:
    """The models of one stack.

    Args:
        state: the stack's state folder: pins, and models converted here.
        hub_cache: the Hugging Face cache; the one that the environment names by default.
        ollama_url: of a running Ollama; empty where there is none.
    """

    def __init__(
        self,
        state: Path,
        *,
        hub_cache: Path | None = None,
        ollama_url: str | None = None,
        variables: Mapping[str, str] = os.environ,
    ) -> None:
        self.state = state
        self.hub_cache = hub_cache or cache_folder(variables)
        self.ollama_url = (variables.get("OLLAMA_URL", "") if ollama_url is None else ollama_url).rstrip("/")
        self.pins = Pins(state / "pins.json")

    @property
    def verified(self) -> Path:
        """The record of checked files."""
        return self.state / "verified.json"

    def path_of(self, recipe: Recipe) -> Path:
        """Return what an engine is told to load: a file where the format is GGUF, a folder elsewhere.

        Raises:
            RecipeError: when it isn't here, or not whole; with what to do.
        """
        source = recipe.source
        match source:
            case PackageSource():
                return packaged.locate(source)
            case FileSource():
                return self._own_file(recipe, source)
            case OllamaSource():
                raise RecipeError(f"{recipe.id} lives inside Ollama as {source.model}; there is no file of it to load")
            case ConvertedSource():
                folder = self.converted_folder(recipe)
                if not _is_whole(folder):
                    raise RecipeError(f"{recipe.id} is not converted yet; make it with `sparkstack pull {recipe.id}`")
                return folder
            case HubSource():
                return self._hub_path(recipe, source)

    def is_present(self, recipe: Recipe) -> bool:
        """Say whether all files are here, by their sizes; nothing is read."""
        if isinstance(recipe.source, OllamaSource):
            return recipe.source.model in self._ollama_sizes()
        try:
            self.path_of(recipe)
        except RecipeError:
            return False
        return True

    def presence(self, recipes: Iterable[Recipe]) -> dict[str, bool]:
        """Say of each recipe, by id, whether its files are here; Ollama is asked once."""
        listed = list(recipes)
        ollama = self._ollama_sizes() if any(isinstance(each.source, OllamaSource) for each in listed) else {}
        return {
            each.id: each.source.model in ollama if isinstance(each.source, OllamaSource) else self.is_present(each)
            for each in listed
        }

    def size_of(self, recipe: Recipe) -> int:
        """Return the bytes that the model takes on disk, or would take."""
        source = recipe.source
        if isinstance(source, HubSource):
            commit = self.commit_of(recipe)
            files = self.hub_files(recipe, commit) if commit else []
            size = sum(file.size_bytes for file in files) if self.is_present(recipe) else 0
            return size or source.size_bytes or recipe.memory.weight_bytes
        if isinstance(source, PackageSource):
            return source.size_bytes
        if isinstance(source, OllamaSource):
            return source.size_bytes or recipe.memory.weight_bytes
        folder = self.converted_folder(recipe) if isinstance(source, ConvertedSource) else source.path.expanduser()
        return folder_size(folder) or recipe.memory.weight_bytes

    def converted_folder(self, recipe: Recipe) -> Path:
        """Return where a converted model is kept."""
        return self.state / "models" / recipe.id

    def repository(self, source: HubSource) -> CachedRepository:
        """Return what the cache has of a recipe's repository."""
        return CachedRepository(self.hub_cache, source.repository)

    def commit_of(self, recipe: Recipe) -> str | None:
        """Return the commit whose files are used: the pinned one, else the one that the cache has for the revision."""
        source = recipe.source
        if not isinstance(source, HubSource):
            return None
        pinned = self.pins.commit(recipe.id, source)
        return pinned or self.repository(source).commit_of(source.revision)

    def hub_files(self, recipe: Recipe, commit: str) -> list[HubFile]:
        """Return the model's own files of a commit: those that its recipe's patterns name."""
        assert isinstance(recipe.source, HubSource)
        repository = self.repository(recipe.source)
        listed = repository.files(commit)
        return matching(repository.found(commit) if listed is None else listed, recipe.source.files)

    def _own_file(self, recipe: Recipe, source: FileSource) -> Path:
        path = source.path.expanduser()
        if not path.exists():
            raise RecipeError(f"{path}, the file of {recipe.id}, does not exist; put it there, or correct source.path")
        return path

    def _hub_path(self, recipe: Recipe, source: HubSource) -> Path:
        repository = self.repository(source)
        commit = self.commit_of(recipe)
        if commit is None or not repository.is_whole(commit, source.files):
            begun = self.pins.begun(recipe.id, source)
            how = "is not here yet" if begun is None else "is not whole yet"
            raise RecipeError(f"{recipe.id} {how}; get it with `sparkstack pull {recipe.id}`")
        folder = repository.snapshot(commit)
        return folder if recipe.format != "gguf" else self._gguf_file(recipe, folder, commit)

    def _gguf_file(self, recipe: Recipe, folder: Path, commit: str) -> Path:
        names = [file.path for file in self.hub_files(recipe, commit) if file.path.endswith(".gguf")]
        models = [name for name in names if not Path(name).name.startswith("mmproj")]
        if len(models) > 1:
            models = [name for name in models if _FIRST_SHARD.search(name)]
        if len(models) != 1:
            raise RecipeError(
                f"{recipe.id} must have one GGUF model, but its files are {', '.join(names) or 'none'}; "
                "name the one in the recipe's source.files"
            )
        return folder / models[0]

    def _ollama_sizes(self) -> dict[str, int]:
        """Return what Ollama has, by name; nothing where it doesn't answer."""
        if not self.ollama_url:
            return {}
        try:
            answer = httpx.get(f"{self.ollama_url}/api/tags", timeout=_OLLAMA_TIMEOUT_S, trust_env=False)
            listed = answer.json()["models"] if answer.status_code == 200 else []
            sizes = {str(model["name"]): int(model.get("size") or 0) for model in listed}
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return {}
        # `nemotron-3-nano` and `nemotron-3-nano:latest` are the same to Ollama.
        return sizes | {name.removesuffix(":latest"): size for name, size in sizes.items()}


def is_pinned_by_recipe(source: HubSource) -> bool:
    """Say whether the recipe itself names a commit, which never moves."""
    return COMMIT.fullmatch(source.revision) is not None


def folder_size(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder; 0 where there is nothing."""
    if path.is_file():
        return path.stat().st_size
    return sum(each.stat().st_size for each in path.rglob("*") if each.is_file())


def _is_whole(folder: Path) -> bool:
    """Say whether a conversion's files are those that its card lists."""
    files = read_json(folder / CARD).get("files")
    if not isinstance(files, dict) or not files:
        return False
    return all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in files.items())

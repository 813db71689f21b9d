"""Delete a model's files, and nothing but its own. Blocking."""

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from services.engines.files.checksums import Verified
from services.engines.files.hub import PullError
from services.engines.files.hub_cache import CachedRepository
from services.engines.files.store import ModelStore, folder_size
from services.engines.recipes import ConvertedSource, FileSource, HubSource, OllamaSource, PackageSource, Recipe


@dataclass
class Removal:
    """What would be deleted.

    Args:
        freed_bytes: what that frees, without what other models share.
        places: the folders, for a person to look at.
    """

    freed_bytes: int = 0
    places: list[Path] = field(default_factory=list)
    strategies: list[Any] = field(default_factory=list)
    partials: list[Path] = field(default_factory=list)
    folder: Path | None = None
    ollama_model: str = ""

    @property
    def is_nothing(self) -> bool:
        """There is nothing to delete."""
        return not self.places and not self.ollama_model


class Remover:
    """Deletes models.

    Args:
        recipes: all recipes: what two of them share stays.
    """

    def __init__(self, store: ModelStore, recipes: Iterable[Recipe]) -> None:
        self._store = store
        self._recipes = list(recipes)

    def plan(self, recipe: Recipe, *, former_only: bool = False) -> Removal:
        """Return what deleting a model would do.

        Args:
            former_only: only the revisions that an upgrade has left behind.

        Raises:
            PullError: its files are not ours to delete.
        """
        source = recipe.source
        match source:
            case PackageSource():
                raise PullError(
                    f"{recipe.id} is part of the package {source.package}, which belongs to the installation; "
                    "`make distclean` removes all of it",
                    "refused",
                )
            case FileSource():
                raise PullError(f"{recipe.id} is your own file {source.path}; remove it yourself", "refused")
            case OllamaSource():
                if not self._store.is_present(recipe):
                    return Removal()
                return Removal(freed_bytes=self._store.size_of(recipe), ollama_model=source.model)
            case ConvertedSource():
                folder = self._store.converted_folder(recipe)
                if not folder.exists():
                    return Removal()
                return Removal(freed_bytes=folder_size(folder), places=[folder], folder=folder)
            case HubSource():
                return self._plan_hub(recipe, source, former_only)

    def execute(self, recipe: Recipe, removal: Removal, *, former_only: bool = False) -> None:
        """Delete what was planned.

        Raises:
            PullError: Ollama refuses.
        """
        if removal.ollama_model:
            self._delete_from_ollama(removal.ollama_model)
        if removal.folder is not None:
            shutil.rmtree(removal.folder)
        if isinstance(recipe.source, HubSource):
            cached = self._store.repository(recipe.source)
            for strategy in removal.strategies:
                strategy.execute()
            for partial in removal.partials:
                partial.unlink(missing_ok=True)
            _remove_empty(cached)
            self._forget(recipe, recipe.source, cached, former_only)

    def _plan_hub(self, recipe: Recipe, source: HubSource, former_only: bool) -> Removal:
        cached = self._store.repository(source)
        pins = self._store.pins
        commits = pins.former(recipe.id, source)
        removal = Removal()
        if not former_only:
            commits = [*commits, *filter(None, [self._store.commit_of(recipe)])]
            removal.partials = self._partials(recipe, source, cached)
            removal.freed_bytes = sum(path.stat().st_size for path in removal.partials)
        if cached.folder.is_dir() and any(cached.snapshot(commit).is_dir() for commit in commits):
            self._plan_commits(recipe, cached, list(dict.fromkeys(commits)), removal)
        if removal.partials or removal.strategies:
            removal.places = [cached.folder]
        return removal

    def _plan_commits(self, recipe: Recipe, cached: CachedRepository, commits: list[str], removal: Removal) -> None:
        from huggingface_hub import scan_cache_dir

        cache = scan_cache_dir(self._store.hub_cache)
        mine = [repository for repository in cache.repos if repository.repo_path == cached.folder.resolve()]
        whole, files = [], []
        for revision in [each for repository in mine for each in repository.revisions if each.commit_hash in commits]:
            own = {file.path for file in self._store.hub_files(recipe, revision.commit_hash)}
            own -= self._claimed_by_others(recipe, revision.commit_hash)
            found = {file.file_path.relative_to(revision.snapshot_path).as_posix(): file for file in revision.files}
            if found.keys() <= own:
                whole.append(revision.commit_hash)
            else:
                files += [found[path] for path in sorted(found.keys() & own)]
        if whole:
            removal.strategies.append(cache.delete_revisions(*whole))
        if files:
            removal.strategies.append(cache.delete_files(*files))
        removal.freed_bytes += sum(strategy.expected_freed_size for strategy in removal.strategies)

    def _claimed_by_others(self, recipe: Recipe, commit: str) -> set[str]:
        """Return the files of a commit that other recipes use too."""
        assert isinstance(recipe.source, HubSource)
        others = [
            other
            for other in self._recipes
            if other.id != recipe.id
            and isinstance(other.source, HubSource)
            and other.source.repository == recipe.source.repository
            and self._store.commit_of(other) == commit
        ]
        return {file.path for other in others for file in self._store.hub_files(other, commit)}

    def _partials(self, recipe: Recipe, source: HubSource, cached: CachedRepository) -> list[Path]:
        begun = self._store.pins.begun(recipe.id, source)
        paths = [cached.partial(file.digest) for file in begun.files] if begun else []
        whole = [cached.blob(file.digest) for file in begun.files] if begun else []
        # Contents that came whole before the pull was interrupted, and that no snapshot names yet.
        named = {path.resolve() for path in (cached.folder / "snapshots").rglob("*") if path.is_symlink()}
        return [path for path in dict.fromkeys([*paths, *whole]) if path.is_file() and path.resolve() not in named]

    def _forget(self, recipe: Recipe, source: HubSource, cached: CachedRepository, former_only: bool) -> None:
        gone = [path for path in Verified(self._store.verified).paths() if not path.exists()]
        Verified(self._store.verified).forget(*[path for path in gone if cached.folder in path.parents])
        self._store.pins.drop(recipe.id, source, "former", *(() if former_only else ("pulling",)))

    def _delete_from_ollama(self, model: str) -> None:
        url = self._store.ollama_url
        try:
            answer = httpx.request("DELETE", f"{url}/api/delete", json={"model": model}, timeout=30.0, trust_env=False)
        except httpx.HTTPError as error:
            raise PullError(f"Ollama at {url} can't be reached: {error}", "unreachable") from None
        if answer.status_code not in (200, 404):
            raise PullError(f"Ollama at {url} refuses to delete {model}: {answer.text[:300]}", "failed")


def _remove_empty(cached: CachedRepository) -> None:
    """Remove the folders of a repository of which nothing is left."""
    for folder in (cached.folder / "blobs", cached.folder / "snapshots", cached.folder):
        if folder.is_dir() and not os.listdir(folder):  # noqa: PTH208 - one call answers it
            folder.rmdir()

"""Which commit of a hub's repository each model stays on.

A recipe may name a branch, which moves. The first pull writes down the commit that it got; later pulls, and the
engines, stay on it until `sparkstack pull MODEL --upgrade`. A file beside the models, `<state>/pins.json`:

    {"qwen3-8b": {"repository": "Qwen/Qwen3-8B", "recipe": "main", "revision": "main", "commit": "…", "former": ["…"],
                  "pulling": {"revision": "main", "commit": "…", "files": {"config.json": [726, "…"]}}}}

`pulling` is there while a pull has begun and not ended, also when it was killed: the next one goes on from it.
"""

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.engines.files.hub_cache import HubFile
from services.engines.recipes import HubSource
from services.kit.files import read_json, write_json


@dataclass(frozen=True)
class Begun:
    """A pull that has begun."""

    revision: str
    commit: str
    files: tuple[HubFile, ...]


class Pins:
    """The file; an entry is void once the recipe names another repository or revision."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def commit(self, model_id: str, source: HubSource) -> str | None:
        """Return the commit that a finished pull got."""
        return self._entry(model_id, source).get("commit")

    def revision(self, model_id: str, source: HubSource) -> str:
        """Return the branch, tag or commit that was last asked for; the recipe's where nothing was pulled yet."""
        return str(self._entry(model_id, source).get("revision", source.revision))

    def former(self, model_id: str, source: HubSource) -> list[str]:
        """Return the commits that an upgrade has left behind."""
        return list(self._entry(model_id, source).get("former", ()))

    def begun(self, model_id: str, source: HubSource) -> Begun | None:
        """Return the pull that has begun and not ended."""
        pulling = self._entry(model_id, source).get("pulling")
        if not isinstance(pulling, dict):
            return None
        files = tuple(HubFile(path, size, digest) for path, (size, digest) in pulling["files"].items())
        return Begun(pulling["revision"], pulling["commit"], files)

    def begin(self, model_id: str, source: HubSource, revision: str, commit: str, files: Iterable[HubFile]) -> None:
        """Note that a pull begins."""
        listed = {file.path: [file.size_bytes, file.digest] for file in files}
        pulling = {"revision": revision, "commit": commit, "files": listed}
        self._change(model_id, source, lambda entry: {**entry, "pulling": pulling})

    def finish(self, model_id: str, source: HubSource, revision: str, commit: str) -> None:
        """Note that the files of a commit are here, and that engines shall use them."""

        def finished(entry: dict[str, Any]) -> dict[str, Any]:
            before = [*entry.get("former", ()), *([entry["commit"]] if "commit" in entry else [])]
            former = [each for each in dict.fromkeys(before) if each != commit]
            kept = {name: entry[name] for name in ("repository", "recipe")}
            return {**kept, "revision": revision, "commit": commit, **({"former": former} if former else {})}

        self._change(model_id, source, finished)

    def drop(self, model_id: str, source: HubSource, *names: str) -> None:
        """Forget parts of an entry: `pulling` when nothing is left of a pull, `former` when those commits are gone."""
        self._change(model_id, source, lambda entry: {name: entry[name] for name in entry if name not in names})

    def _entry(self, model_id: str, source: HubSource) -> dict[str, Any]:
        entry = read_json(self._path).get(model_id)
        if isinstance(entry, dict) and (entry.get("repository"), entry.get("recipe")) == _key(source):
            return entry
        return {}

    def _change(self, model_id: str, source: HubSource, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        with self._lock:
            repository, recipe = _key(source)
            entry = {"repository": repository, "recipe": recipe, **self._entry(model_id, source)}
            write_json(self._path, {**read_json(self._path), model_id: change(entry)})


def _key(source: HubSource) -> tuple[str, str]:
    return source.repository, source.revision

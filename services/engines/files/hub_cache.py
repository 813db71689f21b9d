"""The Hugging Face cache on disk, as read without the hub's library, whose import takes half a second.

    <cache>/models--OWNER--NAME/refs/REVISION             the commit that a branch or tag had
                               /trees/COMMIT.json         every file of the commit, with size and digest
                               /snapshots/COMMIT/FILE     a link to
                               /blobs/DIGEST              its contents; sha256, or git's sha1 for small files
                               /blobs/DIGEST.sparkstack.incomplete    what a download has so far

The cache is the ordinary one (HF_HOME), so that containers and other tools share the files.
Source: huggingface_hub 2.4, `_tree_cache.py` and `file_download.py`.
"""

import fnmatch
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.kit.files import read_json

COMMIT = re.compile(r"[0-9a-f]{40}")
PARTIAL = ".sparkstack.incomplete"
_TREE_VERSION = 1
_SHARD = re.compile(r"(.*)-\d{5}-of-(\d{5})\.(?:gguf|safetensors)")
_WEIGHTS = (".safetensors", ".gguf", ".bin")


@dataclass(frozen=True)
class HubFile:
    """A file of a repository; `digest` is its sha256 (64 digits), or git's sha1 (40)."""

    path: str
    size_bytes: int
    digest: str


def cache_folder(variables: Mapping[str, str]) -> Path:
    """Return the hub's cache: HF_HUB_CACHE, or `hub` in HF_HOME, whose default is ~/.cache/huggingface."""
    named = variables.get("HF_HUB_CACHE") or variables.get("HUGGINGFACE_HUB_CACHE")
    if not named:
        caches = variables.get("XDG_CACHE_HOME") or "~/.cache"
        named = f"{variables.get('HF_HOME') or f'{caches}/huggingface'}/hub"
    return Path(os.path.expandvars(named)).expanduser().absolute()


def matching(files: Iterable[HubFile], patterns: Sequence[str]) -> list[HubFile]:
    """Return the files that match one of the patterns at least; all where there are none."""
    wanted = [f"{pattern}*" if pattern.endswith("/") else pattern for pattern in patterns]
    return [file for file in files if not wanted or any(fnmatch.fnmatchcase(file.path, each) for each in wanted)]


class CachedRepository:
    """What the cache has of one repository."""

    def __init__(self, cache: Path, repository: str) -> None:
        self.cache = cache
        self.repository = repository
        self.folder = cache / f"models--{repository.replace('/', '--')}"

    @property
    def lock(self) -> Path:
        """The file that whoever downloads from this repository holds locked."""
        return self.cache / ".locks" / self.folder.name / "sparkstack.lock"

    def commit_of(self, revision: str) -> str | None:
        """Return the commit that a branch or tag had when it was last asked for; a commit is its own."""
        if COMMIT.fullmatch(revision):
            return revision
        try:
            commit = (self.folder / "refs" / revision).read_text(encoding="utf-8").strip()
        except OSError:
            return None
        return commit if COMMIT.fullmatch(commit) else None

    def snapshot(self, commit: str) -> Path:
        """Return the folder in which an engine finds the files of a commit."""
        return self.folder / "snapshots" / commit

    def blob(self, digest: str) -> Path:
        """Return where a file's contents are kept."""
        return self.folder / "blobs" / digest

    def partial(self, digest: str) -> Path:
        """Return where a file's contents are gathered."""
        return self.folder / "blobs" / f"{digest}{PARTIAL}"

    def files(self, commit: str) -> list[HubFile] | None:
        """Return all files of a commit; None where the cache has no list of them."""
        tree = read_json(self.folder / "trees" / f"{commit}.json")
        entries = tree.get("files")
        if tree.get("format_version") != _TREE_VERSION or not isinstance(entries, dict):
            return None
        try:
            return [_hub_file(path, entry) for path, entry in entries.items()]
        except (KeyError, TypeError):
            return None

    def has(self, commit: str, file: HubFile) -> bool:
        """Say whether a file of a commit is here with its whole size."""
        return _size(self.snapshot(commit) / file.path) == file.size_bytes

    def is_whole(self, commit: str, patterns: Sequence[str]) -> bool:
        """Say whether all files of a commit that match the patterns are here, by their sizes.

        Without a list of the commit's files (another tool may have fetched them), each pattern must have a file, and
        there must be weights among them.
        """
        listed = self.files(commit)
        if listed is not None:
            wanted = matching(listed, patterns)
            return bool(wanted) and all(self.has(commit, file) for file in wanted)
        found = self.found(commit)
        names = [file.path for file in found]
        fits = all(any(fnmatch.fnmatchcase(name, pattern) for name in names) for pattern in patterns)
        weights = [name for name in names if name.endswith(_WEIGHTS)]
        return bool(weights) and fits and _has_all_shards(weights)

    def found(self, commit: str) -> list[HubFile]:
        """Return the files of a commit that are here, without their digests."""
        folder = self.snapshot(commit)
        sizes = {path: _size(path) for path in sorted(folder.rglob("*"))}
        return [HubFile(path.relative_to(folder).as_posix(), size, "") for path, size in sizes.items() if size >= 0]


def _has_all_shards(names: Iterable[str]) -> bool:
    """Say whether of each file in parts, `NAME-00001-of-00003.gguf`, as many are here as its name says."""
    parts = Counter((found[1], int(found[2])) for name in names if (found := _SHARD.fullmatch(name)))
    return all(count == total for (_, total), count in parts.items())


def _hub_file(path: str, entry: Mapping[str, Any]) -> HubFile:
    sha256 = entry.get("lfs_sha256")
    if sha256:
        return HubFile(path, int(entry["lfs_size"]), sha256)
    return HubFile(path, int(entry["size"]), entry["blob_id"])


def _size(path: Path) -> int:
    """Return a file's size; -1 where there is no file."""
    try:
        return path.stat().st_size if path.is_file() else -1
    except OSError:
        return -1

"""The collections of Qdrant's engine on disk, in the process that holds them (edge_host.py).

    <folder>/.lock                     held while a process has the folder
    <folder>/<collection>/current.json which generation counts, and the layout; written last, replaced whole
    <folder>/<collection>/<generation> a shard of the engine

A collection without `current.json` was never made to the end, or is being dropped: it is not there. An optimized copy
becomes the next generation; whatever is not the current one is removed at the next start.
"""

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import msgspec
import qdrant_edge

from services.rag.vectors import CollectionSpec, VectorStoreError, edge_requests
from services.rag.vectors.layout import missing

_CURRENT = "current.json"
_LOCK_WAIT_S = 2.0
# Writes while a copy is being optimized are kept to be done again; above this, the copy is dropped.
_MOST_RECORDED_POINTS = 20_000


@dataclass
class _Open:
    shard: qdrant_edge.EdgeShard
    spec: CollectionSpec
    generation: str
    unflushed: bool = False
    recorded: list[qdrant_edge.UpdateOperation] | None = None
    recorded_points: int = field(default=0)


def spec_of(stored: dict[str, Any]) -> CollectionSpec:
    """Return the layout that `current.json` tells of."""
    return msgspec.convert(stored, CollectionSpec)


def lock(folder: Path) -> IO[str]:
    """Take the folder for this process; a predecessor that is just ending is waited for.

    Raises:
        VectorStoreError: another process has it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise VectorStoreError(f"the vector store's folder {folder} can't be written: {error}") from error
    until = time.monotonic() + _LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except OSError:
            if time.monotonic() > until:
                file.close()
                raise VectorStoreError(
                    f"the vector store in {folder} is open in another process: stop that one, set SPARKSTACK_STATE to "
                    "a folder of its own, or use a Qdrant server (RAG_VECTOR_STORE=qdrant)"
                ) from None
            time.sleep(0.05)


@contextmanager
def _clear(collection: str, folder: Path) -> Iterator[None]:
    """Turn whatever the engine raises into VectorStoreError; a panic of it is no Exception."""
    try:
        yield
    except (VectorStoreError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        said = str(error).removeprefix("Service runtime error: ")
        raise VectorStoreError(
            f"the vector engine failed on collection {collection!r} ({said}). If this goes on, its files are damaged: "
            f"remove {folder / collection} and ingest its documents again"
        ) from error


class Shards:
    """All collections under a folder; each is opened when it is first asked for."""

    def __init__(self, folder: Path, exact_bytes: int) -> None:
        self._folder = folder
        self._exact_bytes = exact_bytes
        self._open: dict[str, _Open] = {}
        self._lock = lock(folder)

    def create(self, collection: str, stored: dict[str, Any]) -> dict[str, Any]:
        """Make a collection where there is none; return the layout that it has."""
        place = self._folder / collection
        if (place / _CURRENT).exists():
            return self._current(collection)["spec"]  # type: ignore[no-any-return]
        with _clear(collection, self._folder):
            shutil.rmtree(place, ignore_errors=True)
            (place / "1").mkdir(parents=True)
            spec = spec_of(stored)
            shard = qdrant_edge.EdgeShard.create(str(place / "1"), edge_requests.config(spec, self._exact_bytes))
            for operation in edge_requests.indexes(spec):
                shard.update(operation)
            shard.flush()
            self._point_to(collection, "1", stored)
            self._open[collection] = _Open(shard, spec, "1")
        return stored

    def drop(self, collection: str) -> None:
        """Remove a collection: from one moment to the next, then its files."""
        place = self._folder / collection
        (place / _CURRENT).unlink(missing_ok=True)
        if (held := self._open.pop(collection, None)) is not None:
            with _clear(collection, self._folder):
                held.shard.close()
        shutil.rmtree(place, ignore_errors=True)

    def names(self) -> list[str]:
        """Return the collections that are there."""
        return sorted(path.parent.name for path in self._folder.glob(f"*/{_CURRENT}"))

    def spec(self, collection: str) -> dict[str, Any]:
        """Return a collection's layout as it is stored."""
        return self._current(collection)["spec"]  # type: ignore[no-any-return]

    def upsert(self, collection: str, points: list[list[Any]]) -> int:
        """Write points, as edge_requests.point takes them; return how many the collection has."""
        return self._update(collection, edge_requests.upsert(points), len(points))

    def delete(self, collection: str, where: dict[str, Any]) -> int:
        """Remove what the filter takes; return how many points are left."""
        operation = qdrant_edge.UpdateOperation.delete_points_by_filter(edge_requests.filter_of(where))
        return self._update(collection, operation, 1)

    def _update(self, collection: str, operation: qdrant_edge.UpdateOperation, points: int) -> int:
        held = self._held(collection)
        with _clear(collection, self._folder):
            held.shard.update(operation)
            held.unflushed = True
            if held.recorded is not None:
                held.recorded.append(operation)
                held.recorded_points += points
                if held.recorded_points > _MOST_RECORDED_POINTS:
                    held.recorded = None
            return held.shard.count(qdrant_edge.CountRequest(exact=False))

    def count(self, collection: str, where: dict[str, Any] | None) -> int:
        """Return how many points the filter takes, exactly."""
        with _clear(collection, self._folder):
            wanted = None if where is None else edge_requests.filter_of(where)
            return self._held(collection).shard.count(qdrant_edge.CountRequest(filter=wanted, exact=True))

    def search(self, collection: str, asked: dict[str, Any]) -> list[list[Any]]:
        """Return `[id, score, payload, vector]` of each hit."""
        held = self._held(collection)
        with _clear(collection, self._folder):
            found = held.shard.query(edge_requests.query(asked, held.spec))
            return [edge_requests.found(each, each.score) for each in found]

    def fetch(self, collection: str, where: dict[str, Any], limit: int, with_vectors: bool) -> list[list[Any]]:
        """Return `[id, 0, payload, vector]` of points that the filter takes."""
        with _clear(collection, self._folder):
            records, _next = self._held(collection).shard.scroll(edge_requests.scroll(where, limit, with_vectors))
            return [edge_requests.found(each, 0.0) for each in records]

    def flush(self) -> None:
        """Bring every write to disk."""
        for name, held in self._open.items():
            if held.unflushed:
                with _clear(name, self._folder):
                    held.shard.flush()
                    held.unflushed = False

    @property
    def unflushed(self) -> bool:
        """Whether there are writes that only the log has."""
        return any(held.unflushed for held in self._open.values())

    def record(self, collection: str) -> list[str]:
        """Flush, keep writes from now on to be done again; return the folder to copy, and where to."""
        held = self._held(collection)
        with _clear(collection, self._folder):
            held.shard.flush()
        held.unflushed, held.recorded, held.recorded_points = False, [], 0
        place = self._folder / collection
        following = str(int(held.generation) + 1)
        shutil.rmtree(place / following, ignore_errors=True)
        return [str(place / held.generation), str(place / following)]

    def swap(self, collection: str, target: str) -> bool:
        """Go on with the optimized copy, after the writes since; False where there were too many, or no collection."""
        held, copy = self._open.get(collection), Path(target)
        recorded = None if held is None else held.recorded
        if held is None or recorded is None or not copy.is_dir():
            shutil.rmtree(copy, ignore_errors=True)
            return False
        with _clear(collection, self._folder):
            shard = qdrant_edge.EdgeShard.load(str(copy))
            for operation in recorded:
                shard.update(operation)
            shard.flush()
            self._point_to(collection, copy.name, self.spec(collection))
            self._open[collection] = _Open(shard, held.spec, copy.name)
            held.shard.close()
        shutil.rmtree(self._folder / collection / held.generation, ignore_errors=True)
        return True

    def close(self) -> None:
        """Flush and let go of everything."""
        self.flush()
        for name in list(self._open):
            with _clear(name, self._folder):
                self._open.pop(name).shard.close()
        self._lock.close()

    def _held(self, collection: str) -> _Open:
        if (held := self._open.get(collection)) is not None:
            return held
        current = self._current(collection)
        place, generation = self._folder / collection, current["generation"]
        for other in place.iterdir():
            if other.is_dir() and other.name != generation:
                shutil.rmtree(other, ignore_errors=True)
        # The engine makes an empty shard of a folder that has lost its own.
        if not (place / generation / "edge_config.json").exists():
            raise VectorStoreError(
                f"collection {collection!r} is damaged: {place / generation} has no shard. Remove {place} and ingest "
                "its documents again"
            )
        with _clear(collection, self._folder):
            shard = qdrant_edge.EdgeShard.load(str(place / generation))
        held = self._open[collection] = _Open(shard, spec_of(current["spec"]), generation)
        return held

    def _current(self, collection: str) -> dict[str, Any]:
        path = self._folder / collection / _CURRENT
        try:
            return json.loads(path.read_bytes())  # type: ignore[no-any-return]
        except FileNotFoundError:
            raise missing(collection) from None
        except (OSError, ValueError) as error:
            raise VectorStoreError(
                f"collection {collection!r} is damaged: {path} can't be read ({error}). Remove {path.parent} and "
                "ingest its documents again"
            ) from error

    def _point_to(self, collection: str, generation: str, stored: dict[str, Any]) -> None:
        path = self._folder / collection / _CURRENT
        fresh = path.with_suffix(".new")
        with fresh.open("w", encoding="utf-8") as file:
            json.dump({"generation": generation, "spec": stored}, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)

"""Qdrant's own engine on this machine, with no server: the default of the embedded stack.

It runs in a process of its own that only this store speaks to (edge_host.py says why). Below `layout.EXACT_BYTES` of
vectors a collection is searched exactly; above, and where much was deleted, a copy is optimized in the background once
writes have paused, and takes the collection's place.
"""

import asyncio
import logging
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from services.rag.vectors import CollectionSpec, Hit, Point, VectorQuery, VectorStoreError
from services.rag.vectors.conditions import conditions
from services.rag.vectors.edge_channel import EdgeChannel, spawn
from services.rag.vectors.edge_copying import copy_tree
from services.rag.vectors.edge_shards import spec_of
from services.rag.vectors.filters import Filter
from services.rag.vectors.layout import (
    EXACT_BYTES,
    asked,
    check_name,
    check_points,
    has_terms,
    in_order,
    other_layout,
)

_log = logging.getLogger(__name__)
# A request of many points would keep the engine from searches for that long.
_POINTS_A_REQUEST = 256


@dataclass
class _State:
    """What is known of a collection here; writes take the lock, searches don't."""

    spec: CollectionSpec
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    written_since: int = 0
    deletes_since: int = 0
    timer: asyncio.TimerHandle | None = None
    optimizing: "asyncio.Task[None] | None" = None


class EdgeVectorStore:
    """Collections in a folder, which this process alone may have.

    Args:
        quiet_s: a pause of writes this long starts optimizing, where that is worth it.
        exact_bytes: of vectors, up to which a collection made here is searched exactly.
    """

    def __init__(self, folder: Path, *, quiet_s: float = 15.0, exact_bytes: int = EXACT_BYTES) -> None:
        self._channel = EdgeChannel(folder.absolute(), exact_bytes)
        self._exact_bytes = exact_bytes
        self._states: dict[str, _State] = {}
        self._quiet_s = quiet_s

    async def create(self, collection: str, spec: CollectionSpec) -> None:
        """Make a collection; nothing happens where it is there with this layout."""
        stored = await self._channel.ask("create", check_name(collection), asdict(spec))
        there = spec_of(stored)
        if there != spec:
            raise other_layout(collection, _words(there), _words(spec))
        self._states.setdefault(collection, _State(there))

    async def drop(self, collection: str) -> None:
        """Remove a collection with its points; nothing happens where there is none."""
        state = self._states.pop(collection, None)
        if state is not None:
            await _stop(state)
        await self._channel.ask("drop", check_name(collection))

    async def collections(self) -> list[str]:
        """Return the names of all collections."""
        return [str(name) for name in await self._channel.ask("names")]

    async def upsert(self, collection: str, points: Sequence[Point]) -> None:
        """Write points; they are searchable, and survive a kill, when this returns."""
        state = await self._state(collection)
        check_points(points, state.spec, collection)
        for start in range(0, len(points), _POINTS_A_REQUEST):
            part = points[start : start + _POINTS_A_REQUEST]
            async with state.lock:
                there = await self._channel.ask("upsert", collection, [_packed(point) for point in part])
            state.written_since += len(part)
            self._consider(collection, state, there)

    async def delete(self, collection: str, where: Filter) -> None:
        """Remove every point that the filter takes."""
        wanted, state = conditions(where), await self._state(collection)
        async with state.lock:
            before = await self._channel.ask("count", collection, None)
            there = await self._channel.ask("delete", collection, wanted)
        state.deletes_since += max(0, before - there)
        self._consider(collection, state, there)

    async def count(self, collection: str, where: Filter | None = None) -> int:
        """Return how many points there are, exactly."""
        wanted = None if where is None else conditions(where)
        return int(await self._channel.ask("count", check_name(collection), wanted))

    async def search(self, collection: str, query: VectorQuery) -> list[Hit]:
        """Return hits, best first. Scores are cosines (dense), BM25 (sparse) or fused ranks (both)."""
        terms = query.sparse if has_terms(query) else None
        request: dict[str, Any] = {
            "dense": None if query.dense is None else _bytes(query.dense, np.float32),
            "indices": None if terms is None else _bytes(terms.indices, np.uint32),
            "values": None if terms is None else _bytes(terms.values, np.float32),
            "filter": None if query.filter is None else conditions(query.filter),
            "limit": asked(query),
            "candidates": max(query.candidates, asked(query)),
            "vectors": query.with_vectors,
            "exact": query.exact,
        }
        if query.dense is not None:
            check_points([Point("", query.dense, _NONE, {})], (await self._state(collection)).spec, collection)
        elif terms is None:
            await self._state(collection)
            return []
        found = await self._channel.ask("search", check_name(collection), request)
        return in_order([_hit(each) for each in found], query.limit)

    async def fetch(self, collection: str, where: Filter, limit: int = 1000, with_vectors: bool = False) -> list[Hit]:
        """Return points that the filter takes, in no order, with score 0."""
        found = await self._channel.ask("fetch", check_name(collection), conditions(where), limit, with_vectors)
        return [_hit(each) for each in found]

    async def optimize(self, collection: str) -> None:
        """Build what makes searches quick after many writes; may take long, searches go on meanwhile."""
        state = await self._state(collection)
        if state.optimizing is None or state.optimizing.done():
            state.optimizing = asyncio.create_task(self._optimize(collection, state))
        await asyncio.shield(state.optimizing)

    async def ready(self) -> str:
        """Return `ok`, or a sentence on what is wrong; at once."""
        try:
            await self._channel.start()
        except VectorStoreError as error:
            return str(error)
        return "ok"

    async def close(self) -> None:
        """Write everything to disk and end the engine's process; optimizing is given up."""
        for state in self._states.values():
            await _stop(state)
        await self._channel.close()

    async def _state(self, collection: str) -> _State:
        if (state := self._states.get(collection)) is None:
            spec = spec_of(await self._channel.ask("spec", check_name(collection)))
            state = self._states.setdefault(collection, _State(spec))
        return state

    def _consider(self, collection: str, state: _State, there: int) -> None:
        """Have a collection optimized after a pause of writes, where a graph or much removed makes that worth it."""
        if state.timer is not None:
            state.timer.cancel()
            state.timer = None
        large = there * state.spec.dimensions * 4 > self._exact_bytes
        grown = large and state.written_since > max(1000, there // 5)
        if grown or state.deletes_since > max(5000, there // 5):
            loop = asyncio.get_running_loop()
            state.timer = loop.call_later(self._quiet_s, self._start_optimizing, collection, state)

    def _start_optimizing(self, collection: str, state: _State) -> None:
        if state.optimizing is None or state.optimizing.done():
            state.optimizing = asyncio.create_task(self._optimize(collection, state))
            state.optimizing.add_done_callback(lambda task: _tell(collection, task))

    async def _optimize(self, collection: str, state: _State) -> None:
        async with state.lock:
            source, target = await self._channel.ask("record", collection)
            written, deleted = state.written_since, state.deletes_since
            await asyncio.to_thread(copy_tree, source, target)
        process = await spawn("services.rag.vectors.edge_optimizing", target, str(os.getpid()))
        try:
            code = await process.wait()
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if code:
            await asyncio.to_thread(shutil.rmtree, target, ignore_errors=True)
        async with state.lock:
            # Without its copy the host forgets what it recorded.
            swapped = await self._channel.ask("swap", collection, target)
        if code:
            raise VectorStoreError(f"optimizing collection {collection!r} ended with status {code}: it stays as it was")
        if swapped:
            state.written_since -= written
            state.deletes_since -= deleted


_NONE: Any = None


def _tell(collection: str, task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.warning("collection %s could not be optimized: %s", collection, error)


async def _stop(state: _State) -> None:
    if state.timer is not None:
        state.timer.cancel()
        state.timer = None
    if state.optimizing is not None:
        state.optimizing.cancel()
        with suppress(asyncio.CancelledError, VectorStoreError):
            await state.optimizing


def _words(spec: CollectionSpec) -> str:
    filterable = ", ".join(f"{key} ({kind})" for key, kind in sorted(spec.filterable.items()))
    return f"{spec.dimensions} dimensions, quantization {spec.quantization}, filterable: {filterable or 'none'}"


def _bytes(array: Any, kind: Any) -> bytes:
    return np.ascontiguousarray(array, kind).tobytes()


def _packed(point: Point) -> list[Any]:
    return [
        point.id,
        _bytes(point.dense, np.float32),
        _bytes(point.sparse.indices, np.uint32),
        _bytes(point.sparse.values, np.float32),
        point.payload,
    ]


def _hit(found: Sequence[Any]) -> Hit:
    name, score, payload, vector = found
    return Hit(name, score, payload, None if vector is None else np.frombuffer(vector, np.float32))

"""One size of collection in the store of the embedded stack: writes, searches, what they miss."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from loadtests.gateway_overhead.arithmetic import median, percentile
from loadtests.vector_search.data import DIMENSIONS, Corpus, Question
from services.rag.vectors import CollectionSpec, Quantization, VectorQuery, VectorStore
from services.rag.vectors.edge import EdgeVectorStore
from services.rag.vectors.filters import Compare, eq, every

_BATCH = 64
_FILTER = every(eq("tenant", "tenant-1"), Compare("attributes.year", "gte", 2010))


@dataclass(frozen=True)
class Searched:
    """One kind of search; recall is of the ten nearest, None where there is nothing exact to compare with."""

    name: str
    median_ms: float
    p95_ms: float
    recall: float | None


@dataclass(frozen=True)
class Measured:
    """A collection and its searches.

    Args:
        state: `as written`, or `optimized`.
    """

    chunks: int
    quantization: Quantization
    state: str
    write_s: float
    optimize_s: float
    disk_mb: float
    searches: list[Searched]


def queries(question: Question) -> dict[str, VectorQuery]:
    """Return a question in every kind of search."""
    return {
        "dense": VectorQuery(question.dense),
        "dense, exact": VectorQuery(question.dense, exact=True),
        "dense, filtered": VectorQuery(question.dense, filter=_FILTER),
        "sparse": VectorQuery(sparse=question.sparse),
        "hybrid": VectorQuery(question.dense, question.sparse),
        "hybrid, filtered": VectorQuery(question.dense, question.sparse, _FILTER),
    }


async def searches(store: VectorStore, collection: str, corpus: Corpus, kinds: Sequence[str]) -> list[Searched]:
    """Ask every question in each kind, the kinds in turns, so that the machine's moods hit all alike."""
    among = (corpus.years >= 2010) & (_numbers(corpus) % 4 == 1)
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    found: dict[str, float] = dict.fromkeys(kinds, 0.0)
    # Before anything is timed: the threads of a matrix product go on spinning for a while, and would be in the way.
    nearest = [{False: corpus.nearest(each, None), True: corpus.nearest(each, among)} for each in corpus.questions]
    for number, question in enumerate(corpus.questions):
        for kind in (*kinds[number % len(kinds) :], *kinds[: number % len(kinds)]):
            started = time.perf_counter()
            hits = await store.search(collection, replace(queries(question)[kind], limit=10))
            times[kind].append((time.perf_counter() - started) * 1e3)
            if kind.startswith("dense"):
                wanted = nearest[number]["filtered" in kind]
                found[kind] += len({hit.id for hit in hits} & wanted) / len(wanted)
    return [
        Searched(
            kind,
            round(median(times[kind]), 2),
            round(percentile(times[kind], 95), 2),
            round(found[kind] / len(corpus.questions), 3) if kind.startswith("dense") else None,
        )
        for kind in kinds
    ]


def _numbers(corpus: Corpus) -> "np.ndarray":

    return np.arange(len(corpus.dense))


async def written(store: VectorStore, collection: str, corpus: Corpus) -> float:
    """Write all chunks, 64 at a time as an ingest does; return the seconds that the store took."""
    total = 0.0
    for start in range(0, len(corpus.dense), _BATCH):
        points = corpus.points(start, start + _BATCH)
        started = time.perf_counter()
        await store.upsert(collection, points)
        total += time.perf_counter() - started
    return total


def disk_mb(folder: Path) -> float:
    """Return what a folder takes on disk; holes in files take nothing."""
    return round(sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file()) / 1e6, 1)


def measure(chunks: int, quantization: Quantization, folder: Path, *, optimize: bool) -> list[Measured]:
    """Return what was measured as written and, if asked for, once optimized."""
    return asyncio.run(_measure(Corpus(chunks), quantization, folder, optimize=optimize))


async def _measure(corpus: Corpus, quantization: Quantization, folder: Path, *, optimize: bool) -> list[Measured]:
    chunks = len(corpus.dense)
    store = EdgeVectorStore(folder, quiet_s=1e6)
    spec = CollectionSpec(DIMENSIONS, quantization, {"attributes.year": "integer"})
    await store.create("measured", spec)
    write_s = await written(store, "measured", corpus)
    kinds = list(queries(corpus.questions[0]))
    rows = []
    if quantization == "none":
        found = await searches(store, "measured", corpus, kinds)
        rows.append(Measured(chunks, quantization, "as written", write_s, 0.0, disk_mb(folder), found))
    if optimize:
        started = time.perf_counter()
        await store.optimize("measured")
        taken = time.perf_counter() - started
        found = await searches(store, "measured", corpus, kinds)
        rows.append(Measured(chunks, quantization, "optimized", write_s, taken, disk_mb(folder), found))
    await store.close()
    return rows

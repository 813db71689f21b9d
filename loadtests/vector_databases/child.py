"""One database in a process of its own: `python -m loadtests.vector_databases.child NAME CHUNKS FOLDER`."""

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from loadtests.vector_search.data import DIMENSIONS, Corpus
from loadtests.vector_search.measuring import disk_mb, searches, written
from services.rag.vectors import CollectionSpec, VectorStore


def _edge(folder: Path) -> VectorStore:
    from services.rag.vectors.edge import EdgeVectorStore

    return EdgeVectorStore(folder, quiet_s=1e6)


def _local(folder: Path) -> VectorStore:
    from services.rag.vectors.qdrant import QdrantVectorStore

    return QdrantVectorStore.at_path(folder)


def _chroma(folder: Path) -> VectorStore:
    from services.rag.vectors.comparison.chroma import open_chroma

    return open_chroma(folder)


def _faiss(folder: Path) -> VectorStore:
    from services.rag.vectors.comparison.faiss import open_faiss

    return open_faiss(folder)


def _milvus(folder: Path) -> VectorStore:
    from services.rag.vectors.comparison.milvus import open_milvus

    return open_milvus(folder)


STORES: dict[str, Callable[[Path], VectorStore]] = {
    "edge": _edge,
    "local": _local,
    "chroma": _chroma,
    "faiss": _faiss,
    "milvus": _milvus,
}
_KINDS = {"edge": ["dense", "dense, filtered", "hybrid"], "local": ["dense", "dense, filtered", "hybrid"]}


def _held_mb() -> float:
    """Return the proportional memory of this process and those that it started."""
    here = psutil.Process(os.getpid())
    return sum(each.memory_full_info().pss for each in (here, *here.children(recursive=True))) / 1e6


async def measure(name: str, chunks: int, folder: Path) -> dict[str, Any]:
    """Return the figures of one database."""
    corpus = Corpus(chunks)
    before = _held_mb()
    store = STORES[name](folder)
    await store.create("measured", CollectionSpec(DIMENSIONS, filterable={"attributes.year": "integer"}))
    write_s = await written(store, "measured", corpus)
    started = time.perf_counter()
    await store.optimize("measured")
    optimize_s = time.perf_counter() - started
    found = await searches(store, "measured", corpus, _KINDS.get(name, ["dense", "dense, filtered"]))
    held = _held_mb() - before
    count = await store.count("measured")
    await store.close()
    return {
        "name": name,
        "chunks": count,
        "write_s": write_s,
        "optimize_s": optimize_s,
        "held_mb": held,
        "disk_mb": disk_mb(folder),
        "searches": {each.name: [each.median_ms, each.p95_ms, each.recall] for each in found},
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])))))

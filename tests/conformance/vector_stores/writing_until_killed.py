"""A process that writes points and says after each return how many are safe, until it is killed."""

import asyncio
import sys
from pathlib import Path

import numpy as np

from services.rag.documents import point_id
from services.rag.vectors import CollectionSpec, Point
from services.rag.vectors.bm25 import Bm25
from services.rag.vectors.edge import EdgeVectorStore

DIMENSIONS, BATCH = 32, 16


def batch(number: int) -> list[Point]:
    """Return the points of a batch, the same in every process."""
    dense = np.random.default_rng(number).normal(size=(BATCH, DIMENSIONS)).astype(np.float32)
    dense /= np.linalg.norm(dense, axis=1, keepdims=True)
    terms, name = Bm25().document(f"batch number{number}"), f"document-{number}"
    return [
        Point(point_id(name, "v1", index), dense[index], terms, {"tenant": "one", "document_id": name, "version": "v1"})
        for index in range(BATCH)
    ]


async def main() -> None:
    """Write into the folder of the first argument, from the batch of the second on."""
    store = EdgeVectorStore(Path(sys.argv[1]))
    await store.create("killed", CollectionSpec(DIMENSIONS))
    for number in range(int(sys.argv[2]), 100_000):
        await store.upsert("killed", batch(number))
        print(number + 1, flush=True)


if __name__ == "__main__":
    asyncio.run(main())

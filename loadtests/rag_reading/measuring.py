"""Pages a second: in one process by its CPU time, through the pool by the clock."""

import asyncio
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from loadtests.rag_reading.corpus import PAGE_CHARACTERS
from services.rag.chunking import chunk, tokenizer_counter
from services.rag.library import ChunkOptions
from services.rag.loading import Limits, load
from services.rag.reading import Readers

CHUNKERS = ("fixed", "sentence", "heading", "semantic")


def _no_model(texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """Return vectors that cost nothing: what a model takes is measured elsewhere."""
    vectors = np.random.default_rng(len(texts)).standard_normal((len(texts), 384), np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _timed(work: Callable[[], Any], repetitions: int) -> tuple[float, Any]:
    seconds = []
    result = None
    for _ in range(repetitions):
        began = time.process_time()
        result = work()
        seconds.append(time.process_time() - began)
    return statistics.median(seconds), result


def measure_format(paths: Sequence[Path], repetitions: int) -> dict[str, float]:
    """Return pages a second of one core for reading alone, and for reading and cutting by headings."""
    counter = tokenizer_counter()
    limits, options = Limits(), ChunkOptions()
    reading, documents = _timed(lambda: [load(path, path.name, limits) for path in paths], repetitions)
    cutting, cuts = _timed(lambda: [chunk(each, options, counter) for each in documents], repetitions)
    pages = sum(each.characters for each in documents) / PAGE_CHARACTERS
    return {
        "pages": round(pages, 1),
        "chunks": sum(map(len, cuts)),
        "read": round(pages / reading, 1),
        "cut": round(pages / cutting, 1),
        "both": round(pages / (reading + cutting), 1),
    }


def measure_chunker(chunker: str, paths: Sequence[Path], repetitions: int) -> dict[str, float]:
    """Return pages a second of one core for cutting documents that have been read, and what comes out."""
    counter = tokenizer_counter()
    documents = [load(path, path.name, Limits()) for path in paths]
    options = ChunkOptions(chunker)  # type: ignore[arg-type]
    seconds, cuts = _timed(lambda: [chunk(each, options, counter, _no_model) for each in documents], repetitions)
    chunks = [each for cut in cuts for each in cut]
    tokens = [each.tokens for each in chunks]
    return {
        "cut": round(sum(each.characters for each in documents) / PAGE_CHARACTERS / seconds, 1),
        "chunks": len(chunks),
        "mean_tokens": round(statistics.mean(tokens), 1),
        "most_tokens": max(tokens),
    }


def measure_pool(paths: Sequence[Path], workers: int, repetitions: int) -> dict[str, float]:
    """Return pages a second by the clock, through processes that are warm."""
    return asyncio.run(_measure_pool(paths, workers, repetitions))


async def _measure_pool(paths: Sequence[Path], workers: int, repetitions: int) -> dict[str, float]:
    async with Readers(Limits(), workers=workers) as readers:

        async def read_all() -> float:
            cuts = await asyncio.gather(*(readers.read(path, path.name, ChunkOptions()) for path in paths))
            return sum(cut.characters for cut in cuts) / PAGE_CHARACTERS

        await read_all()
        rates = []
        for _ in range(repetitions):
            began = time.perf_counter()
            pages = await read_all()
            rates.append(pages / (time.perf_counter() - began))
    return {"pages_per_s": round(statistics.median(rates), 1), "best": round(max(rates), 1)}

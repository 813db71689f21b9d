"""How long a retrieval takes at 1,000, 10,000 and 100,000 chunks: embed, search, fuse; no generation."""

import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
from prometheus_client import CollectorRegistry

from loadtests.rag_quality.collection import Cut, Searcher, cut_corpus
from loadtests.rag_quality.models import LocalEmbedder, LocalReranker, Vectors
from loadtests.rag_quality.quality import questions
from services.rag.documents import payload, point_id
from services.rag.library import ChunkOptions
from services.rag.metrics import RagMetrics
from services.rag.vectors import CollectionSpec, Point, VectorStore
from services.rag.vectors.bm25 import Bm25
from services.rag.vectors.edge import EdgeVectorStore

SIZES = (1_000, 10_000, 100_000)
TARGET_MS, TARGET_SIZE = 40.0, 10_000
_BATCH = 1_000
_SEED = 7
_WARM_UP = 10


@dataclass(frozen=True)
class Timed:
    """Milliseconds of one preset at one size.

    Args:
        graph: whether the vectors had their graph; without one each is compared.
        steps: medians by step.
    """

    chunks: int
    graph: bool
    preset: str
    median_ms: float
    p95_ms: float
    steps: dict[str, float]
    write_s: float


async def measure(
    sizes: Sequence[int], embedder: LocalEmbedder, reranker: LocalReranker, *, repetitions: int, optimize: bool
) -> list[Timed]:
    """Fill a collection to each size in turn and ask all questions; where `optimize`, once more with the graph."""
    cuts = cut_corpus(ChunkOptions(), embedder)
    vectors = embedder.embed_documents([each.chunk.indexed_text for each in cuts])
    found: list[Timed] = []
    for size in sizes:
        with tempfile.TemporaryDirectory(prefix="rag-latency-") as folder:
            # No pause is long enough: a graph is built where it is asked for, not meanwhile.
            store = EdgeVectorStore(Path(folder) / "store", quiet_s=1e9)
            try:
                write_s = await _fill(store, cuts, vectors, size)
                searcher = Searcher(store, "latency", embedder, reranker, RagMetrics(CollectorRegistry()))
                found += [
                    await _time(searcher, each, size, write_s, repetitions, graph=False) for each in _presets(size)
                ]
                if optimize and size >= SIZES[-1]:
                    await store.optimize("latency")
                    found += [
                        await _time(searcher, each, size, write_s, repetitions, graph=True) for each in _presets(size)
                    ]
            finally:
                await store.close()
    return found


def _presets(size: int) -> tuple[str, ...]:
    """Return what is timed at a size: what reranking takes has nothing to do with the size, so it is timed once."""
    return ("fast", "balanced") if size == TARGET_SIZE else ("fast",)


async def _time(searcher: Searcher, preset: str, size: int, write_s: float, repetitions: int, *, graph: bool) -> Timed:
    texts = [question.text for question in questions("all")]
    for text in texts[:_WARM_UP]:
        await searcher.search(text, preset)
    totals: list[float] = []
    steps: dict[str, list[float]] = {}
    for _ in range(repetitions):
        for text in texts:
            started = time.perf_counter()
            found = await searcher.search(text, preset)
            totals.append((time.perf_counter() - started) * 1000)
            for step in found.steps:
                steps.setdefault(step.name, []).append(step.ms)
    p95 = float(np.quantile(totals, 0.95))
    return Timed(
        size, graph, preset, median(totals), p95, {name: median(each) for name, each in steps.items()}, write_s
    )


async def _fill(store: VectorStore, cuts: Sequence[Cut], vectors: Vectors, size: int) -> float:
    await store.create("latency", CollectionSpec(vectors.shape[1]))
    started = time.perf_counter()
    for batch in _points(cuts, vectors, size):
        await store.upsert("latency", batch)
    return time.perf_counter() - started


def _points(cuts: Sequence[Cut], vectors: Vectors, size: int) -> Iterator[list[Point]]:
    """Yield batches of points: the corpus first, then its chunks again with other words and vectors nearby.

    A copy loses a tenth of its words and gets as many of other chunks, and its vector is turned by some 30 degrees:
    as a larger corpus of the same subject would be, and no two points are alike.
    """
    dice, noise = random.Random(_SEED), np.random.default_rng(_SEED)
    vocabulary = [word for each in cuts[:400] for word in each.chunk.text.split()]
    terms = Bm25()
    batch: list[Point] = []
    for at in range(size):
        cut, vector, text = cuts[at % len(cuts)], vectors[at % len(cuts)], cuts[at % len(cuts)].chunk.indexed_text
        if at >= len(cuts):
            text = _other_words(text, vocabulary, dice)
            turned = vector + noise.standard_normal(len(vector), dtype=np.float32) * (0.6 / len(vector) ** 0.5)
            vector = turned / np.linalg.norm(turned)
        name = f"{at // len(cuts)}/{cut.name}"
        carried = payload(
            cut.chunk, document_id=name, version="1", tenant="default", name=name, title=cut.title, attributes={}
        )
        carried["text"] = text
        batch.append(Point(point_id(name, "1", at), vector, terms.document(text), carried))
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _other_words(text: str, vocabulary: Sequence[str], dice: random.Random) -> str:
    return " ".join(dice.choice(vocabulary) if dice.random() < 0.1 else word for word in text.split())

"""The corpus cut and written into a store, as an ingest does it, without queue and HTTP."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtests.rag_quality.models import LocalEmbedder, LocalReranker
from services.rag.chunking import chunk, tokenizer_counter
from services.rag.documents import Chunk, payload, point_id
from services.rag.library import ChunkOptions, Collection
from services.rag.loading import Limits, load
from services.rag.metrics import RagMetrics
from services.rag.ports import Caller
from services.rag.retrieving.pipeline import Retriever
from services.rag.retrieving.presets import Presets
from services.rag.retrieving.state import Tools
from services.rag.retrieving.trace import Retrieval
from services.rag.vectors import CollectionSpec, Point, VectorStore
from services.rag.vectors.bm25 import Bm25

CORPUS = Path(__file__).parents[2] / "corpora/postgresql"
PRESETS = Path(__file__).with_name("presets")
_TENANT = "default"


class NoGenerator:
    """No preset here asks a model to write."""

    async def generate(self, *given: object, **options: object) -> object:
        """Refuse."""
        raise AssertionError("a preset asked for a generated text")

    stream = generate


@dataclass(frozen=True)
class Cut:
    """A chunk and the document that it is of."""

    name: str
    title: str
    chunk: Chunk


def cut_corpus(options: ChunkOptions, embedder: LocalEmbedder, folder: Path = CORPUS / "documents") -> list[Cut]:
    """Return all chunks of the corpus."""
    counter = tokenizer_counter()
    found: list[Cut] = []
    for path in sorted(folder.glob("*.md")):
        document = load(path, path.name, Limits())
        chunks = chunk(document, options, counter, embedder.embed_documents)
        found += [Cut(path.name, document.title, each) for each in chunks]
    return found


async def write(store: VectorStore, name: str, cuts: Sequence[Cut], embedder: LocalEmbedder) -> None:
    """Make a collection and write the chunks into it."""
    model = await embedder.model()
    await store.create(name, CollectionSpec(model.dimensions))
    terms = Bm25()
    for start in range(0, len(cuts), 512):
        part = cuts[start : start + 512]
        vectors = embedder.embed_documents([each.chunk.indexed_text for each in part])
        points = [
            Point(
                point_id(each.name, "1", each.chunk.index),
                vector,
                terms.document(each.chunk.indexed_text),
                payload(
                    each.chunk,
                    document_id=each.name,
                    version="1",
                    tenant=_TENANT,
                    name=each.name,
                    title=each.title,
                    attributes={},
                ),
            )
            for each, vector in zip(part, vectors, strict=True)
        ]
        await store.upsert(name, points)


class Searcher:
    """The service's own retrieval over one collection of a store."""

    def __init__(
        self, store: VectorStore, name: str, embedder: LocalEmbedder, reranker: LocalReranker, metrics: RagMetrics
    ) -> None:
        tools = Tools(store, embedder, Bm25(), reranker, NoGenerator())  # type: ignore[arg-type]
        self._retriever = Retriever(tools, Presets(PRESETS), preset="hybrid", metrics=metrics)
        self._collection = Collection(name, name, _TENANT, "all-minilm-l6-v2", 384)

    async def search(self, question: str, preset: str, limit: int | None = None) -> Retrieval:
        """Return what a preset finds."""
        return await self._retriever.retrieve(question, self._collection, Caller(), preset=preset, limit=limit)

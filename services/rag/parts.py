"""The real neighbours: embeddings and gateway over HTTP, the vector store, processes that read files."""

from services.rag.embedder import HttpEmbedder
from services.rag.generator import HttpGenerator
from services.rag.late_store import LateStore
from services.rag.reading import Readers
from services.rag.reranker import HttpReranker
from services.rag.service import Parts
from services.rag.settings import RagSettings
from services.rag.vectors.bm25 import Bm25
from services.rag.vectors.opening import open_store


def real_parts(settings: RagSettings) -> Parts:
    """Return what the settings name; nothing is opened yet."""
    store = LateStore(lambda: open_store(settings))
    embedder = HttpEmbedder(settings.embeddings_url, settings.embeddings_key, settings.embedding_model)
    reranker = HttpReranker(settings.embeddings_url, settings.embeddings_key, settings.rerank_model)
    generator = HttpGenerator(settings.gateway_url, settings.gateway_key, settings.model)
    readers = Readers.of(settings)
    return Parts(
        store=store,
        embedder=embedder,
        reranker=reranker,
        generator=generator,
        encoder=Bm25(),
        readers=readers,
        opening=(embedder.open, store.open),
        closing=(readers.close, generator.close, reranker.close, embedder.close, store.close),
        embeddings=embedder.answers,
    )

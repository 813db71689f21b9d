"""Which vector store the service stands on."""

from services.rag.settings import RagSettings
from services.rag.vectors import VectorStore


def open_store(settings: RagSettings) -> VectorStore:
    """Return the store that the settings name; nothing is started or connected before it is asked.

    It imports libraries and reads certificates, which takes up to a second: call it before the event loop runs, or in
    a thread.

    Raises:
        VectorStoreError: another process has the folder (`local` alone; the others say so when they are asked).
    """
    # Imported here: each brings a library that the others don't need.
    if settings.vector_store == "edge":
        from services.rag.vectors.edge import EdgeVectorStore

        return EdgeVectorStore(settings.folder / "vectors")
    from services.rag.vectors.qdrant import QdrantVectorStore

    if settings.vector_store == "qdrant":
        return QdrantVectorStore.at_url(settings.qdrant_url, settings.qdrant_key)
    return QdrantVectorStore.at_path(settings.folder / "vectors-local")

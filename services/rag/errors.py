"""The errors that only the RAG service has; they stand in the tree of services/kit/errors.py."""

from services.kit.errors import InvalidRequest, NotFound, Overloaded


class CollectionNotFound(NotFound):
    """There is no collection of this name. `GET /v1/collections` lists them; `sparkstack rag ingest` makes one."""

    code = "collection_not_found"


class FileRefused(InvalidRequest):
    """The file can't be read into the collection; the message says why. The others of the same job go on."""

    code = "file_refused"


class EmbeddingsUnavailable(Overloaded):
    """The embeddings service doesn't answer. Try again; `sparkstack status` shows it."""

    code = "embeddings_unavailable"


class VectorStoreUnavailable(Overloaded):
    """The vector store doesn't answer. Try again; `sparkstack status` shows it. Other models are not affected."""

    code = "vector_store_unavailable"

"""The errors that only the RAG service has; they stand in the tree of services/kit/errors.py."""

from typing import Any

from services.kit.errors import EngineError, InvalidRequest, NotFound, Overloaded


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


class PresetNotFound(InvalidRequest):
    """There is no preset of this name; the message lists those that there are."""

    code = "preset_not_found"


class ModelRefused(EngineError):
    """The model that answers failed or refused. Status, type and code are the gateway's, where it gave them."""

    code = "model_refused"

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        kind: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message, retry_after_s=retry_after_s)
        given: dict[str, Any] = {"status": status, "type": kind, "code": code}
        self.__dict__.update({name: value for name, value in given.items() if value is not None})

"""The errors that only the RAG service has; they stand in the tree of services/kit/errors.py."""

from typing import Any

from services.kit.errors import EngineError, InvalidRequest, NotFound, Overloaded


class CollectionNotFound(NotFound):
    """There is no collection of this name. `GET /v1/collections` lists them; `sparkstack rag ingest` makes one."""

    code = "collection_not_found"


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

    def told(self, status: int, kind: str | None = None, code: str | None = None) -> "ModelRefused":
        """Return this error as the gateway told it."""
        given: dict[str, Any] = {"status": status, "type": kind, "code": code}
        vars(self).update({name: value for name, value in given.items() if value})  # before the class's own
        return self

"""The RAG service as an app: collections, OpenAI's files and vector stores, and the models `rag/<name>`."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import NoReturn

from fastapi import FastAPI, Request

from services.kit.app import create_app as create_kit_app
from services.kit.metrics import new_registry
from services.rag.answering.routes import router as answering_router
from services.rag.collection_routes import router as collection_router
from services.rag.document_routes import router as document_router
from services.rag.errors import VectorStoreUnavailable
from services.rag.files_routes import router as files_router
from services.rag.metrics import RagMetrics
from services.rag.parts import real_parts
from services.rag.service import Parts, Service
from services.rag.settings import RagSettings
from services.rag.vector_store_file_routes import router as vector_store_file_router
from services.rag.vector_store_routes import router as vector_store_router
from services.rag.vectors import VectorStoreError

_QUIET = frozenset({"/v1/models", "/v1/collections/{name}/jobs/{job_id}"})


def create_app(settings: RagSettings, parts: Callable[[RagSettings], Parts] = real_parts) -> FastAPI:
    """Return the service.

    Args:
        parts: makes what it needs of others; called when the app starts.
    """
    registry = new_registry()
    metrics = RagMetrics(registry)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service = Service(settings, parts(settings), metrics, app.state.tracer)
        app.state.service = service
        app.state.answering = service.answering
        await service.open()
        try:
            yield
        finally:
            await service.close()

    async def readiness() -> Mapping[str, str]:
        service: Service = app.state.service
        return await service.readiness()

    app = create_kit_app(
        service="rag",
        title="sparkstack RAG",
        registry=registry,
        lifespan=lifespan,
        readiness=readiness,
        quiet_routes=_QUIET,
    )
    app.state.settings = settings
    app.add_exception_handler(VectorStoreError, _store_is_down)
    for router in (
        answering_router,
        collection_router,
        document_router,
        files_router,
        vector_store_router,
        vector_store_file_router,
    ):
        app.include_router(router)
    return app


async def _store_is_down(_request: Request, error: Exception) -> NoReturn:
    # Raised, not answered: kit's middleware makes the envelope of it, counts it and writes the log line.
    raise VectorStoreUnavailable(str(error), retry_after_s=2) from None

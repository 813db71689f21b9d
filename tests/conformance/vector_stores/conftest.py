"""Every store that there is, filled once; and a fresh collection for tests that write."""

import os
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from services.rag.vectors import CollectionSpec, VectorStore
from services.rag.vectors.edge import EdgeVectorStore
from services.rag.vectors.qdrant import QdrantVectorStore
from tests.conformance.vector_stores.data import DIMENSIONS, points

SERVER = "RAG_TEST_QDRANT_URL"
SPEC = CollectionSpec(
    DIMENSIONS,
    filterable={
        "attributes.year": "integer",
        "attributes.score": "float",
        "attributes.draft": "bool",
        "attributes.team": "keyword",
    },
)


STORES = [
    "edge",
    pytest.param("local", marks=pytest.mark.may_block("the pure-Python store reads and writes its files itself")),
    *(["server"] if SERVER in os.environ else []),
]


@dataclass(frozen=True)
class Filled:
    """A store, and its collection of all points."""

    name: str
    store: VectorStore
    collection: str


def opened(kind: str, folder: Path) -> VectorStore:
    """Return a store of a kind; the same folder, if it is named so, gives the same content `again`."""
    if kind == "edge":
        return EdgeVectorStore(folder)
    if kind == "local":
        return QdrantVectorStore.at_path(folder) if folder.name == "again" else QdrantVectorStore.in_memory()
    return QdrantVectorStore.at_url(os.environ[SERVER], os.environ.get(f"{SERVER}_KEY", ""))


@pytest_asyncio.fixture(scope="session", loop_scope="session", params=STORES)
async def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Filled]:
    """Give a store with all points."""
    store = opened(request.param, tmp_path_factory.mktemp(request.param) / "vectors")
    collection = f"suite_{uuid.uuid4().hex}"
    await store.create(collection, SPEC)
    await store.upsert(collection, points())
    yield Filled(request.param, store, collection)
    await store.drop(collection)
    await store.close()


@pytest_asyncio.fixture(loop_scope="session")
async def empty(filled: Filled) -> AsyncIterator[Filled]:
    """Give the same store with a collection of its own, empty."""
    collection = f"empty_{uuid.uuid4().hex}"
    await filled.store.create(collection, SPEC)
    yield Filled(filled.name, filled.store, collection)
    await filled.store.drop(collection)

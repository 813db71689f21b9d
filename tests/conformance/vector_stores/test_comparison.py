"""The databases to compare with: what they do is right, what they lack they say. Each where it is installed."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from services.rag.vectors import VectorQuery, VectorStore, VectorStoreError
from services.rag.vectors.comparison.matching import takes
from services.rag.vectors.filters import Compare, Either, OneOf, eq, every
from tests.conformance.vector_stores import reference
from tests.conformance.vector_stores.conftest import SPEC
from tests.conformance.vector_stores.data import BM25, points
from tests.conformance.vector_stores.test_filters import CASES

pytestmark = pytest.mark.may_block("their libraries are imported, and make their folders, where they are opened")
_FILTERS = {
    "tenant": eq("tenant", "tenant-1"),
    "in": OneOf("tenant", ("tenant-1", "tenant-3")),
    "nested": every(
        Either((eq("tenant", "tenant-0"), Compare("attributes.year", "gte", 2020))), Compare("index", "lt", 90)
    ),
}


@pytest.fixture(params=["chromadb", "faiss", "pymilvus"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[VectorStore]:
    pytest.importorskip(request.param, reason=f"optional: {request.param} is in an environment of its own")
    from services.rag.vectors.comparison import chroma, faiss, milvus

    makers = {"chromadb": chroma.open_chroma, "faiss": faiss.open_faiss, "pymilvus": milvus.open_milvus}
    found = makers[request.param](tmp_path)
    await found.create("suite", SPEC)
    await found.upsert("suite", points()[:300])
    yield found
    await found.close()


@pytest.mark.parametrize("where", [None, *_FILTERS])
async def test_the_nearest_are_found(store: VectorStore, where: str | None) -> None:
    query = VectorQuery(points()[400].dense, filter=None if where is None else _FILTERS[where])
    hits = await store.search("suite", query)
    wanted = reference.answer(points()[:300], query)
    assert [hit.score for hit in hits] == pytest.approx([score for _name, score in wanted], abs=1e-4)
    assert len({hit.id for hit in hits} & {name for name, _score in wanted}) >= 9


@pytest.mark.parametrize("where", _FILTERS)
async def test_points_are_counted_written_again_and_removed(store: VectorStore, where: str) -> None:
    taken = sum(reference.takes(_FILTERS[where], each.payload) for each in points()[:300])
    await store.upsert("suite", points()[:50])
    assert await store.count("suite") == 300
    assert await store.count("suite", _FILTERS[where]) == taken
    await store.delete("suite", _FILTERS[where])
    assert await store.count("suite") == 300 - taken
    assert await store.fetch("suite", _FILTERS[where]) == []
    await store.drop("suite")
    assert await store.collections() == []


async def test_what_a_database_lacks_it_says(store: VectorStore) -> None:
    for query in (VectorQuery(sparse=BM25.query("term1")), VectorQuery(points()[0].dense, BM25.query("term1"))):
        with pytest.raises(VectorStoreError, match=r"has no search by .* here"):
            await store.search("suite", query)


@pytest.mark.parametrize("case", CASES)
def test_filters_looked_at_by_hand_mean_the_same(case: str) -> None:
    for each in points():
        assert takes(CASES[case], each.payload) == reference.takes(CASES[case], each.payload)

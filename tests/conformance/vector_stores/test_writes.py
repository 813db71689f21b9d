"""Collections come and go; points are written, written again and removed; many at once; again after closing."""

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest

from services.rag.vectors import VectorQuery, VectorStoreError
from services.rag.vectors.filters import Compare, eq, every
from tests.conformance.vector_stores.conftest import SERVER, SPEC, Filled, opened
from tests.conformance.vector_stores.data import BM25, points
from tests.conformance.vector_stores.reference import answer

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]


async def test_a_point_written_twice_is_there_once_with_what_came_last(empty: Filled) -> None:
    first = points()[0]
    second = replace(points()[1], id=first.id, payload={"tenant": "other", "attributes": {}})
    await empty.store.upsert(empty.collection, [first])
    await empty.store.upsert(empty.collection, [second])
    (hit,) = await empty.store.search(empty.collection, VectorQuery(second.dense))
    assert hit.id == first.id
    assert hit.score == pytest.approx(1, abs=1e-5)
    assert hit.payload == second.payload
    assert await empty.store.count(empty.collection) == 1


@pytest.mark.slow
async def test_what_a_filter_takes_is_removed_and_once_optimized_no_longer_counts_for_idf(empty: Filled) -> None:
    await empty.store.upsert(empty.collection, points()[:200])
    stale = every(eq("document_id", "document-3"), Compare("version", "ne", "v1"))
    assert stale is not None
    await empty.store.delete(empty.collection, stale)
    await empty.store.delete(empty.collection, eq("document_id", "document-5"))
    kept = [
        each
        for each in points()[:200]
        if each.payload["document_id"] != "document-5"
        and (each.payload["document_id"] != "document-3" or each.payload["version"] == "v1")
    ]
    assert await empty.store.count(empty.collection) == len(kept) < 190
    query = VectorQuery(sparse=BM25.query("term1 term2 term3"), limit=50)
    wanted = answer(kept, query)
    found = await empty.store.search(empty.collection, query)
    assert {hit.id for hit in found} == {name for name, _score in wanted}
    await empty.store.optimize(empty.collection)
    if empty.name != "server":  # which does so when it finds the time
        found = await empty.store.search(empty.collection, query)
        assert [hit.score for hit in found] == pytest.approx([score for _name, score in wanted], abs=2e-5)


async def test_nothing_written_or_removed_is_no_error(empty: Filled) -> None:
    await empty.store.upsert(empty.collection, [])
    await empty.store.delete(empty.collection, eq("tenant", "nobody"))
    assert await empty.store.count(empty.collection) == 0
    assert await empty.store.search(empty.collection, VectorQuery(points()[0].dense)) == []


async def test_a_vector_of_another_model_is_not_written(empty: Filled) -> None:
    with pytest.raises(VectorStoreError, match="another embedding model"):
        await empty.store.upsert(empty.collection, [points()[0], replace(points()[1], dense=points()[1].dense[:-1])])
    assert await empty.store.count(empty.collection) == 0


async def test_a_collection_made_twice_stays_as_it_is_and_another_layout_is_refused(empty: Filled) -> None:
    await empty.store.upsert(empty.collection, points()[:3])
    await empty.store.create(empty.collection, SPEC)
    assert await empty.store.count(empty.collection) == 3
    for other in (replace(SPEC, dimensions=7), replace(SPEC, quantization="binary"), replace(SPEC, filterable={})):
        with pytest.raises(VectorStoreError, match="drop it"):
            await empty.store.create(empty.collection, other)
    assert await empty.store.count(empty.collection) == 3


async def test_a_dropped_collection_is_gone_and_can_be_made_again_otherwise(filled: Filled) -> None:
    name = f"{filled.collection}_dropped"
    await filled.store.create(name, SPEC)
    await filled.store.upsert(name, points()[:3])
    assert name in await filled.store.collections()
    await filled.store.drop(name)
    await filled.store.drop(name)
    assert name not in await filled.store.collections()
    with pytest.raises(VectorStoreError, match="no collection"):
        await filled.store.upsert(name, points()[:1])
    await filled.store.create(name, replace(SPEC, dimensions=3))
    assert await filled.store.count(name) == 0
    await filled.store.drop(name)


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "x" * 129, "new\nline"])
async def test_a_name_that_could_leave_the_folder_is_refused(filled: Filled, name: str) -> None:
    with pytest.raises(VectorStoreError, match="can't be a collection"):
        await filled.store.create(name, SPEC)
    with pytest.raises(VectorStoreError, match="can't be a collection"):
        await filled.store.drop(name)


async def test_writers_and_readers_at_once_lose_nothing(empty: Filled) -> None:
    parts = [points()[start : start + 20] for start in range(0, 300, 20)]
    written = 0

    async def write(part: int) -> None:
        nonlocal written
        await empty.store.upsert(empty.collection, parts[part])
        written += len(parts[part])

    async def read() -> None:
        before = written
        assert await empty.store.count(empty.collection) >= before
        found = await empty.store.search(empty.collection, VectorQuery(points()[5].dense, BM25.query("term1"), limit=5))
        assert len(found) >= min(before, 5)

    await asyncio.gather(*(write(part) for part in range(len(parts))), *(read() for _ in range(20)))
    assert await empty.store.count(empty.collection) == 300
    await empty.store.optimize(empty.collection)
    assert await empty.store.count(empty.collection) == 300


async def test_everything_is_there_after_closing(filled: Filled, tmp_path: Path) -> None:
    name = f"{filled.collection}_again"
    store = opened(filled.name, tmp_path / "again")
    await store.create(name, SPEC)
    await store.upsert(name, points()[:50])
    await store.delete(name, eq("tenant", "tenant-1"))
    await store.close()
    store = opened(filled.name, tmp_path / "again")
    query = VectorQuery(points()[2].dense, limit=100)
    kept = [each for each in points()[:50] if each.payload["tenant"] != "tenant-1"]
    assert {hit.id for hit in await store.search(name, query)} == {each.id for each in kept}
    assert await store.search(name, VectorQuery(sparse=BM25.query("term1 term2")))
    await store.create(name, SPEC)
    assert await store.count(name) == len(kept)
    await store.drop(name)
    await store.close()


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["scalar", "binary"])
async def test_a_quantized_collection_gives_the_whole_vectors_scores(filled: Filled, quantization: str) -> None:
    name = f"{filled.collection}_{quantization}"
    await filled.store.create(name, replace(SPEC, quantization=quantization))
    await filled.store.upsert(name, points()[:300])
    await filled.store.optimize(name)
    query = VectorQuery(points()[3].dense, limit=5)
    found = await filled.store.search(name, query)
    wanted = dict(answer(points()[:300], replace(query, limit=300)))
    assert [hit.score for hit in found] == pytest.approx([wanted[hit.id] for hit in found], abs=2e-5)
    assert found[0].id == points()[3].id
    await filled.store.drop(name)


async def test_a_server_is_among_the_stores() -> None:
    if SERVER not in os.environ:
        pytest.skip(f"optional: NO QDRANT SERVER IS CHECKED. Set {SERVER} (and {SERVER}_KEY) to check one")
    assert await opened("server", Path()).ready() == "ok"


async def test_ready_says_ok(filled: Filled) -> None:
    assert await filled.store.ready() == "ok"

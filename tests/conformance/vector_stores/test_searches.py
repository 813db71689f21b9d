"""Searches: by the vector, by the terms, by both."""

from dataclasses import replace

import numpy as np
import pytest

from services.rag.vectors import VectorQuery, VectorStoreError
from services.rag.vectors.filters import Compare, eq, every
from tests.conformance.vector_stores.conftest import Filled
from tests.conformance.vector_stores.data import BM25, DIMENSIONS, QUESTIONS, points, vector
from tests.conformance.vector_stores.reference import answer, fused

_ROUNDING = 5e-6
pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="session")]
FILTERS = {
    "all": None,
    "tenant": eq("tenant", "tenant-1"),
    "attributes": every(eq("tenant", "tenant-2"), Compare("attributes.year", "gte", 2010)),
    "nobody": eq("tenant", "nobody"),
}


async def compared(filled: Filled, query: VectorQuery) -> int:
    """Hold a store to the reference; return how many hits there were."""
    found = await filled.store.search(filled.collection, query)
    scores = dict(answer(points(), replace(query, limit=len(points()))))
    wanted = sorted(scores.values(), reverse=True)[: query.limit]
    assert [hit.score for hit in found] == pytest.approx(wanted, abs=_ROUNDING)
    # Which of several with the same score are the last ones is the engines' own.
    assert [hit.score for hit in found] == pytest.approx([scores[hit.id] for hit in found], abs=_ROUNDING)
    assert len({hit.id for hit in found}) == len(found)
    return len(found)


@pytest.mark.parametrize("where", FILTERS)
@pytest.mark.parametrize("question", QUESTIONS)
async def test_dense_scores_are_cosines(filled: Filled, question: str, where: str) -> None:
    query = VectorQuery(dense=vector(question), filter=FILTERS[where])
    assert await compared(filled, query) == (0 if where == "nobody" else 10)


@pytest.mark.parametrize("where", FILTERS)
@pytest.mark.parametrize("question", QUESTIONS)
async def test_sparse_scores_are_bm25_with_the_idf_of_all_points(filled: Filled, question: str, where: str) -> None:
    query = VectorQuery(sparse=BM25.query(question), filter=FILTERS[where], limit=25)
    assert bool(await compared(filled, query)) or where != "all"


@pytest.mark.parametrize("where", FILTERS)
@pytest.mark.parametrize("question", QUESTIONS)
async def test_hybrid_scores_are_fused_ranks(filled: Filled, question: str, where: str) -> None:
    query = VectorQuery(vector(question), BM25.query(question), FILTERS[where], limit=20, candidates=30)
    found = await filled.store.search(filled.collection, query)
    bounds = fused(points(), query)
    assert len(found) == min(20, len(bounds))
    for hit in found:
        least, most = bounds[hit.id]
        assert least - _ROUNDING <= hit.score <= most + _ROUNDING
    assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)
    missed = [least for name, (least, _most) in bounds.items() if name not in {hit.id for hit in found}]
    assert not missed or max(missed) <= found[-1].score + _ROUNDING


async def test_candidates_below_the_limit_are_as_many_as_the_limit(filled: Filled) -> None:
    query = VectorQuery(vector(QUESTIONS[2]), BM25.query(QUESTIONS[2]), limit=30, candidates=5)
    assert len(await filled.store.search(filled.collection, query)) == 30


async def test_exact_and_ordinary_agree_below_the_size_of_a_graph(filled: Filled) -> None:
    dense = vector(QUESTIONS[3])
    ordinary = await filled.store.search(filled.collection, VectorQuery(dense))
    exact = await filled.store.search(filled.collection, VectorQuery(dense, exact=True))
    assert [hit.id for hit in ordinary] == [hit.id for hit in exact]


async def test_a_question_of_stop_words_is_looked_for_by_its_vector_alone(filled: Filled) -> None:
    nothing = BM25.query("the of and")
    both = await filled.store.search(filled.collection, VectorQuery(vector("term3"), nothing))
    dense = await filled.store.search(filled.collection, VectorQuery(vector("term3")))
    assert [(hit.id, hit.score) for hit in both] == [(hit.id, hit.score) for hit in dense]
    assert await filled.store.search(filled.collection, VectorQuery(sparse=nothing)) == []


async def test_hits_carry_payload_and_if_asked_vector(filled: Filled) -> None:
    wanted = {each.id: each for each in points()}
    query = VectorQuery(vector(QUESTIONS[0]), BM25.query(QUESTIONS[0]), with_vectors=True, limit=7)
    found = await filled.store.search(filled.collection, query)
    assert len(found) == 7
    for hit in found:
        assert hit.payload == wanted[hit.id].payload
        assert hit.vector is not None
        assert hit.vector.dtype == np.float32
        assert hit.vector == pytest.approx(wanted[hit.id].dense, abs=1e-6)
    bare = await filled.store.search(filled.collection, VectorQuery(vector(QUESTIONS[0])))
    assert all(hit.vector is None for hit in bare)


async def test_equal_vectors_come_by_id(empty: Filled) -> None:
    twins = [replace(each, dense=points()[0].dense) for each in points()[:9]]
    await empty.store.upsert(empty.collection, twins)
    found = await empty.store.search(empty.collection, VectorQuery(points()[0].dense, limit=20))
    assert [hit.id for hit in found] == sorted(each.id for each in twins)


async def test_a_vector_of_another_model_is_refused(filled: Filled) -> None:
    other = np.ones(DIMENSIONS + 1, np.float32)
    with pytest.raises(VectorStoreError, match=f"of {DIMENSIONS} dimensions"):
        await filled.store.search(filled.collection, VectorQuery(other))


async def test_a_collection_that_is_not_there_is_named(filled: Filled) -> None:
    with pytest.raises(VectorStoreError, match="no collection 'nowhere'"):
        await filled.store.search("nowhere", VectorQuery(vector("x")))
    with pytest.raises(VectorStoreError, match="no collection 'nowhere'"):
        await filled.store.count("nowhere")

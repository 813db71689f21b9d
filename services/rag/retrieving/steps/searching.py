"""`dense`, `sparse` and `hybrid`: one search a query, all at once; more than one ranking is fused by ranks."""

import asyncio
from typing import Literal

from pydantic import Field

from services.rag.retrieving.fusion import reciprocal_ranks
from services.rag.retrieving.state import Query, State, Tools, search
from services.rag.retrieving.steps.step import Step
from services.rag.vectors import Hit, VectorQuery


class _Search(Step):
    limit: int = Field(20, ge=1, le=1000, description="passages that go on to the next step")
    exact: bool = Field(False, description="compare with every chunk instead of by the graph")

    async def _search(self, state: State, tools: Tools, queries: list[VectorQuery]) -> str:
        found = await asyncio.gather(*(search(tools, state.collection.id, query) for query in queries))
        for hits in found:
            state.hits.update({hit.id: hit for hit in hits})
        if len(found) == 1:
            state.keep([(hit.id, hit.score) for hit in found[0]])
            return f"{len(found[0])} found"
        weighted = [(query.weight, [hit.id for hit in hits]) for query, hits in zip(state.queries, found, strict=True)]
        state.keep(list(reciprocal_ranks(weighted).items())[: state.wanted(self.limit)])
        return f"{_distinct(found)} found by {len(found)} queries, {len(state.passages)} kept"


class Dense(_Search):
    """By meaning: cosine of vectors. Comes after `embed`."""

    step: Literal["dense"] = "dense"

    async def run(self, state: State, tools: Tools) -> str:
        """Search by each query's vector."""
        limit = state.wanted(self.limit)
        queries = [
            VectorQuery(dense=query.vector, filter=state.filter, limit=limit, with_vectors=True, exact=self.exact)
            for query in state.queries
        ]
        return await self._search(state, tools, queries)


class Sparse(_Search):
    """By words: BM25."""

    step: Literal["sparse"] = "sparse"

    async def run(self, state: State, tools: Tools) -> str:
        """Search by each query's terms; vectors come along where the question has one, to tell how near they are."""
        limit, with_vectors = state.wanted(self.limit), state.question_vector is not None
        queries = [
            VectorQuery(
                sparse=tools.terms.query(_words(query)), filter=state.filter, limit=limit, with_vectors=with_vectors
            )
            for query in state.queries
        ]
        return await self._search(state, tools, queries)


class Hybrid(_Search):
    """By both, fused by reciprocal ranks in the store. Comes after `embed`."""

    step: Literal["hybrid"] = "hybrid"
    candidates: int = Field(50, ge=1, le=2000, description="hits that each side gives to the fusion")

    async def run(self, state: State, tools: Tools) -> str:
        """Search by each query's vector and terms."""
        limit = state.wanted(self.limit)
        queries = [
            VectorQuery(
                dense=query.vector,
                sparse=tools.terms.query(_words(query)),
                filter=state.filter,
                limit=limit,
                candidates=max(self.candidates, limit),
                with_vectors=True,
                exact=self.exact,
            )
            for query in state.queries
        ]
        return await self._search(state, tools, queries)


def _words(query: Query) -> str:
    return f"{query.text} {query.more_terms}" if query.more_terms else query.text


def _distinct(found: list[list[Hit]]) -> int:
    return len({hit.id for hits in found for hit in hits})

"""`dense`, `sparse` and `hybrid`: one search a query, all at once; more than one ranking is fused by ranks."""

import asyncio
from typing import Literal

from pydantic import Field

from services.rag.retrieving.fusion import reciprocal_ranks
from services.rag.retrieving.state import Query, State, Tools, search
from services.rag.retrieving.steps.step import Step
from services.rag.vectors import Hit, VectorQuery

_MOST_KEYWORDS = 10
_ASKING_WORDS = """
how what which who where when why can could do does is are should would i my me we our us you your"""
_ASKING = frozenset(_ASKING_WORDS.split())


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
    """By both, fused by reciprocal ranks. Comes after `embed`.

    The words' ranks count for less than the meaning's where the question is a sentence, and for more where it is a
    few words alone: names of settings, a command, an error message. Fused here and not in the store, whose weights
    (rank / weight + constant) hardly tell two rankings apart. The defaults are those that did best on the `dev` half
    of corpora/postgresql; docs/rag.md has what they do on the other half.
    """

    step: Literal["hybrid"] = "hybrid"
    candidates: int = Field(60, ge=1, le=2000, description="hits that each side gives to the fusion")
    terms_weight: float = Field(0.3, ge=0, description="of the words' ranks against 1 of the meaning's")
    keywords_weight: float = Field(2.0, ge=0, description="the same, for a question that is a few words alone")
    constant: float = Field(10, gt=0, description="of the fusion: the lower, the more the first ranks decide")

    async def run(self, state: State, tools: Tools) -> str:
        """Search by each query's vector and by its terms."""
        limit = state.wanted(self.limit)
        size = max(self.candidates, limit)
        sides = [
            VectorQuery(filter=state.filter, limit=size, with_vectors=True, exact=self.exact, **side)
            for query in state.queries
            for side in ({"dense": query.vector}, {"sparse": tools.terms.query(_words(query))})
        ]
        found = await asyncio.gather(*(search(tools, state.collection.id, side) for side in sides))
        terms_weight = self.keywords_weight if is_keywords(state.question) else self.terms_weight
        weights = [query.weight * side for query in state.queries for side in (1.0, terms_weight)]
        for hits in found:
            state.hits.update({hit.id: hit for hit in hits})
        ranked = [(weight, [hit.id for hit in hits]) for weight, hits in zip(weights, found, strict=True)]
        state.keep(list(reciprocal_ranks(ranked, self.constant).items())[:limit])
        by = f" by {len(state.queries)} queries" if len(state.queries) > 1 else ""
        return f"words count {terms_weight:g}; {_distinct(found)} found{by}, {len(state.passages)} kept"


def is_keywords(question: str) -> bool:
    """Say whether a question is a few words to look for, not a sentence."""
    asked = question.strip().lower().split()
    return len(asked) <= _MOST_KEYWORDS and not question.rstrip().endswith("?") and not _ASKING & set(asked)


def _words(query: Query) -> str:
    return f"{query.text} {query.more_terms}" if query.more_terms else query.text


def _distinct(found: list[list[Hit]]) -> int:
    return len({hit.id for hits in found for hit in hits})

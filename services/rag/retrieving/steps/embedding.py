"""`embed`: questions to vectors, in one request for all of them."""

from dataclasses import replace
from typing import Literal

import numpy as np

from services.rag.retrieving.state import Query, State, Tools
from services.rag.retrieving.steps.step import Step
from services.rag.vectors import Vector


class Embed(Step):
    """Make the vectors that dense search, MMR and the decision need. Comes after the steps that add queries."""

    step: Literal["embed"] = "embed"

    async def run(self, state: State, tools: Tools) -> str:
        """Embed every query that has no vector; a hypothetical passage is averaged in."""
        open_queries = [query for query in state.queries if query.vector is None]
        texts = [text for query in open_queries for text in (query.text, *query.hypothetical)]
        if not texts:
            return "nothing new"
        vectors = await tools.embedder.embed(texts, state.caller)
        place = 0
        for at, query in enumerate(state.queries):
            if query.vector is None:
                own = vectors[place : place + 1 + len(query.hypothetical)]
                place += len(own)
                state.queries[at] = _with_vector(query, own)
                if at == 0:
                    state.question_vector = own[0]
        return f"{len(texts)} text{'s' if len(texts) > 1 else ''}"


def _with_vector(query: Query, own: Vector) -> Query:
    mean = own.mean(axis=0)
    return replace(query, vector=mean / max(float(np.linalg.norm(mean)), 1e-12))

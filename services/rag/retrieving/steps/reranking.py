"""`rerank`: a model that reads question and passage together orders the best candidates anew."""

from typing import Literal

from pydantic import Field

from services.kit.errors import AppError
from services.rag.retrieving.fusion import reciprocal_ranks
from services.rag.retrieving.state import State, Tools
from services.rag.retrieving.steps.step import Step


class Rerank(Step):
    """Score the first candidates by the reranking model; the others are left out.

    Its cost grows with the candidates: each is read whole by the model. Where the reranking model does not answer,
    the order stays as it is, and the trace says so.
    """

    step: Literal["rerank"] = "rerank"
    candidates: int = Field(10, ge=1, le=1000, description="passages that are scored")
    weight: float = Field(
        1.0, gt=0, le=1, description="1: the model alone decides; below: its ranks are fused with those before it"
    )

    async def run(self, state: State, tools: Tools) -> str:
        """Order the passages by the model's scores."""
        looked_at = state.passages[: state.wanted(self.candidates)]
        if not looked_at:
            return "nothing to order"
        texts = [f"{each.context}\n{each.text}" if each.context else each.text for each in looked_at]
        try:
            scores = await tools.reranker.scores(state.question, texts, state.caller)
        except AppError as error:
            return f"the order before it: the reranking model failed: {error.code}"
        before = [each.id for each in looked_at]
        by_id = dict(zip(before, scores, strict=True))
        if self.weight < 1:
            after = sorted(before, key=lambda each: -by_id[each])
            by_id = reciprocal_ranks([(1 - self.weight, before), (self.weight, after)])
        state.rescore(by_id)
        moved = sum(was != now.id for was, now in zip(before, state.passages, strict=False))
        return f"{len(looked_at)} scored, {moved} moved"

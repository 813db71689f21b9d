"""The steps that a preset may list, one class each: its fields are the options, `run` is what it does."""

from services.rag.retrieving.steps.embedding import Embed
from services.rag.retrieving.steps.neighbours import Neighbours
from services.rag.retrieving.steps.reranking import Rerank
from services.rag.retrieving.steps.searching import Dense, Hybrid, Sparse
from services.rag.retrieving.steps.selecting import Dedupe, Mmr, Threshold, Top
from services.rag.retrieving.steps.step import Step
from services.rag.retrieving.steps.widening import Decompose, Expand, Hyde

_CLASSES: tuple[type[Step], ...] = (
    Embed,
    Dense,
    Sparse,
    Hybrid,
    Expand,
    Hyde,
    Decompose,
    Rerank,
    Mmr,
    Neighbours,
    Dedupe,
    Threshold,
    Top,
)
STEPS: dict[str, type[Step]] = {str(each.model_fields["step"].default): each for each in _CLASSES}
SEARCHES = frozenset({"dense", "sparse", "hybrid"})
GENERATING = frozenset({"hyde", "decompose"})

__all__ = ["GENERATING", "SEARCHES", "STEPS", "Step"]

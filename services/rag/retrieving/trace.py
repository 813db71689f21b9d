"""What a retrieval found, and what each of its steps did and took."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from services.rag.documents import Passage


@dataclass(frozen=True)
class StepTrace:
    """One step: its name in the preset, its milliseconds, and what it did in a few words."""

    name: str
    ms: float
    detail: str

    def document(self) -> dict[str, Any]:
        """Return the step as answers carry it."""
        return {"name": self.name, "ms": round(self.ms, 2), "detail": self.detail}


@dataclass(frozen=True)
class Retrieval:
    """The passages of a question, best first.

    Args:
        best_similarity: the highest cosine of the question and any passage that was looked at; None without vectors.
        question: as it was looked for: a follow-up is made whole by the conversation before it.
        pages: for passages that were made of several chunks: where each chunk begins in the text, and its page.
    """

    passages: list[Passage]
    steps: list[StepTrace]
    best_similarity: float | None
    question: str
    preset: str = ""
    pages: Mapping[str, tuple[tuple[int, int | None], ...]] = field(default_factory=dict)

    @property
    def ms(self) -> float:
        """What all steps took."""
        return sum(step.ms for step in self.steps)

    def page_at(self, passage: Passage, offset: int) -> int | None:
        """Return the page of a place in a passage's text."""
        page = passage.page
        for start, of_chunk in self.pages.get(passage.id, ()):
            if start <= offset:
                page = of_chunk
        return page

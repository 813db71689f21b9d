"""`expand`, `hyde` and `decompose`: more to look for than the question's own words. They come before `embed`.

What a model writes here is only looked for, never answered from; where it fails or writes nonsense the plain
question goes on alone, and the trace says so.
Source: HyDE: Gao et al., Precise Zero-Shot Dense Retrieval without Relevance Labels (2022); feedback: Rocchio (1971),
Lavrenko and Croft, Relevance-Based Language Models (2001).
"""

import re
from collections import Counter
from dataclasses import replace
from typing import Literal

from pydantic import Field

from services.rag.retrieving.state import Query, State, Tools, ask_model, search
from services.rag.retrieving.steps.step import Step
from services.rag.retrieving.words import STOP_WORDS, content_words, words
from services.rag.vectors import VectorQuery

_LINE_MARK = re.compile(r"^\s*(?:[-*•]|\(?\d+[.):]|Q\d*:|question\s*\d*:)\s*", re.IGNORECASE)
_MAX_WORDS = 60
_LINE_TOKENS = 48


class Expand(Step):
    """Other words for the same question: from the best passages of a first search by words, or from a model.

    `feedback` costs one more search by words; `model` one generation.
    """

    step: Literal["expand"] = "expand"
    by: Literal["feedback", "model"] = Field("feedback", description="where the words come from")
    paraphrases: int = Field(3, ge=1, le=8, description="by model: other questions to look for as well")
    weight: float = Field(0.5, gt=0, le=1, description="by model: of each against the question's 1")
    documents: int = Field(5, ge=1, le=50, description="by feedback: passages that words are taken from")
    terms: int = Field(6, ge=1, le=50, description="by feedback: words that are added")

    async def run(self, state: State, tools: Tools) -> str:
        """Add queries, or words to the question's."""
        if self.by == "feedback":
            return await self._feed_back(state, tools)
        prompt = (
            f"Write {self.paraphrases} other ways to ask this question, one on each line. Keep its meaning and its "
            f"names. Write nothing else.\n\nQuestion: {state.question}"
        )
        text, note = await ask_model(tools, state, prompt, _LINE_TOKENS * self.paraphrases)
        found = [each for each in _lines(text) if _is_about(each, state.question)][: self.paraphrases]
        state.queries.extend(Query(each, self.weight) for each in found)
        return f"{len(found)} paraphrases" if found else _alone(note or "no line of the model's is of use")

    async def _feed_back(self, state: State, tools: Tools) -> str:
        query = VectorQuery(sparse=tools.terms.query(state.question), filter=state.filter, limit=self.documents)
        hits = await search(tools, state.collection.id, query)
        asked = set(content_words(state.question))
        frequency: Counter[str] = Counter()
        spread: Counter[str] = Counter()
        for hit in hits:
            there = [word for word in words(hit.payload["text"]) if _is_term(word, asked)]
            frequency.update(there)
            spread.update(set(there))
        shared = [word for word in frequency if spread[word] >= 2 or len(hits) == 1]
        best = sorted(shared, key=lambda word: (-spread[word], -frequency[word], word))[: self.terms]
        if not best:
            return _alone(f"the first {len(hits)} passages share no other word")
        state.queries[0] = replace(state.queries[0], more_terms=" ".join(best))
        return f"added {', '.join(best)}"


class Hyde(Step):
    """Look for what an answer would look like: a model writes one, and its vector is averaged with the question's."""

    step: Literal["hyde"] = "hyde"
    tokens: int = Field(96, ge=16, le=512, description="length of what the model writes, at most")

    async def run(self, state: State, tools: Tools) -> str:
        """Give the question a hypothetical passage."""
        prompt = (
            "Write a short passage of a manual that answers this question. Write only the passage.\n\n"
            f"Question: {state.question}"
        )
        text, note = await ask_model(tools, state, prompt, self.tokens)
        passage = " ".join(text.split())
        if len(words(passage)) < 5 or _repeats(passage):
            return _alone(note or "what the model wrote is no passage")
        state.queries[0] = replace(state.queries[0], hypothetical=(passage,))
        return f"a passage of {len(words(passage))} words"


class Decompose(Step):
    """Split a question that asks for several things; each part is looked for by itself, and all are fused by ranks."""

    step: Literal["decompose"] = "decompose"
    parts: int = Field(3, ge=2, le=6, description="sub-questions, at most")
    least_words: int = Field(8, ge=1, le=100, description="a shorter question is left whole")
    weight: float = Field(0.7, gt=0, le=1, description="of each part against the question's 1")

    async def run(self, state: State, tools: Tools) -> str:
        """Add the parts as queries."""
        if len(words(state.question)) < self.least_words:
            return f"left whole: under {self.least_words} words"
        prompt = (
            f"Split this question into at most {self.parts} simpler questions that can each be looked up by "
            "themselves, one on each line. If it is simple, repeat it. Write nothing else.\n\n"
            f"Question: {state.question}"
        )
        text, note = await ask_model(tools, state, prompt, _LINE_TOKENS * self.parts)
        found = [each for each in _lines(text) if _is_about(each, state.question)][: self.parts]
        if len(found) < 2:
            return _alone(note or "the model made no parts of it")
        state.queries.extend(Query(each, self.weight) for each in found)
        return f"{len(found)} parts"


def _alone(reason: str) -> str:
    return f"the question alone: {reason}"


def _lines(text: str) -> list[str]:
    lines = [_LINE_MARK.sub("", line).strip().strip('"') for line in text.splitlines()]
    return list(dict.fromkeys(line for line in lines if 3 <= len(words(line)) <= _MAX_WORDS and not _repeats(line)))


def _is_about(line: str, question: str) -> bool:
    """Say whether a model's line is another question about the same thing: it shares a word, and is not the same."""
    stems, asked = set(content_words(line)), set(content_words(question))
    return bool(stems & asked) and words(line) != words(question)


def _repeats(text: str) -> bool:
    """Say whether a small model went round in circles."""
    there = words(text)
    return len(there) >= 12 and len(set(there)) < len(there) / 3


def _is_term(word: str, asked: set[str]) -> bool:
    stems = content_words(word)
    return len(word) > 2 and word not in STOP_WORDS and word.isalpha() and bool(stems) and stems[0] not in asked

"""Follow-up questions made whole: "and how long is it kept?" means something only after what came before it.

A model of some size rewrites the question; a smaller one is not asked, since it answers instead of rewriting. Then
what the last question was about is carried into the new one where that points back.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from services.rag.retrieving.state import State, Tools, ask_model
from services.rag.retrieving.words import STOP_WORDS, content_words, words

CAPABLE_PARAMETERS = 1_000_000_000
"""A model below this is not asked to rewrite questions."""
_BACK = (
    "it its they them their theirs this these those he him his she her hers then ones former latter both either "
    "neither else instead"
)
_POINTS_BACK = frozenset(_BACK.split())
_MAY_POINT_BACK = frozenset({"that", "one", "there", "same", "such"})
"""Not after a noun: "a model that is pinned" points nowhere."""
_OPENERS = re.compile(
    r"^\s*(?:and|but|or|so|also|then|what about|how about|what else|anything else|why|why not|how so|which one|"
    r"in which case|more|go on|explain|tell me more)\b",
    re.IGNORECASE,
)
_LAST_CHARACTERS = 600
_MOST_CARRIED = 6
_QUESTION_TOKENS = 96
_LABEL = re.compile(r"^(?:(?:standalone|rewritten)?\s*question|rewritten)\s*:\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Turn:
    """An earlier question, and the beginning of its answer."""

    question: str
    answer: str = ""


@dataclass(frozen=True)
class Rewritten:
    """A question that stands alone, and how it was made."""

    question: str
    detail: str


def points_back(question: str) -> bool:
    """Say whether a question needs what came before it: a pronoun, an opener like "and", or nothing of its own."""
    there = words(question)
    own = content_words(question)
    if len(own) < 2 and len(there) <= 6:
        return True
    if _POINTS_BACK & set(there) or any(_points(there, at) for at in range(len(there))):
        return len(own) <= 6
    return _OPENERS.match(question) is not None and len(own) <= 4


def _points(there: Sequence[str], at: int) -> bool:
    if there[at] not in _MAY_POINT_BACK:
        return False
    return at in (0, len(there) - 1) or there[at - 1] in STOP_WORDS


def carry_terms(question: str, history: Sequence[Turn]) -> str:
    """Return the question with the terms of those before it, where it points back; the question where it doesn't."""
    earlier: list[str] = []
    for turn in history:
        earlier = _terms(turn.question) + (earlier if points_back(turn.question) else [])
    own = set(content_words(question))
    carried = [term for term in earlier if not own & set(content_words(term))]
    carried = list(dict.fromkeys(carried))[:_MOST_CARRIED]
    return f"{question} ({' '.join(carried)})" if carried and points_back(question) else question


def _terms(question: str) -> list[str]:
    return [word for word in words(question) if content_words(word) and word not in _POINTS_BACK | _MAY_POINT_BACK]


async def rewrite(state: State, history: Sequence[Turn], tools: Tools, *, capable: bool) -> Rewritten:
    """Return the question as it is looked for.

    Args:
        history: earlier turns, the oldest first.
        capable: whether the model that answers can rewrite questions.
    """
    carried = carry_terms(state.question, history)
    heuristic = Rewritten(carried, "carried terms" if carried != state.question else "stands alone")
    if not capable:
        return heuristic
    talk = "\n".join(f"User: {turn.question}\nAssistant: {turn.answer[:_LAST_CHARACTERS]}" for turn in history)
    prompt = (
        "Rewrite the last question of this conversation so that it can be understood without the conversation. Keep "
        f"its meaning and its language. If it stands alone, repeat it. Write only the question.\n\n{talk}\n"
        f"User: {state.question}"
    )
    text, note = await ask_model(tools, state, prompt, _QUESTION_TOKENS)
    line = _LABEL.sub("", text.strip().splitlines()[0].strip()).strip('"') if text.strip() else ""
    if not _is_sane(line, state.question, history):
        reason = note or "the model's rewriting is of no use"
        return Rewritten(heuristic.question, f"{heuristic.detail}: {reason}")
    return Rewritten(line, "by the model" if line != state.question else "stands alone, by the model")


def _is_sane(line: str, question: str, history: Sequence[Turn]) -> bool:
    """Say whether a rewriting is a question of about this length, of words that the conversation has."""
    stems = set(content_words(line))
    known = set(content_words(" ".join([question, *(f"{turn.question} {turn.answer}" for turn in history)])))
    short = len(words(line)) <= 2 * len(words(question)) + 24
    return bool(stems) and short and len(stems & known) >= len(stems) / 2

"""How much of passages and conversation fits into the model's context beside its answer.

The gateway has no tokenizer for clients, so tokens are estimated, and high: docs/rag-pipeline.md compares the
estimate with a real tokenizer. Where it is still too low, the engine refuses the prompt before it generates, and the
answer is tried once more with half of the room.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from services.kit.errors import ContextLengthExceeded
from services.rag.answering.prompting import rules, show_passage
from services.rag.documents import Passage
from services.rag.retrieving.words import sentence_spans

SMALL_MODEL_PASSAGE_TOKENS = 640
"""A model that is not capable reads no more: what it reads beyond that makes it slower and no better."""
_PIECE = re.compile(r"[A-Za-z]+| (?=\d)|\d|[^\sA-Za-z\d]|\n+| {2,}")
_LETTERS_A_TOKEN = 5
_MESSAGE_TOKENS = 8
_HISTORY_SHARE = 0.25
_LEAST_CUT_TOKENS = 24
_LEAST_PASSAGE_TOKENS = 32


def estimate_tokens(text: str) -> int:
    """Return how many tokens a text has at most, near enough: words by length, digits and signs one each."""
    tokens = 0
    for piece in _PIECE.findall(text):
        first = piece[0]
        if first.isascii():
            tokens += 1 + (len(piece) - 1) // _LETTERS_A_TOKEN if first.isalpha() else 1
        else:
            tokens += 2
    return tokens


@dataclass(frozen=True)
class Fitted:
    """What goes into the prompt.

    Args:
        detail: what was left out, in a few words; empty where all fits.
    """

    passages: list[Passage]
    earlier: list[Mapping[str, str]]
    max_tokens: int
    detail: str


def fit(
    passages: Sequence[Passage],
    question: str,
    *,
    instructions: str,
    earlier: Sequence[Mapping[str, str]],
    context_tokens: int,
    answer_tokens: int,
    capable: bool,
    share: float = 1.0,
) -> Fitted:
    """Return what fits: room for the answer first, then the question, the newest turns, the best passages.

    Args:
        answer_tokens: that the answer may have; at most half of the context is kept for it.
        share: of the room for passages and turns that is used; less after a refusal.

    Raises:
        ContextLengthExceeded: the question and the client's instructions leave no room for a passage.
    """
    max_tokens = min(answer_tokens, context_tokens // 2)
    fixed = estimate_tokens(rules(instructions, capable=capable)) + estimate_tokens(question) + 3 * _MESSAGE_TOKENS
    room = int((context_tokens - max_tokens - fixed) * share)
    if room < _LEAST_PASSAGE_TOKENS:
        raise ContextLengthExceeded(
            f"the question with its instructions has about {fixed} tokens and the answer {max_tokens}; of the model's "
            f"{context_tokens} too few are left for passages. Ask for less, lower max_tokens, or take a model with a "
            "longer context",
            param="messages",
        )
    kept, taken = _newest(earlier, int(room * _HISTORY_SHARE))
    room -= taken
    if not capable:
        room = min(room, int(SMALL_MODEL_PASSAGE_TOKENS * share))
    fitted = best_that_fit(passages, room)
    notes = []
    if len(fitted) < len(passages) or any(one.text != two.text for one, two in zip(fitted, passages, strict=False)):
        notes.append(f"{len(fitted)} of {len(passages)} passages in {room} tokens")
    if len(kept) < len(earlier):
        notes.append(f"{len(kept)} of {len(earlier)} earlier messages")
    return Fitted(fitted, kept, max_tokens, ", ".join(notes))


def best_that_fit(passages: Sequence[Passage], room: int) -> list[Passage]:
    """Return the passages, best first, as far as they fit; the last one is cut at a sentence's end."""
    fitted: list[Passage] = []
    for passage in passages:
        marks = estimate_tokens(show_passage(len(passages), replace(passage, text="")))
        tokens = estimate_tokens(passage.text)
        if marks + tokens <= room:
            fitted.append(passage)
            room -= marks + tokens
            continue
        cut = _whole_sentences(passage.text, room - marks)
        if cut and (estimate_tokens(cut) >= _LEAST_CUT_TOKENS or not fitted):
            fitted.append(replace(passage, text=cut))
        break
    return fitted


def _whole_sentences(text: str, room: int) -> str:
    end = 0
    for _, last in sentence_spans(text):
        if estimate_tokens(text[:last]) > room:
            break
        end = last
    return text[:end]


def _newest(earlier: Sequence[Mapping[str, str]], room: int) -> tuple[list[Mapping[str, str]], int]:
    kept: list[Mapping[str, str]] = []
    taken = 0
    for message in reversed(earlier):
        tokens = estimate_tokens(message["content"]) + _MESSAGE_TOKENS
        if taken + tokens > room:
            break
        kept.insert(0, message)
        taken += tokens
    while kept and kept[0]["role"] != "user":  # templates want a user's message first
        taken -= estimate_tokens(kept.pop(0)["content"]) + _MESSAGE_TOKENS
    return kept, taken

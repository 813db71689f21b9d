"""What is measured of a sampled request, before its text is forgotten.

`measure` is pure and quick: the store calls it for each sampled record. It returns numbers, names of closed sets and
flags, never a part of the text. What the record itself has (latency, tokens, tools) is read from it later.
"""

import json
import re
from collections import Counter
from typing import Any

from services.kit.records import RequestRecord
from services.tracking.drift.languages import language_of

Features = dict[str, Any]
"""By name; JSON values."""
Ending = tuple[int, str, str]
"""Of a request: status, outcome, the error's code."""
VERSION = 1
"""Of the way things are measured: rows of another version are not compared."""

_CHARACTERS = 20_000
_HEAD = 300
_WORD = re.compile(r"\w+")
_FENCE = re.compile(r"\A\s*```(?:json)?\s*\n(.*?)\n?```\s*\Z", re.DOTALL)
_REFUSALS = re.compile(
    r"(?:"
    r"\bI(?:'m| am)\s+(?:\w+\s+){0,2}(?:sorry|unable|not able|not allowed)\b"
    r"|\bI\s+(?:can(?:'t|not| not)|could(?:n't| not)|won't|will not|must decline|don't have (?:access|the ability))\b"
    r"|\b(?:sorry|apologi[sz]e),? (?:but|that|I)\b"
    r"|\bas an? (?:AI|(?:large )?language model)\b"
    r"|\b(?:es )?tut mir leid\b|\bleider (?:kann|darf|konnte) ich\b"
    r"|\bich kann (?:\w+ ){0,3}nicht (?:helfen|beantworten)\b"
    r"|\bje (?:suis|regrette) (?:vraiment )?(?:désolé|de ne)"
    r"|\bje ne (?:peux|suis) pas (?:en mesure|répondre|vous aider)\b"
    r"|\blo siento\b|\bno puedo (?:ayudar|responder|proporcionar)"
    r"|\bmi dispiace\b|\bnon posso (?:aiutar|risponder)"
    r"|\bsinto muito\b|\bdesculpe, mas\b|\bnão posso (?:ajudar|responder)"
    r")",
    re.IGNORECASE,
)


def measure(record: RequestRecord) -> Features:
    """Return the features of a sampled request; those of a text that it lacks are left out."""
    found: Features = {"version": VERSION}
    prompt, answer = record.prompt, record.answer
    if prompt:
        found["prompt_characters"] = len(prompt)
        found["prompt_language"] = language_of(prompt)
    if answer is None or record.status >= 400:
        return found
    found["answer_characters"] = len(answer)
    if answer:
        found["answer_language"] = language_of(answer)
        found["repetition"] = repetition(answer)
    if not record.tool_calls:
        found["empty"] = not answer.strip()
        found["refusal"] = is_refusal(answer)
    if record.format_asked:
        found["format_failure"] = not record.tool_calls and not is_json(answer)
    if record.tools_offered:
        found["tool_failure"] = _tool_failed(record, answer)
    return found


def is_refusal(answer: str) -> bool:
    """Say whether an answer begins by declining. Phrases of six languages: a model that refuses in others is missed."""
    return bool(_REFUSALS.search(answer[:_HEAD].replace("\u2019", "'")))


def is_json(answer: str) -> bool:
    """Say whether it is one JSON value, in a code fence or not."""
    fenced = _FENCE.match(answer)
    try:
        json.loads(fenced[1] if fenced else answer)
    except (ValueError, RecursionError):
        return False
    return True


def repetition(answer: str) -> float:
    """Return the share of its groups of three words that were there before, 0 to 1: a model in a loop is near 1."""
    words = _WORD.findall(answer[:_CHARACTERS].lower())
    groups = Counter(zip(words, words[1:], words[2:], strict=False))
    total = sum(groups.values())
    return round(1 - len(groups) / total, 4) if total else 0.0


def _tool_failed(record: RequestRecord, answer: str) -> bool:
    """Say whether what came is neither a call nor an answer: a call written as text, or nothing."""
    if record.tool_calls:
        return False
    text = answer.strip()
    if not text:
        return True
    if "<tool_call>" in text or text.startswith("[TOOL_CALLS]"):
        return True
    fenced = _FENCE.match(text)
    try:
        value = json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and "name" in value and bool({"arguments", "parameters"} & value.keys())

"""How an answer is held to what it should be: exact, contains, regex, numeric, choice, json_schema.

Each is a pure function of the answer and the question; what a scorer needs of the question is checked when the set is
read (`prepare`), so that a set with a mistake is refused before any model is asked.
"""

import json
import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.tracking.evaluation.replies import read_json

Scorer = Callable[[str], "Verdict"]
_THOUGHTS = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)
# A sign after a digit is a minus between two numbers, or part of a date.
_NUMBER = re.compile(
    r"(?:(?<!\w)[-−+])?(?<![A-Za-z_])(?:\d{1,3}(?:[,\u202f\u00a0']\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?"
)
_QUOTES = "\"'`*\u201c\u201d\u2018\u2019 "
_TOLERANCE = 1e-6


class ScorerError(ValueError):
    """A question lacks what its scorer needs, or has it wrong."""


@dataclass(frozen=True)
class Verdict:
    """What came of an answer.

    Args:
        score: 0 … 1.
        format_failed: the answer had not the form that was asked for: no number, no letter, no JSON.
    """

    score: float
    format_failed: bool = False


def prepare(kind: str, question: Mapping[str, Any]) -> Scorer:
    """Return what scores answers to a question.

    Args:
        kind: one of KINDS.
        question: `reference`, and `choices`, `schema`, `tolerance` where the scorer reads them.

    Raises:
        ScorerError
    """
    if kind not in KINDS:
        raise ScorerError(f"there is no scorer {kind!r}; there are {', '.join(KINDS)}")
    return KINDS[kind](question)


def said(answer: str) -> str:
    """Return what an answer says, without a reasoning model's thoughts."""
    return _THOUGHTS.sub("", answer).strip()


def normal(text: str) -> str:
    """Return a text as `exact` and `contains` compare it: no case, one space, no quotes or full stop around it."""
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.strip(_QUOTES).rstrip(".!").strip(_QUOTES)


def _exact(question: Mapping[str, Any]) -> Scorer:
    wanted = {normal(text) for text in _texts(question)}
    return lambda answer: Verdict(float(normal(said(answer)) in wanted))


def _contains(question: Mapping[str, Any]) -> Scorer:
    """Any of the references stands in the answer, as whole words."""
    wanted = [re.compile(rf"(?<!\w){re.escape(normal(text))}(?!\w)") for text in _texts(question)]
    return lambda answer: Verdict(float(any(each.search(normal(said(answer))) for each in wanted)))


def _regex(question: Mapping[str, Any]) -> Scorer:
    try:
        wanted = [re.compile(text, re.IGNORECASE) for text in _texts(question)]
    except re.error as error:
        raise ScorerError(f"`reference` is no regular expression: {error}") from None

    def score(answer: str) -> Verdict:
        found = any(each.search(said(answer)) for each in wanted)
        return Verdict(float(found), format_failed=not found)

    return score


def _numeric(question: Mapping[str, Any]) -> Scorer:
    """The last number of the answer: models say how they got there, then what it is."""
    reference = question.get("reference")
    tolerance = question.get("tolerance", 0.0)
    if isinstance(reference, str):
        reference = _number(reference)
    if isinstance(reference, bool) or not isinstance(reference, int | float) or not math.isfinite(reference):
        raise ScorerError("`reference` must be a number")
    if isinstance(tolerance, bool) or not isinstance(tolerance, int | float) or tolerance < 0:
        raise ScorerError("`tolerance` must be a number of 0 or more")
    right, allowed = float(reference), max(float(tolerance), _TOLERANCE * abs(float(reference)))

    def score(answer: str) -> Verdict:
        found = _number(said(answer))
        if found is None:
            return Verdict(0.0, format_failed=True)
        return Verdict(float(abs(found - right) <= allowed))

    return score


def _choice(question: Mapping[str, Any]) -> Scorer:
    """The letter that the answer names, or the choice that it repeats."""
    choices = question.get("choices")
    reference = question.get("reference")
    if not isinstance(choices, Sequence) or isinstance(choices, str) or not 2 <= len(choices) <= 26:
        raise ScorerError("`choices` must list two to 26 texts")
    letters = [chr(ord("A") + place) for place in range(len(choices))]
    if reference not in letters:
        raise ScorerError(f"`reference` must be one of {', '.join(letters)}")
    texts = {normal(str(text)): letter for letter, text in zip(letters, choices, strict=True)}
    texts |= {letter.lower(): letter for letter in letters}
    whole = {letter: re.compile(rf"(?<!\w){re.escape(text)}(?!\w)") for text, letter in texts.items() if len(text) > 1}
    one = f"[{letters[0]}-{letters[-1]}]"
    stated = re.compile(rf"(?i:answer|choice|option)(?i:\W{{1,3}}is)?\W{{1,4}}({one})\b(?!['\u2019 ]+[a-z])")
    # A lone "A" may be an article: it counts before a mark, in brackets, or as a whole line.
    marked = re.compile(rf"^\W{{0,3}}({one})\W{{0,3}}$|^\W{{0,3}}({one})[).:]|\(({one})\)", re.MULTILINE)

    def score(answer: str) -> Verdict:
        text = said(answer)
        found = texts.get(normal(text))
        if found is None and (last := stated.findall(text)):
            found = last[-1]
        if found is None and (match := marked.search(text)):
            found = next(group for group in match.groups() if group)
        if found is None:
            named = [letter for letter, each in whole.items() if each.search(normal(text))]
            found = named[0] if len(named) == 1 else None
        return Verdict(float(found == reference), format_failed=found is None)

    return score


def _json_schema(question: Mapping[str, Any]) -> Scorer:
    """The answer is JSON that fits `schema`; with a `reference`, the share of its fields that are right."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    schema, reference = question.get("schema"), question.get("reference")
    if not isinstance(schema, Mapping):
        raise ScorerError("`schema` must be a JSON schema")
    if reference is not None and not (isinstance(reference, Mapping) and reference):
        raise ScorerError("`reference` must be an object with the fields that are compared, or be left out")
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise ScorerError(f"`schema` is no JSON schema: {error.message}") from None
    validator = Draft202012Validator(schema)

    def score(answer: str) -> Verdict:
        document = read_json(said(answer))
        if document is None or not validator.is_valid(document):
            return Verdict(0.0, format_failed=True)
        if reference is None:
            return Verdict(1.0)
        right = [_same(document.get(name), value) for name, value in reference.items()]
        return Verdict(sum(right) / len(right))

    return score


KINDS: Mapping[str, Callable[[Mapping[str, Any]], Scorer]] = {
    "exact": _exact,
    "contains": _contains,
    "regex": _regex,
    "numeric": _numeric,
    "choice": _choice,
    "json_schema": _json_schema,
}


def _texts(question: Mapping[str, Any]) -> list[str]:
    reference = question.get("reference")
    found = reference if isinstance(reference, list) else [reference]
    if not found or not all(isinstance(text, str) and text.strip() for text in found):
        raise ScorerError("`reference` must be a text, or a list of texts of which one is enough")
    return [str(text) for text in found]


def _number(text: str) -> float | None:
    found = _NUMBER.findall(text)
    if not found:
        return None
    return float(re.sub(r"[,\u202f\u00a0']", "", found[-1]).replace("−", "-"))


def _same(found: Any, wanted: Any) -> bool:
    if isinstance(found, str) and isinstance(wanted, str):
        return normal(found) == normal(wanted)
    if isinstance(found, bool) or isinstance(wanted, bool):
        return found is wanted
    if isinstance(found, int | float) and isinstance(wanted, int | float):
        return math.isclose(found, wanted, rel_tol=_TOLERANCE, abs_tol=1e-9)
    if isinstance(found, list) and isinstance(wanted, list):
        return len(found) == len(wanted) and all(_same(*pair) for pair in zip(found, wanted, strict=True))
    return bool(json.dumps(found, sort_keys=True) == json.dumps(wanted, sort_keys=True))

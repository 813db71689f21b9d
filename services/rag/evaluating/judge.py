"""A model judges answers: is each statement borne out by the passages, and does the answer address the question?

Faithfulness is the share of an answer's statements that the passages support; relevance is a grade of 0, 1 or 2,
halved. A judge is only as good as its model: a small one's verdicts are close to chance, and the report says whose
they are.

Source: Es, James, Espinosa-Anke, Schockaert: RAGAS: Automated Evaluation of Retrieval Augmented Generation
(EACL 2024), for statements and verdicts.
"""

import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Ask = Callable[[str, Mapping[str, Any], int], Awaitable[str]]
"""Prompt, JSON schema and most tokens, to what the model says."""

_MOST_STATEMENTS = 12
_MOST_CHARACTERS = 6000
_STATEMENTS_TOKENS, _VERDICTS_TOKENS, _GRADE_TOKENS = 600, 300, 60

_STATEMENTS_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {"statements": {"type": "array", "items": {"type": "string"}, "maxItems": _MOST_STATEMENTS}},
    "required": ["statements"],
    "additionalProperties": False,
}
_GRADE_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {"grade": {"type": "integer", "enum": [0, 1, 2]}},
    "required": ["grade"],
    "additionalProperties": False,
}

_STATEMENTS = """\
Split the answer below into its statements. Each statement is one short sentence that can be understood without the \
others: put names in place of "it" and "they". Leave out greetings, questions and remarks about the answer itself. \
Reply with JSON: {{"statements": ["…", "…"]}}

Question: {question}
Answer: {answer}
"""
_VERDICTS = """\
Decide for each numbered statement whether the passages say it or it follows from them directly. Judge by the \
passages alone, not by what you know. Reply with JSON: {{"verdicts": [true, false, …]}}, one for each statement, in \
their order.

Passages:
{passages}

Statements:
{statements}
"""
_GRADE = """\
Does the answer address the question? 2: fully. 1: in part, or with much that was not asked. 0: it evades it, or is \
about something else. Whether the answer is true is not asked. Reply with JSON: {{"grade": 2}}

Question: {question}
Answer: {answer}
"""


class VerdictError(Exception):
    """The judge's reply can't be read; the answer counts as not judged."""


@dataclass(frozen=True)
class Verdict:
    """What the judge says of one answer.

    Args:
        faithfulness: 0 … 1; None where the answer states nothing, or the judge's reply can't be read.
        relevance: 0, 0.5 or 1; None where the reply can't be read.
        unsupported: statements that the passages don't bear out.
        trouble: why something is None; empty otherwise.
    """

    faithfulness: float | None
    relevance: float | None
    statements: int
    unsupported: tuple[str, ...] = ()
    trouble: str = ""


async def judge(ask: Ask, question: str, answer: str, passages: Sequence[str]) -> Verdict:
    """Return the verdict on an answer and the passages that it was made from."""
    trouble: list[str] = []
    statements: list[str] = []
    supported: list[bool] = []
    try:
        statements = await _statements(ask, question, answer)
        supported = await _verdicts(ask, statements, passages) if statements else []
    except VerdictError as error:
        trouble.append(f"faithfulness: {error}")
    else:
        if not statements:
            trouble.append("faithfulness: the answer states nothing")
    relevance: float | None = None
    try:
        relevance = await _relevance(ask, question, answer)
    except VerdictError as error:
        trouble.append(f"relevance: {error}")
    return Verdict(
        faithfulness=sum(supported) / len(supported) if supported else None,
        relevance=relevance,
        statements=len(statements),
        unsupported=tuple(text for text, borne in zip(statements, supported, strict=False) if not borne),
        trouble="; ".join(trouble),
    )


async def _statements(ask: Ask, question: str, answer: str) -> list[str]:
    reply = await ask(_STATEMENTS.format(question=question, answer=answer), _STATEMENTS_SCHEMA, _STATEMENTS_TOKENS)
    found = read_json(reply).get("statements")
    if not isinstance(found, list):
        raise VerdictError(f"no list of statements in {_short(reply)}")
    return [str(each).strip() for each in found if str(each).strip()][:_MOST_STATEMENTS]


async def _verdicts(ask: Ask, statements: Sequence[str], passages: Sequence[str]) -> list[bool]:
    numbered = "\n".join(f"{number}. {text}" for number, text in enumerate(statements, 1))
    shown = "\n\n".join(f"[{number}] {text}" for number, text in enumerate(passages, 1))[:_MOST_CHARACTERS]
    schema = {
        "type": "object",
        "properties": {
            "verdicts": {
                "type": "array",
                "items": {"type": "boolean"},
                "minItems": len(statements),
                "maxItems": len(statements),
            }
        },
        "required": ["verdicts"],
        "additionalProperties": False,
    }
    reply = await ask(_VERDICTS.format(passages=shown, statements=numbered), schema, _VERDICTS_TOKENS)
    found = read_json(reply).get("verdicts")
    if not isinstance(found, list) or len(found) != len(statements):
        raise VerdictError(f"{len(statements)} verdicts wanted, not in {_short(reply)}")
    return [_true(each) for each in found]


async def _relevance(ask: Ask, question: str, answer: str) -> float:
    reply = await ask(_GRADE.format(question=question, answer=answer), _GRADE_SCHEMA, _GRADE_TOKENS)
    grade = read_json(reply).get("grade")
    if isinstance(grade, str) and grade.strip().isdigit():
        grade = int(grade)
    if isinstance(grade, bool) or grade not in (0, 1, 2):
        raise VerdictError(f"no grade of 0, 1 or 2 in {_short(reply)}")
    return int(grade) / 2


def read_json(reply: str) -> dict[str, Any]:
    """Return the first JSON object in a reply: models put it into fences, after thoughts, between remarks.

    Raises:
        VerdictError: where there is none.
    """
    text = re.sub(r"<think>.*?</think>", "", reply, flags=re.DOTALL)
    decoder = json.JSONDecoder()
    for place in (match.start() for match in re.finditer(r"\{", text)):
        try:
            found, _ = decoder.raw_decode(text, place)
        except json.JSONDecodeError:
            continue
        if isinstance(found, dict):
            return found
    raise VerdictError(f"no JSON in {_short(reply)}")


def _true(verdict: Any) -> bool:
    """Read a verdict that should be a boolean: engines without schemas say "yes", or wrap it into an object."""
    if isinstance(verdict, dict):
        verdict = next((value for key, value in verdict.items() if key in ("supported", "verdict")), False)
    if isinstance(verdict, str):
        return verdict.strip().lower() in ("true", "yes", "supported", "1")
    return verdict is True or verdict == 1


def _short(reply: str) -> str:
    return repr(reply if len(reply) <= 120 else f"{reply[:117]}…")

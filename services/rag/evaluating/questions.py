"""Questions and judgements, as files: JSON lines, and TREC's qrels."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Split = Literal["dev", "held_out", "all"]
Qrels = dict[str, dict[str, int]]
"""Question id → document name → grade: 0 judged and not relevant, 1 helps, 2 answers."""

UNANSWERABLE = "unanswerable"


class QuestionsError(Exception):
    """A file of questions or judgements can't be used; the message names file, line and rule."""


@dataclass(frozen=True)
class Question:
    """One question of a set.

    Args:
        kind: what makes it hard; `unanswerable` where the documents don't answer it.
        split: `dev` for choosing, `held_out` for reporting; empty where the file doesn't say.
        quotes: words of a document that answer it, by its name.
    """

    id: str
    text: str
    kind: str = ""
    split: str = ""
    quotes: Mapping[str, str] = field(default_factory=dict)

    @property
    def answerable(self) -> bool:
        """Whether the documents are said to answer it."""
        return self.kind != UNANSWERABLE


def read_questions(path: Path, split: Split = "all") -> list[Question]:
    """Return the questions of a split, in the file's order.

    Raises:
        QuestionsError
    """
    found: dict[str, Question] = {}
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        question = _question(_json(path, number, line), f"{path}, line {number}")
        if question.id in found:
            raise QuestionsError(f"{path}, line {number}: the id {question.id} stands there twice")
        found[question.id] = question
    chosen = [each for each in found.values() if split == "all" or each.split == split]
    if not chosen:
        splits = ", ".join(sorted({each.split for each in found.values() if each.split})) or "none"
        raise QuestionsError(f"{path} has no questions of the split {split}; its splits: {splits}")
    return chosen


def read_qrels(path: Path) -> Qrels:
    """Return the judgements of a file in TREC's form: `question 0 document grade` a line.

    Raises:
        QuestionsError
    """
    qrels: Qrels = {}
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        parts = line.split()
        if len(parts) < 4 or not parts[-1].lstrip("-").isdigit():
            raise QuestionsError(f"{path}, line {number}: not `question 0 document grade`: {line.strip()[:80]}")
        # A document's name may hold spaces; the grade is the last word, whatever stands between.
        qrels.setdefault(parts[0], {})[" ".join(parts[2:-1])] = max(0, int(parts[-1]))
    return qrels


def _question(row: dict[str, Any], where: str) -> Question:
    text = row.get("question") or row.get("text")
    if not row.get("id") or not text:
        raise QuestionsError(f"{where}: a question needs `id` and `question`; it has {', '.join(row) or 'nothing'}")
    return Question(
        str(row["id"]), str(text), str(row.get("kind", "")), str(row.get("split", "")), row.get("quotes", {})
    )


def _json(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise QuestionsError(f"{path}, line {number}: not JSON: {error}") from None
    if not isinstance(row, dict):
        raise QuestionsError(f"{path}, line {number}: not a JSON object")
    return row


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise QuestionsError(f"can't read {path}: {error.strerror}") from None

"""The corpus is what its README says: documents, questions, judgements, quotes, the split."""

import hashlib
import re
from collections import Counter
from pathlib import Path

from services.rag.evaluating.questions import Question, read_qrels, read_questions

CORPUS = Path(__file__).parents[2] / "corpora/postgresql"
README = (CORPUS / "README.md").read_text(encoding="utf-8")


def questions() -> list[Question]:
    return read_questions(CORPUS / "questions.jsonl")


def documents() -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in (CORPUS / "documents").glob("*.md")}


def test_it_has_as_many_documents_and_questions_as_promised() -> None:
    kinds = Counter(question.kind for question in questions())
    assert len(documents()) >= 300
    assert sum(count for kind, count in kinds.items() if kind != "unanswerable") >= 80
    assert dict(re.findall(r"^\| ([a-z-]+) \| (\d+) \|", README, re.MULTILINE)) == {
        kind: str(count) for kind, count in kinds.items()
    }
    assert README.startswith(f"# The PostgreSQL corpus\n\n{len(documents())} pages")


def test_it_is_small_enough_to_ship() -> None:
    assert sum(len(text.encode()) for text in documents().values()) < 2_000_000


def test_its_licence_is_there_and_allows_copies() -> None:
    text = " ".join((CORPUS / "LICENSE").read_text(encoding="utf-8").split())
    assert "Permission to use, copy, modify, and distribute this software and its documentation" in text


def test_half_of_each_kind_is_held_out_by_the_hash_of_the_id() -> None:
    by_kind: dict[str, list[Question]] = {}
    for question in questions():
        by_kind.setdefault(question.kind, []).append(question)
    for kind, found in by_kind.items():
        found.sort(key=lambda question: hashlib.sha256(question.id.encode()).hexdigest())
        dev = (len(found) + 1) // 2
        assert [question.split for question in found] == ["dev"] * dev + ["held_out"] * (len(found) - dev), kind


def test_every_judgement_is_of_a_question_and_a_document_that_there_are() -> None:
    known, there = {question.id for question in questions()}, documents()
    for question, grades in read_qrels(CORPUS / "qrels.txt").items():
        assert question in known
        assert set(grades) <= set(there)
        assert set(grades.values()) <= {0, 1, 2}


def test_every_answerable_question_has_an_answering_page_and_no_other_has_one() -> None:
    qrels = read_qrels(CORPUS / "qrels.txt")
    for question in questions():
        assert (max(qrels[question.id].values()) == 2) == question.answerable, question.id
        # More than the page that the question was written from was judged.
        assert len(qrels[question.id]) >= 9, question.id


def test_quotes_stand_in_their_documents_and_those_answer() -> None:
    there, qrels = documents(), read_qrels(CORPUS / "qrels.txt")
    quoted = [question for question in questions() if question.quotes]
    assert len(quoted) >= 15
    for question in quoted:
        for name, words in question.quotes.items():
            assert words in there[name], question.id
            assert qrels[question.id][name] == 2


def test_no_navigation_was_left_in() -> None:
    for name, text in documents().items():
        assert text.startswith("# "), name
        assert not re.search(r"accesskey|navheader|indexterm|^Table of Contents$", text, re.MULTILINE), name

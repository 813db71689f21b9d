"""The terms of texts, and their weights."""

import time

import numpy as np
import pytest

from services.rag.vectors.bm25 import Bm25

AVERAGE, K, B = 96, 1.2, 0.75


def test_words_are_lower_cased_stemmed_and_freed_of_stop_words() -> None:
    encoder = Bm25()
    assert set(encoder.query("The RUNNING of the engines").indices) == set(encoder.query("run engine").indices)
    assert encoder.query("the of and is").indices.size == 0
    assert encoder.query("").indices.size == 0
    assert encoder.query("KV-cache").indices.size == 2
    assert set(encoder.query("Straße café").indices) == set(encoder.query("STRASSE café straße").indices) & set(
        encoder.query("straße café").indices
    )


def test_a_document_and_a_question_meet_in_their_terms() -> None:
    encoder = Bm25()
    document = encoder.document("Qdrant stores vectors. Vectors are stored in segments.")
    question = encoder.query("where are the vectors stored?")
    assert set(question.indices) <= set(document.indices)
    assert set(question.values) == {1.0}
    assert document.indices.dtype == np.uint32
    assert document.values.dtype == np.float32
    assert len(set(document.indices)) == len(document.indices)


@pytest.mark.parametrize(
    ("text", "frequency", "length"), [("cat", 1, 1), ("cat cat dog", 2, 3), ("cat " * 300, 300, 300)]
)
def test_weights_saturate_by_frequency_and_length(text: str, frequency: int, length: int) -> None:
    encoder = Bm25()
    (term,) = encoder.query("cat").indices
    document = encoder.document(text)
    (weight,) = document.values[document.indices == term]
    wanted = frequency * (K + 1) / (frequency + K * (1 - B + B * length / AVERAGE))
    assert weight == pytest.approx(wanted, rel=1e-5)


def test_languages_have_their_own_stems_and_none_has_none() -> None:
    german, code = Bm25("german"), Bm25("none")
    assert set(german.query("der Häuser").indices) == set(german.query("Haus").indices)
    assert set(code.query("running").indices).isdisjoint(code.query("run").indices)
    assert code.query("the is").indices.size == 2
    with pytest.raises(ValueError, match="klingon"):
        Bm25("klingon")


def test_a_million_characters_take_less_than_a_second_of_computing() -> None:
    encoder = Bm25()
    text = "The gateway relays every stream of tokens without buffering it, and counts what was used. " * 10
    started = time.thread_time()
    for _ in range(1_000_000 // len(text)):
        encoder.document(text)
    assert time.thread_time() - started < 1

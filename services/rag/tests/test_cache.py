import numpy as np
import pytest

from services.rag.answering.caching import AnswerCache, Kept, cache_key, same_facts, semantic_threshold

_KEPT = Kept("An hour. [1]", ({"type": "file_citation"},), {"answerable": True})


def unit(*values):
    vector = np.array(values, dtype=np.float32)
    return vector / np.linalg.norm(vector)


def test_the_same_question_is_answered_again_whatever_its_case_and_spaces():
    cache = AnswerCache(10, 60)
    cache.keep(cache_key("How long?", revision=1), "How long?", _KEPT)
    assert cache.exact(cache_key("  how   LONG? ", revision=1)) == _KEPT
    assert cache.exact(cache_key("How long?", revision=2)) is None
    assert cache.exact(cache_key("How short?", revision=1)) is None


def test_an_answer_is_good_for_its_time():
    now = [0.0]
    cache = AnswerCache(10, 60, clock=lambda: now[0])
    key = cache_key("How long?")
    cache.keep(key, "How long?", _KEPT, unit(1, 0))
    now[0] = 59
    assert cache.exact(key)
    assert cache.similar(cache_key("How long"), "How long", unit(1, 0), 0.9)
    now[0] = 60
    assert cache.similar(cache_key("How long"), "How long", unit(1, 0), 0.9) is None
    assert cache.exact(key) is None


def test_the_one_that_was_used_longest_ago_goes_first():
    cache = AnswerCache(2, 60)
    for question in ("one", "two"):
        cache.keep(cache_key(question), question, _KEPT)
    cache.exact(cache_key("one"))
    cache.keep(cache_key("three"), "three", _KEPT)
    assert len(cache) == 2
    assert cache.exact(cache_key("one"))
    assert cache.exact(cache_key("two")) is None


def test_a_cache_of_no_entries_keeps_nothing():
    cache = AnswerCache(0, 60)
    cache.keep(cache_key("one"), "one", _KEPT)
    assert len(cache) == 0


def test_a_similar_question_of_the_same_scope_is_answered():
    cache = AnswerCache(10, 60)
    asked = "How long are answers kept?"
    cache.keep(cache_key(asked, tenant="alice"), asked, _KEPT, unit(1, 0.1))
    other = "For how long are the answers kept?"
    found = cache.similar(cache_key(other, tenant="alice"), other, unit(1, 0.2), 0.9)
    assert found is not None
    assert found[0] == _KEPT
    assert found[1] == pytest.approx(0.995, abs=0.001)
    assert cache.similar(cache_key(other, tenant="bob"), other, unit(1, 0.2), 0.9) is None
    assert cache.similar(cache_key(other, tenant="alice"), other, unit(1, 2), 0.9) is None


def test_a_question_with_another_fact_is_passed_over_for_the_next_nearest():
    cache = AnswerCache(10, 60)
    cache.keep(cache_key("port 1?"), "port 1?", Kept("one", (), {}), unit(1, 0))
    cache.keep(cache_key("port 2?"), "port 2?", Kept("two", (), {}), unit(1, 0.5))
    found = cache.similar(cache_key("the port 2?"), "the port 2?", unit(1, 0), 0.5)
    assert found is not None
    assert found[0].text == "two"


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("How do I load a model?", "How do I unload a model?"),
        ("What is port 8000 for?", "What is port 8011 for?"),
        ("Which models can use tools?", "Which models can not use tools?"),
        ("What does RAG_PORT set?", "What does RAG_HOST set?"),
        ("How does the client of Ollama connect?", "How does the client of Anthropic connect?"),
        ("What is the maximum context?", "What is the minimum context?"),
    ],
)
def test_questions_that_differ_in_a_fact_are_told_apart(one, two):
    assert not same_facts(one, two)
    assert not same_facts(two, one)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("How do I load a model?", "What is the way to load a model?"),
        ("What is port 8000 for?", "Tell me what port 8000 is for"),
        ("How long are answers kept?", "For what time does the cache hold replies?"),
    ],
)
def test_the_same_question_in_other_words_is_the_same(one, two):
    assert same_facts(one, two)


def test_a_model_whose_cosines_nobody_has_measured_is_held_to_a_strict_threshold():
    assert semantic_threshold("all-minilm-l6-v2") < semantic_threshold("somebodys-own")

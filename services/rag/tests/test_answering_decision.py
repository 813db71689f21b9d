import pytest

from services.rag.answering.deciding import THRESHOLDS, decide, fit, overlap
from services.rag.retrieving.trace import Retrieval
from services.rag.tests.scripted import make_passage

_MODEL = "all-minilm-l6-v2"
_PORT = make_passage("The gateway listens on port 8000.")


def found(question, passages, similarity):
    return Retrieval(passages, [], similarity, question)


def test_a_near_passage_with_the_questions_words_is_answered_from():
    decision = decide(found("Which port does the gateway listen on?", [_PORT], 0.7), "all-minilm-l6-v2")
    assert decision.answerable
    assert decision.overlap == 1.0
    assert decision.evidence == pytest.approx(0.7 + THRESHOLDS["all-minilm-l6-v2"].overlap_weight)


def test_a_far_passage_is_not():
    assert not decide(found("Who won the cup in 1966?", [_PORT], 0.1), "all-minilm-l6-v2").answerable


def test_nothing_found_is_nothing_to_answer_from():
    assert not decide(found("anything", [], None), "all-minilm-l6-v2").answerable


def test_cosines_of_another_model_are_judged_by_its_own_threshold():
    retrieval = found("Which port has the gateway's lunch?", [_PORT], 0.45)
    assert decide(retrieval, "all-minilm-l6-v2").answerable
    assert not decide(retrieval, "bge-large-en-v1.5").answerable


@pytest.mark.parametrize(("question", "answerable"), [("gateway port", True), ("gateway lunch menu prices", False)])
def test_without_vectors_the_words_decide(question, answerable):
    assert decide(found(question, [_PORT], None), "all-minilm-l6-v2").answerable is answerable


def test_overlap_is_of_the_best_passages_together():
    passages = [make_passage("gateway"), make_passage("port"), *[make_passage("x")] * 3, make_passage("lunch")]
    assert overlap("gateway port lunch menu", passages) == 0.5
    assert overlap("the of", passages) == 0


def test_a_name_that_no_passage_says_weighs_more_than_words_that_they_share():
    passages = [make_passage("The server's memory is full of settings for connections.")]
    about_another = decide(found("Which memory settings does Redis have for connections?", passages, 0.5), _MODEL)
    about_this = decide(found("Which memory settings does it have for connections?", passages, 0.5), _MODEL)
    assert (about_another.answerable, about_this.answerable) == (False, True)


def test_thresholds_are_fitted_to_judge_both_kinds_right():
    yes = [(0.3 + i / 100, 0.9, True) for i in range(10)]
    no = [(0.3 + i / 100, 0.1, False) for i in range(10)]
    fitted = fit(yes + no)
    assert fitted.overlap_weight > 0
    assert all((s + fitted.overlap_weight * o >= fitted.least) is answer for s, o, answer in yes + no)
    with pytest.raises(ValueError, match="without one"):
        fit(yes)

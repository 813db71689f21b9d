"""Measures and intervals: worked examples, and what must hold of any ranking."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kit.resampling import interval, paired
from services.rag.evaluating.measures import documents_of, ndcg_at, score
from services.rag.evaluating.summary import separation

GRADES = {"a": 2, "b": 1, "c": 0, "d": 2}


def test_passages_count_as_their_documents_each_at_its_best_place() -> None:
    assert documents_of(["b", "a", "b", "c", "a"]) == ["b", "a", "c"]


def test_ndcg_of_a_ranking_worked_out_by_hand() -> None:
    # Gains: 3 for grade 2, 1 for grade 1; the best order is a, d, b.
    best = 3 / math.log2(2) + 3 / math.log2(3) + 1 / math.log2(4)
    ours = 1 / math.log2(2) + 0 + 3 / math.log2(4)
    assert ndcg_at(["b", "x", "a"], GRADES, 3) == pytest.approx(ours / best)


def test_recall_counts_grade_one_and_mrr_takes_the_first_of_them() -> None:
    found = score(["x", "b", "c", "a"], GRADES, 3)
    assert (found.recall, found.mrr) == (pytest.approx(1 / 3), 0.5)


def test_what_nobody_judged_is_counted_as_such() -> None:
    assert score(["a", "x", "c", "y"], GRADES, 4).judged == 0.5


def test_nothing_found_scores_nothing() -> None:
    found = score([], GRADES, 10)
    assert (found.ndcg, found.recall, found.mrr) == (0, 0, 0)


def test_a_question_without_a_relevant_document_is_refused() -> None:
    with pytest.raises(ValueError, match="no document is relevant"):
        score(["a"], {"a": 0}, 10)


@given(st.permutations(["a", "b", "c", "d", "x", "y"]), st.integers(1, 8))
def test_no_order_is_better_than_the_order_of_grades(order: list[str], k: int) -> None:
    best = sorted(GRADES, key=lambda name: -GRADES[name])
    assert 0 <= ndcg_at(order, GRADES, k) <= ndcg_at(best, GRADES, k) == pytest.approx(1)


def test_an_interval_holds_its_mean_and_the_same_seed_gives_the_same() -> None:
    values = [0.2, 0.9, 0.4, 1.0, 0.0, 0.7]
    found = interval(values)
    assert found.low < found.mean < found.high
    assert found == interval(values)
    assert found != interval(values, seed=1)


def test_an_interval_has_the_width_that_theory_gives() -> None:
    # The mean of 400 fair coins has a standard error of 0.025; 1.96 of them to each side.
    found = interval([0.0, 1.0] * 200)
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.025, rel=0.06)


def test_pairing_sees_a_small_steady_difference_that_two_intervals_would_hide() -> None:
    theirs = [at / 50 for at in range(50)]
    ours = [each + 0.02 for each in theirs]
    difference = paired(ours, theirs)
    assert difference.excludes_zero
    assert difference.mean == pytest.approx(0.02)
    assert interval(ours).low < interval(theirs).high


def test_a_difference_that_is_chance_holds_zero() -> None:
    assert not paired([0.0, 1.0, 0.5, 0.4], [1.0, 0.0, 0.4, 0.5]).excludes_zero


def test_values_of_different_questions_cannot_be_paired() -> None:
    with pytest.raises(ValueError, match="not of the same items"):
        paired([0.1], [0.1, 0.2])


def test_separation_is_the_area_under_the_roc_curve() -> None:
    assert separation([0.9, 0.8], [0.1, 0.2]) == 1.0
    assert separation([0.5, 0.1], [0.5, 0.1]) == 0.5
    assert separation([0.5], []) is None

"""A judge that likes length is seen through; one that likes the better answer is believed."""

import numpy as np
import pytest

from services.tracking.evaluation.length_control import length_controlled


def pairs(strength, liking, longer_by, n=400, seed=3):
    """Return wins and lengths of pairs that a judge decides by strength and by its liking for length."""
    generator = np.random.default_rng(seed)
    others = generator.integers(200, 400, n)
    lengths = np.maximum(1, others + generator.normal(longer_by, 80, n)).astype(int)
    difference = lengths - others
    chance = 1 / (1 + np.exp(-(strength + liking * np.tanh(difference / difference.std()))))
    return (generator.random(n) < chance).astype(float), lengths, others


def test_a_model_that_is_only_longer_wins_half_at_equal_lengths():
    wins, lengths, others = pairs(strength=0.0, liking=2.5, longer_by=120)
    found = length_controlled(wins, lengths, others)
    assert wins.mean() > 0.75
    assert found.low < 0.5 < found.high
    assert abs(found.win_rate - 0.5) < 0.1
    assert found.weight_low > 0


def test_a_model_that_is_better_and_shorter_gets_back_what_the_liking_took():
    wins, lengths, others = pairs(strength=1.0, liking=2.5, longer_by=-120)
    found = length_controlled(wins, lengths, others)
    assert wins.mean() < 0.5
    assert found.low > 0.5
    assert abs(found.win_rate - 1 / (1 + np.exp(-1))) < 0.1


def test_without_a_liking_for_length_nothing_is_taken_away():
    wins, lengths, others = pairs(strength=0.8, liking=0.0, longer_by=100)
    found = length_controlled(wins, lengths, others)
    assert abs(found.win_rate - wins.mean()) < 0.05
    assert found.weight_low < 0 < found.weight_high


def test_swapping_the_models_mirrors_the_rate():
    wins, lengths, others = pairs(strength=0.5, liking=1.5, longer_by=60, n=120)
    here, there = length_controlled(wins, lengths, others), length_controlled(1 - wins, others, lengths)
    assert here.win_rate + there.win_rate == pytest.approx(1)
    assert here.weight == pytest.approx(there.weight)


@pytest.mark.parametrize("won", [0.0, 0.5, 1.0])
def test_a_judge_who_always_decides_alike_has_an_answer_too(won):
    found = length_controlled([won] * 30, list(range(30)), [15] * 30)
    assert abs(found.win_rate - won) < 0.1
    assert 0 < found.win_rate < 1


def test_equal_lengths_leave_the_plain_rate():
    found = length_controlled([1, 1, 1, 0] * 20, [50] * 80, [40] * 80)
    assert found.win_rate == pytest.approx(0.75, abs=0.01)
    assert found.weight == 0


def test_the_interval_covers_what_is_true_about_as_often_as_it_says():
    truth = 1 / (1 + np.exp(-0.4))
    found = [length_controlled(*pairs(0.4, 1.0, 50, n=80, seed=seed)) for seed in range(24)]
    assert sum(each.low <= truth <= each.high for each in found) >= 20


def test_the_lower_bound_moves_with_its_confidence_and_no_pairs_are_refused():
    sample = pairs(0.4, 1.0, 50, n=80)
    assert length_controlled(*sample, confidence=0.99).lower < length_controlled(*sample, confidence=0.8).lower
    with pytest.raises(ValueError, match="no pairs"):
        length_controlled([], [], [])

"""Each detector: quiet where nothing has changed, loud where something has, with p-values that keep their word."""

import math

import numpy as np
import pytest

from services.tracking.drift import detectors
from services.tracking.drift.alarms import alarms


def vectors(dice, count, shift=0.0, dimensions=16):
    found = dice.normal(size=(count, dimensions)).astype(np.float32)
    found[:, 0] += shift
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def pair(test, seed, shift):
    dice = np.random.default_rng(seed)
    reference, window = vectors(dice, 80), vectors(dice, 40, shift)
    return test(reference, window, dice)


OF_VECTORS = [detectors.compare_by_classifier, detectors.compare_by_kernel, detectors.compare_topics]


@pytest.mark.parametrize("test", OF_VECTORS)
def test_moved_vectors_are_found(test):
    found = pair(test, 1, shift=3.0)

    assert found.p < 0.001
    assert found.score > 0.2


@pytest.mark.parametrize("test", OF_VECTORS)
def test_of_unchanged_vectors_one_in_ten_has_a_p_below_a_tenth(test):
    p_values = [pair(test, seed, shift=0.0).p for seed in range(60)]

    # Binomial(60, 0.1) is above 14 once in a thousand.
    assert sum(p <= 0.1 for p in p_values) <= 14
    assert np.median(p_values) > 0.3


def test_the_classifier_tells_its_auc():
    assert pair(detectors.compare_by_classifier, 3, shift=4.0).detail["auc"] > 0.95


def test_equal_vectors_everywhere_are_no_drift():
    dice = np.random.default_rng(0)
    same = np.tile(vectors(dice, 1), (60, 1))
    for test in OF_VECTORS:
        found = test(same[:30], same[30:], dice)
        assert found.p > 0.05
        assert found.score < 0.35


def test_texts_that_are_asked_again_and_again_are_no_drift():
    dice = np.random.default_rng(2)
    few = vectors(dice, 6)
    p_values = [
        detectors.compare_by_classifier(few[dice.integers(0, 6, 80)], few[dice.integers(0, 6, 40)], dice).p
        for _ in range(60)
    ]

    assert sum(p <= 0.1 for p in p_values) <= 14


def test_numbers_that_have_grown_are_found():
    dice = np.random.default_rng(5)
    reference = dice.lognormal(4, 0.5, 400)
    found = detectors.compare_numbers(reference, dice.lognormal(5, 0.5, 200))

    assert found.p < 1e-6
    assert found.detail["psi"] > 0.2
    assert found.detail["window_median"] > 2 * found.detail["reference_median"]


def test_the_distance_of_numbers_is_kolmogorovs():
    found = detectors.compare_numbers(np.array([1.0, 2.0, 3.0, 4.0]), np.array([3.0, 4.0, 5.0, 6.0]))

    assert found.score == 0.5
    # 2 (exp(-2x²) - exp(-8x²) + …) at x = √2 / 2
    assert found.p == pytest.approx(2 * (math.exp(-1) - math.exp(-4) + math.exp(-9) - math.exp(-16)), abs=1e-6)


def test_numbers_with_ties_alarm_too_rarely_and_never_too_often():
    dice = np.random.default_rng(6)
    p_values = [
        detectors.compare_numbers(dice.integers(0, 3, 200).astype(float), dice.integers(0, 3, 100).astype(float)).p
        for _ in range(200)
    ]

    assert sum(p <= 0.1 for p in p_values) <= 33


def test_fishers_test_gives_the_tea_ladys_figure():
    said = np.array([True, True, True, False])
    found = detectors.compare_flags(said, ~said)

    assert found.p == pytest.approx(34 / 70)


def test_refusals_that_have_tripled_are_found():
    reference, window = np.zeros(400, bool), np.zeros(200, bool)
    reference[:20], window[:40] = True, True

    found = detectors.compare_flags(reference, window)

    assert found.p < 1e-6
    assert found.score == pytest.approx(0.15)


def test_shares_are_compared_by_name():
    dice = np.random.default_rng(7)
    found = detectors.compare_shares(["en"] * 380 + ["de"] * 20, ["en"] * 150 + ["fr"] * 50, dice)

    assert found.p < 0.001
    assert found.score == pytest.approx(0.25)
    assert found.detail == {"reference_fr": 0.0, "window_fr": 0.25}
    assert detectors.compare_shares(["en"] * 40, ["en"] * 40, dice).p == 1.0


def test_a_rare_name_that_is_new_is_no_drift_by_itself():
    found = detectors.compare_shares(["en"] * 400, ["en"] * 199 + ["sv"], np.random.default_rng(8))

    assert found.p > 0.1


def test_the_budget_is_shared_by_all_signals():
    assert alarms({"a": 0.004, "b": 0.5, "c": 0.9}, budget=0.01) == frozenset()
    assert alarms({"a": 0.003, "b": 0.5, "c": 0.9}, budget=0.01) == {"a"}
    # Holm: once the first has passed, the second is held to half of the budget, not to a third.
    assert alarms({"a": 0.003, "b": 0.005, "c": 0.9}, budget=0.01) == {"a", "b"}
    assert alarms({}) == frozenset()


def test_p_ends_early_where_nothing_has_changed():
    drawn = []

    def draw(rounds):
        drawn.append(rounds)
        return np.ones(rounds)

    assert detectors.permutation_p(0.5, draw) == 1.0
    assert len(drawn) == 1

"""Tests of "these two sets come from the same source": of numbers, of shares, of vectors.

Each returns a score (0: the same, 1: nothing in common) and a p-value that is valid whatever the sizes: where there is
no formula the labels are permuted. numpy alone: the classifier is a ridge regression in closed form, for which a
permutation costs one product of matrices where scikit-learn's would be fitted anew thousands of times.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
_ROUNDS = (200, 800, 2000, 3999)
_ENOUGH = 10
_FOLDS = 5
_RIDGE = 0.1


@dataclass(frozen=True)
class Comparison:
    """What a test found.

    Args:
        score: 0: the same, 1: nothing in common.
        p: how likely a score like this is where nothing has changed.
        detail: in figures that people know: AUC, MMD, means, shares.
    """

    score: float
    p: float
    detail: dict[str, float]


def compare_numbers(reference: Floats, window: Floats) -> Comparison:
    """Compare two sets of numbers by Kolmogorov and Smirnov's distance; PSI is told beside it.

    Ties (whole numbers, flags) make p too large, never too small.
    Source: Smirnov (1948); Press et al., Numerical Recipes, 14.3, without its correction for small sets
    """
    every = np.sort(np.concatenate([reference, window]))
    below_reference = np.searchsorted(np.sort(reference), every, side="right") / len(reference)
    below_window = np.searchsorted(np.sort(window), every, side="right") / len(window)
    distance = float(np.abs(below_reference - below_window).max())
    effective = len(reference) * len(window) / (len(reference) + len(window))
    detail = {
        "reference_median": float(np.median(reference)),
        "window_median": float(np.median(window)),
        "psi": population_stability(reference, window),
    }
    return Comparison(distance, _kolmogorov(math.sqrt(effective) * distance), detail)


def population_stability(reference: Floats, window: Floats) -> float:
    """Return the population stability index over the reference's tenths; many call 0.2 a change. No test by itself."""
    edges = np.unique(np.quantile(reference, np.linspace(0.1, 0.9, 9)))
    shares = []
    for values in (reference, window):
        counts = np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1)
        shares.append((counts + 0.5) / (len(values) + 0.5 * len(counts)))
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())


def compare_flags(reference: npt.NDArray[np.bool_], window: npt.NDArray[np.bool_]) -> Comparison:
    """Compare how often something happens, by Fisher's exact test (both sides)."""
    counts = (int(reference.sum()), int(window.sum()))
    shares = (counts[0] / len(reference), counts[1] / len(window))
    detail = {"reference_share": shares[0], "window_share": shares[1]}
    return Comparison(abs(shares[0] - shares[1]), _fisher(counts[0], len(reference), counts[1], len(window)), detail)


def compare_shares(reference: list[str], window: list[str], dice: np.random.Generator) -> Comparison:
    """Compare the shares of names by chi-square, whose p is by permutation: rare names don't spoil it.

    The score is half the sum of the differences (total variation).
    """
    names, places = np.unique(np.asarray(reference + window, dtype=object).astype(str), return_inverse=True)
    counts = np.stack(
        [np.bincount(each, minlength=len(names)) for each in (places[: len(reference)], places[len(reference) :])]
    )
    sizes = counts.sum(axis=1)
    differences = counts[1] / sizes[1] - counts[0] / sizes[0]
    most = int(np.abs(differences).argmax())
    detail = {
        f"reference_{names[most]}": counts[0, most] / sizes[0],
        f"window_{names[most]}": counts[1, most] / sizes[1],
    }
    if len(names) == 1:
        return Comparison(0.0, 1.0, {name: float(value) for name, value in detail.items()})
    whole = counts.sum(axis=0)
    expected = whole * sizes[1] / sizes.sum()

    def distance(of_window: npt.NDArray[np.integer]) -> Floats:
        # With both margins fixed, chi-square is this up to a factor.
        return np.asarray(((of_window - expected) ** 2 / whole).sum(axis=-1))

    p = permutation_p(
        float(distance(counts[1])), lambda rounds: distance(dice.multivariate_hypergeometric(whole, sizes[1], rounds))
    )
    return Comparison(float(np.abs(differences).sum() / 2), p, {name: float(value) for name, value in detail.items()})


def compare_by_classifier(reference: Floats, window: Floats, dice: np.random.Generator) -> Comparison:
    """Compare vectors by how well a classifier tells the two sets apart: AUC over five folds, p by permutation.

    Args:
        reference, window: `(n, dimensions)`.

    Source: Lopez-Paz & Oquab, Revisiting Classifier Two-Sample Tests (2017)
    """
    vectors = np.concatenate([reference, window]).astype(np.float64)
    labels = np.concatenate([np.zeros(len(reference)), np.ones(len(window))])
    # Equal texts have equal predictions: which of them is ranked higher must not hang on where it came from.
    order = dice.permutation(len(labels))
    vectors, labels = vectors[order], labels[order]
    folds = np.arange(len(labels)) % _FOLDS
    predict = _predictor(vectors, folds)

    def areas(columns: Floats) -> Floats:
        predicted = predict @ columns
        total, pairs = np.zeros(columns.shape[1]), np.zeros(columns.shape[1])
        for fold in range(_FOLDS):
            chosen = folds == fold
            ours, both = _wins(predicted[chosen], columns[chosen])
            total, pairs = total + ours, pairs + both
        return np.asarray(total / np.maximum(pairs, 1))

    area = float(areas(labels[:, None])[0])
    p = permutation_p(area, lambda rounds: areas(_shuffled(labels, rounds, dice)))
    return Comparison(max(0.0, 2 * area - 1), p, {"auc": area})


def compare_by_kernel(reference: Floats, window: Floats, dice: np.random.Generator) -> Comparison:
    """Compare vectors by maximum mean discrepancy: an RBF kernel as wide as the median distance, p by permutation.

    Source: Gretton et al., A Kernel Two-Sample Test (2012)
    """
    vectors = np.concatenate([reference, window]).astype(np.float64)
    squares = (vectors**2).sum(axis=1)
    distances = np.maximum(squares[:, None] + squares[None, :] - 2 * vectors @ vectors.T, 0)
    apart = distances[np.triu_indices(len(vectors), 1)]
    width = float(np.median(apart)) or 1.0
    kernel = np.exp(-distances / width)
    np.fill_diagonal(kernel, 0)
    sizes = (len(reference), len(window))
    rows = kernel.sum(axis=1)

    def discrepancies(columns: Floats) -> Floats:
        products = kernel @ columns
        within = (columns * products).sum(axis=0)
        between = rows @ columns - within
        others = rows.sum() - 2 * between - within
        return np.asarray(
            others / (sizes[0] * (sizes[0] - 1))
            + within / (sizes[1] * (sizes[1] - 1))
            - 2 * between / (sizes[0] * sizes[1])
        )

    labels = np.concatenate([np.zeros(sizes[0]), np.ones(sizes[1])])
    found = float(discrepancies(labels[:, None])[0])
    p = permutation_p(found, lambda rounds: discrepancies(_shuffled(labels, rounds, dice)))
    return Comparison(math.sqrt(min(1.0, max(0.0, found))), p, {"mmd2": found})


def compare_topics(reference: Floats, window: Floats, dice: np.random.Generator, topics: int = 8) -> Comparison:
    """Compare the shares of topics: clusters of one half of the reference, counted in its other half and the window.

    Clusters that were made of the very vectors that are counted would make every other set look different.
    """
    order = dice.permutation(len(reference))
    making, counting = reference[order[: len(order) // 2]], reference[order[len(order) // 2 :]]
    centres = _centres(making, min(topics, len(making)), dice)
    return compare_shares(_nearest(counting, centres), _nearest(window, centres), dice)


def permutation_p(found: float, draw: Callable[[int], Floats]) -> float:
    """Return p of a score where higher is more different; ends early where it is plain that nothing has changed.

    Args:
        draw: returns so many scores of permuted labels.

    Source: Besag & Clifford, Sequential Monte Carlo p-values (1991)
    """
    drawn, reached = 0, 0
    for rounds in _ROUNDS:
        scores = draw(rounds)
        reached += int((scores >= found - 1e-12).sum())
        drawn += rounds
        if reached >= _ENOUGH:
            break
    return (1 + reached) / (1 + drawn)


def _shuffled(labels: Floats, rounds: int, dice: np.random.Generator) -> Floats:
    return dice.permuted(np.tile(labels, (rounds, 1)), axis=1).T


def _predictor(vectors: Floats, folds: npt.NDArray[np.integer]) -> Floats:
    """Return the matrix that turns labels into predictions of each vector by the others' labels: ridge regression."""
    matrix = np.zeros((len(vectors), len(vectors)))
    for fold in range(_FOLDS):
        held, rest = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        mean = vectors[rest].mean(axis=0)
        known, asked = vectors[rest] - mean, vectors[held] - mean
        gram = known @ known.T
        strength = _RIDGE * max(float(np.trace(gram)), 1e-9) / len(rest) * math.sqrt(len(rest))
        solved = np.linalg.solve(gram + strength * np.eye(len(rest)), known @ asked.T).T
        matrix[np.ix_(held, rest)] = solved - solved.mean(axis=1, keepdims=True)
    return matrix


def _wins(predicted: Floats, labels: Floats) -> tuple[Floats, Floats]:
    """Return, for each column, in how many pairs the one of the window is ranked higher, and how many there are."""
    # A row each: what is sorted lies together.
    order = np.ascontiguousarray(predicted.T.round(9)).argsort(axis=1, kind="stable")
    ranked = np.take_along_axis(np.ascontiguousarray(labels.T), order, axis=1)
    ours = ranked.sum(axis=1)
    places = ranked @ np.arange(1, len(labels) + 1)
    return places - ours * (ours + 1) / 2, ours * (len(labels) - ours)


def _centres(vectors: Floats, count: int, dice: np.random.Generator) -> Floats:
    """Return centres of clusters: k-means with k-means++'s beginnings."""
    centres = vectors[[int(dice.integers(len(vectors)))]].astype(np.float64)
    while len(centres) < count:
        nearest = np.min(((vectors[:, None] - centres[None]) ** 2).sum(axis=2), axis=1)
        if nearest.sum() <= 0:
            break
        centres = np.concatenate([centres, vectors[[int(dice.choice(len(vectors), p=nearest / nearest.sum()))]]])
    for _ in range(20):
        places = _places(vectors, centres)
        moved = np.stack(
            [
                vectors[places == each].mean(axis=0) if (places == each).any() else centres[each]
                for each in range(len(centres))
            ]
        )
        if np.allclose(moved, centres):
            break
        centres = moved
    return centres


def _places(vectors: Floats, centres: Floats) -> npt.NDArray[np.integer]:
    return np.asarray(((centres**2).sum(axis=1) - 2 * vectors @ centres.T).argmin(axis=1))


def _nearest(vectors: Floats, centres: Floats) -> list[str]:
    return [f"topic {place + 1}" for place in _places(vectors, centres)]


def _kolmogorov(value: float) -> float:
    if value < 0.3:
        return 1.0
    terms = (math.exp(-2 * step * step * value * value) * (1 if step % 2 else -1) for step in range(1, 101))
    return min(1.0, max(0.0, 2 * math.fsum(terms)))


def _fisher(first: int, first_of: int, second: int, second_of: int) -> float:
    """Return the p-value of a table whose margins are fixed: the sum of all tables that are no likelier."""
    whole, every = first + second, first_of + second_of
    ways = _log_choose(every, whole)
    lowest, highest = max(0, whole - first_of), min(whole, second_of)
    logs = [
        _log_choose(second_of, count) + _log_choose(first_of, whole - count) - ways
        for count in range(lowest, highest + 1)
    ]
    limit = logs[second - lowest] + 1e-9
    return min(1.0, math.fsum(math.exp(each) for each in logs if each <= limit))


def _log_choose(every: int, chosen: int) -> float:
    return math.lgamma(every + 1) - math.lgamma(chosen + 1) - math.lgamma(every - chosen + 1)

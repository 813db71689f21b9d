"""Intervals by the bootstrap: how far a mean, or a difference of two on the same items, may be chance."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RESAMPLES = 10_000
SEED = 20261121
# Resamples that are drawn at a time: with 10,000 items one draw of all would be 800 MB.
_AT_A_TIME = 500


@dataclass(frozen=True)
class Interval:
    """A mean and the 95 % interval around it."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether a difference is more than these items would give by chance, 19 times of 20."""
        return self.low > 0 or self.high < 0


def interval(values: Sequence[float], *, resamples: int = RESAMPLES, seed: int = SEED) -> Interval:
    """Return the mean of per-item values and its percentile interval; the same seed gives the same.

    Source: Efron and Tibshirani, An introduction to the bootstrap (1993), chapter 13.

    Raises:
        ValueError: without values.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.size == 0:
        raise ValueError("no values to resample")
    means = _means(data, resamples, np.random.default_rng(seed))
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(data.mean()), float(low), float(high))


def paired(ours: Sequence[float], theirs: Sequence[float], *, resamples: int = RESAMPLES, seed: int = SEED) -> Interval:
    """Return the mean of `ours − theirs` over the same items, in the same order, and its interval.

    Raises:
        ValueError: where they are not of the same items.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} values against {len(theirs)}: not of the same items")
    return interval([a - b for a, b in zip(ours, theirs, strict=True)], resamples=resamples, seed=seed)


def _means(data: npt.NDArray[np.float64], resamples: int, generator: np.random.Generator) -> npt.NDArray[np.float64]:
    parts = []
    for start in range(0, resamples, _AT_A_TIME):
        drawn = generator.integers(0, data.size, (min(_AT_A_TIME, resamples - start), data.size))
        parts.append(data[drawn].mean(axis=1))
    return np.concatenate(parts)

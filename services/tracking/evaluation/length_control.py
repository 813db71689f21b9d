"""A win rate that doesn't reward length: what it would be if both answers were equally long.

Judges like long answers. Here the chance that the first model wins a pair is modelled as

    logit P(win) = strength + weight · tanh((length − other length) / spread)

and the win rate is read off at equal lengths, where the second term is gone. Ties count half. Both numbers are drawn
to 0 a little (a normal prior, wide against what data say), so that a judge who always decides alike has an answer too.

Source: Dubois, Galambosi, Liang, Hashimoto: Length-Controlled AlpacaEval (2024). Theirs has a third term for how hard
each question is, learned from many models; with two models it can't be told from their strength, and is left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from services.kit.resampling import SEED

_RESAMPLES = 2_000
_AT_A_TIME = 250
_PRIOR_SPREAD = np.array([5.0, 2.0])
"""Standard deviations of strength and weight: five logits are 99 %, two are all that length can sensibly do."""
_STEPS = 40
_LONGEST_STEP = 2.0

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class LengthControlled:
    """A win rate at equal lengths, 0 … 1, and its 95 % bootstrap interval.

    Args:
        lower: its lower bound alone, at a one-sided confidence that the caller chose.
        weight: of length, in logits; above 0 where the judge prefers the longer answer.
        weight_low, weight_high: its 95 % interval: where it excludes 0, length has had a part.
    """

    win_rate: float
    low: float
    high: float
    lower: float
    weight: float
    weight_low: float
    weight_high: float
    n: int


def length_controlled(
    wins: Sequence[float], lengths: Sequence[int], others: Sequence[int], *, confidence: float = 0.95
) -> LengthControlled:
    """Return the win rate of the answers with `lengths` against those with `others`, as if they were equally long.

    Args:
        wins: of each pair: 1 won, 0 lost, 0.5 tied.

    Raises:
        ValueError: without pairs.
    """
    won = np.asarray(wins, dtype=np.float64)
    if won.size == 0:
        raise ValueError("no pairs were judged")
    longer = _standardised(np.asarray(lengths, dtype=np.float64) - np.asarray(others, dtype=np.float64))
    strength, weight = _fit(won, longer, np.ones((1, won.size)))[0]
    drawn = _resampled(won, longer)
    low, high, lower = np.quantile(_sigmoid(drawn[:, 0]), [0.025, 0.975, 1 - confidence])
    weight_low, weight_high = np.quantile(drawn[:, 1], [0.025, 0.975])
    return LengthControlled(
        win_rate=float(_sigmoid(strength)),
        low=float(low),
        high=float(high),
        lower=float(lower),
        weight=float(weight),
        weight_low=float(weight_low),
        weight_high=float(weight_high),
        n=int(won.size),
    )


def _standardised(difference: Floats) -> Floats:
    spread = float(difference.std())
    # All differences alike say nothing about length: it can't be told from strength.
    return np.tanh(difference / spread) if spread > 0 else np.zeros_like(difference)


def _resampled(won: Floats, longer: Floats) -> Floats:
    """Return strength and weight (resamples, 2) of samples that are drawn again from the pairs."""
    generator = np.random.default_rng(SEED)
    parts = []
    for start in range(0, _RESAMPLES, _AT_A_TIME):
        rows = min(_AT_A_TIME, _RESAMPLES - start)
        counts = generator.multinomial(won.size, np.full(won.size, 1 / won.size), size=rows)
        parts.append(_fit(won, longer, counts.astype(np.float64)))
    return np.concatenate(parts)


def _fit(won: Floats, longer: Floats, counts: Floats) -> Floats:
    """Return strength and weight for each row of counts, (rows, pairs), by Newton's method on all rows at once."""
    precision = 1 / _PRIOR_SPREAD**2
    found = np.zeros((counts.shape[0], 2))
    for _ in range(_STEPS):
        chance = _sigmoid(found[:, :1] + found[:, 1:] * longer)
        missing = counts * (won - chance)
        slope = np.stack([missing.sum(axis=1), (missing * longer).sum(axis=1)], axis=1) - precision * found
        certain = counts * chance * (1 - chance)
        a = certain.sum(axis=1) + precision[0]
        b = (certain * longer).sum(axis=1)
        d = (certain * longer**2).sum(axis=1) + precision[1]
        determinant = a * d - b * b
        step = np.stack([d * slope[:, 0] - b * slope[:, 1], a * slope[:, 1] - b * slope[:, 0]], axis=1)
        step /= determinant[:, None]
        found += np.clip(step, -_LONGEST_STEP, _LONGEST_STEP)
        if float(np.abs(step).max()) < 1e-9:
            break
    return found


def _sigmoid(value: npt.ArrayLike) -> Floats:
    return 1 / (1 + np.exp(-np.clip(np.asarray(value, dtype=np.float64), -60, 60)))

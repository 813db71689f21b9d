"""The arithmetic of the report, free of any input and output."""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Spread(NamedTuple):
    """A figure over the repetitions: its median and how far it wandered."""

    median: float
    low: float
    high: float


def median(values: Sequence[float]) -> float:
    """Return the middle value, the mean of the two middle ones of an even count."""
    if not values:
        raise ValueError("the median of nothing is asked for")
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that at least `percent` of all values do not exceed (nearest rank)."""
    if not values:
        raise ValueError("a percentile of nothing is asked for")
    if not 0 < percent <= 100:
        raise ValueError(f"percent={percent}: above 0, at most 100")
    ordered = sorted(values)
    return ordered[math.ceil(len(ordered) * percent / 100) - 1]


def spread(values: Sequence[float]) -> Spread:
    """Return median, lowest and highest value."""
    return Spread(median(values), min(values), max(values))


class StreamLoad(NamedTuple):
    """What one run of streams cost: its CPU seconds, how many streams it had and how many chunks in all."""

    cpu_s: float
    streams: int
    chunks: int


def cpu_per_chunk_s(long: StreamLoad, short: StreamLoad) -> float:
    """Return the CPU seconds of each chunk beyond those of a short stream.

    A stream costs something to begin and to end, whatever its length. What short streams cost is taken off
    the long ones, and the rest is shared by the chunks that the long ones have more.

    Raises:
        ValueError: when the long streams are not longer, or one of the loads had no stream.
    """
    if not (long.streams and short.streams):
        raise ValueError(f"{long.streams} long and {short.streams} short streams: both are needed")
    more_chunks = long.chunks - long.streams * short.chunks / short.streams
    if more_chunks <= 0:
        raise ValueError(
            f"long streams have {long.chunks / long.streams:.1f} chunks each, short ones "
            f"{short.chunks / short.streams:.1f}; a chunk's cost can't be told from a stream's"
        )
    return (long.cpu_s - long.streams * short.cpu_s / short.streams) / more_chunks

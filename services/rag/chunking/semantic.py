"""Where the subject changes, by the distance of neighbouring sentences' embeddings."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from services.rag.chunking.pieces import Measured, Piece, fits, pack, small_enough

Embed = Callable[[Sequence[str]], npt.NDArray[np.float32]]

# Cut at the tenth of the places with the largest distances.
_BREAK_PERCENTILE = 90
_TOO_FEW = 4
_SMALL_SHARE = 4
_BATCH = 256
_KEPT_WHOLE = frozenset({"code", "table"})


def cut_by_meaning(measured: Measured, overlap_tokens: int, embed: Embed) -> list[list[Piece]]:
    """Return runs of sentences of one subject; those above the limit are filled up like sentence chunks.

    Args:
        embed: gives `(n_texts, dimensions)` float32, L2-normalised.
    """
    units = list(_units(measured))
    groups = list(_groups(measured, units, _breaks(measured, units, embed)))
    chunks: list[list[Piece]] = []
    for group in groups:
        if fits(measured, group):
            chunks.append(group)
        else:
            chunks += pack(measured, list(small_enough(measured, group)), overlap_tokens)
    return chunks


def _units(measured: Measured) -> Iterator[Piece]:
    for block in range(len(measured.document.blocks)):
        whole = measured.whole(block)
        if measured.kind(whole) in _KEPT_WHOLE and fits(measured, (whole,)):
            yield whole
        else:
            yield from measured.sentences(whole)


def _breaks(measured: Measured, units: Sequence[Piece], embed: Embed) -> frozenset[int]:
    """Return the units that begin a new subject."""
    if len(units) < _TOO_FEW:
        return frozenset()
    # One sentence says little: the two before a place are compared with the two after it.
    pairs = [measured.text(units[max(0, at) : at + 2]) for at in range(-1, len(units))]
    vectors = np.concatenate([embed(pairs[at : at + _BATCH]) for at in range(0, len(pairs), _BATCH)])
    distances = 1 - np.einsum("ij,ij->i", vectors[:-2], vectors[2:])
    # Beside a change of subject stand places that are half across it.
    beside = np.maximum(np.append(distances[1:], -1), np.append(-1, distances[:-1]))
    threshold, usual = np.percentile(distances, (_BREAK_PERCENTILE, 50))
    breaks = (distances >= threshold) & (distances >= beside) & (distances > usual)
    return frozenset(int(at) + 1 for at in np.flatnonzero(breaks))


def _groups(measured: Measured, units: Sequence[Piece], breaks: frozenset[int]) -> Iterator[list[Piece]]:
    """Yield the units between breaks; a small group goes on, and a heading begins what it stands above."""
    small = measured.limit // _SMALL_SHARE
    group: list[Piece] = []
    tokens = 0
    for at, unit in enumerate(units):
        if at in breaks and tokens >= small:
            headings = _trailing_headings(measured, group)
            if len(headings) < len(group):
                yield group[: len(group) - len(headings)]
                group = headings
                tokens = sum(map(measured.tokens, group))
        group.append(unit)
        tokens += measured.tokens(unit)
    if group:
        yield group


def _trailing_headings(measured: Measured, group: Sequence[Piece]) -> list[Piece]:
    begin = len(group)
    while begin and measured.kind(group[begin - 1]) == "heading":
        begin -= 1
    return list(group[begin:])

"""Windows of tokens, without regard to what they cut; the plain standard that the others are compared with."""

from bisect import bisect_left, bisect_right
from itertools import accumulate, pairwise

from services.rag.chunking.pieces import CHARACTERS_PER_TOKEN, Measured, Piece


def cut_fixed(measured: Measured, overlap_tokens: int) -> list[list[Piece]]:
    """Return windows as full as whole words make them; each begins with the last words of the one before.

    The words that are repeated have `overlap_tokens` together at most, and one word more would be above that.
    """
    wholes = [measured.whole(block) for block in range(len(measured.document.blocks))]
    edges = [0, *accumulate(whole.end for whole in wholes)]
    tokens, characters = measured.running_sums()
    last = edges[-1]
    windows: list[list[Piece]] = []
    begin, end = 0, 0
    while end < last:
        by_tokens = bisect_right(tokens, tokens[begin] + measured.limit) - 1
        by_characters = bisect_right(characters, characters[begin] + measured.limit * CHARACTERS_PER_TOKEN) - 1
        furthest = min(by_tokens, by_characters, last)
        if furthest <= end:
            # What is repeated leaves no room for a word that is new.
            begin += 1
            continue
        end = furthest
        windows.append(_window(edges, begin, end))
        begin = max(begin + 1, bisect_left(tokens, tokens[end] - overlap_tokens, begin, end))
    return windows


def _window(edges: list[int], begin: int, end: int) -> list[Piece]:
    first = bisect_right(edges, begin) - 1
    last = bisect_left(edges, end)
    return [
        Piece(block, max(begin, low) - low, min(end, high) - low)
        for block, (low, high) in enumerate(pairwise(edges[first : last + 1]), first)
        if low < high
    ]

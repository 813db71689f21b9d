"""Whole sentences (lines, in code and tables), as many as fit."""

from services.rag.chunking.pieces import Measured, Piece, pack, small_enough


def cut_sentences(measured: Measured, overlap_tokens: int) -> list[list[Piece]]:
    """Return chunks of whole sentences; only one that is too long by itself is cut."""
    sentences = [
        sentence
        for block in range(len(measured.document.blocks))
        for sentence in measured.sentences(measured.whole(block))
    ]
    return pack(measured, list(small_enough(measured, sentences)), overlap_tokens)

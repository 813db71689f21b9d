"""By the document's own structure: sections stay together, small ones with those beside them under one parent."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from services.rag.chunking.pieces import Measured, Piece, Room, after, fits, small_enough

_SMALL_SHARE = 3
_HALF = 2
_KEPT_WHOLE = frozenset({"code", "table"})

Path = tuple[str, ...]


@dataclass
class _Section:
    path: Path
    pieces: list[Piece]
    tokens: int


def cut_by_headings(measured: Measured, overlap_tokens: int) -> list[list[Piece]]:
    """Return chunks that end where sections end, as far as the sections fit.

    A section above the limit is cut between paragraphs, else between sentences; code and tables that fit are whole.
    Only chunks of the same section overlap.
    """
    chunks: list[list[Piece]] = []
    for section in _merged(measured):
        if fits(measured, section.pieces):
            chunks.append(section.pieces)
        else:
            chunks += _cut_section(measured, section.pieces, overlap_tokens)
    return chunks


def common_path(paths: Sequence[Path]) -> Path:
    """Return the headings that stand above all."""
    first, last = min(paths), max(paths)
    shared = 0
    while shared < min(len(first), len(last)) and first[shared] == last[shared]:
        shared += 1
    return first[:shared]


def _sections(measured: Measured) -> Iterator[_Section]:
    section: _Section | None = None
    for number, block in enumerate(measured.document.blocks):
        piece = measured.whole(number)
        if section is None or block.kind == "heading" or block.heading_path != section.path:
            if section is not None:
                yield section
            section = _Section(block.heading_path, [], 0)
        section.pieces.append(piece)
        section.tokens += measured.tokens(piece)
    if section is not None:
        yield section


def _merged(measured: Measured) -> Iterator[_Section]:
    """Yield sections; a small one goes with the one before where that is its parent, its sibling or a group of such."""
    small = measured.limit // _SMALL_SHARE
    current: _Section | None = None
    for section in _sections(measured):
        if current is None:
            current = section
            continue
        either_small = current.tokens < small or section.tokens < small
        if either_small and _related(current.path, section.path) and fits(measured, current.pieces + section.pieces):
            path = common_path([current.path, section.path])
            current = _Section(path, current.pieces + section.pieces, current.tokens + section.tokens)
        else:
            yield current
            current = section
    if current is not None:
        yield current


def _related(before: Path, after_it: Path) -> bool:
    shared = len(common_path([before, after_it]))
    return shared == len(before) or shared == len(before) - 1 == len(after_it) - 1


def _cut_section(measured: Measured, blocks: Sequence[Piece], overlap_tokens: int) -> list[list[Piece]]:
    chunks: list[list[Piece]] = []
    room = Room(measured)

    def next_room(first: Piece) -> Room:
        chunks.append(room.pieces)
        return after(measured, room.pieces, first, overlap_tokens)

    for block in blocks:
        kept_whole = measured.kind(block) in _KEPT_WHOLE and fits(measured, (block,))
        parts = [block] if kept_whole else list(small_enough(measured, measured.sentences(block)))
        # A paragraph that fits elsewhere isn't cut to fill a chunk that is half full already.
        may_end = bool(room.pieces) and (kept_whole or room.tokens * _HALF >= measured.limit)
        if may_end and not room.fits((block,)) and fits(measured, (block,)):
            room = next_room(block)
        for part in parts:
            if room.pieces and not room.fits((part,)):
                room = next_room(part)
            room.add((part,))
    if room.pieces:
        chunks.append(room.pieces)
    return chunks

"""A document cut into chunks, the way that its collection says."""

from collections.abc import Sequence

from services.rag.chunking.counting import TokenCounter
from services.rag.chunking.fixed import cut_fixed
from services.rag.chunking.heading import common_path, cut_by_headings
from services.rag.chunking.pieces import Measured, Piece
from services.rag.chunking.semantic import Embed, cut_by_meaning
from services.rag.chunking.sentence import cut_sentences
from services.rag.documents import Chunk, Document
from services.rag.library import ChunkOptions

_TITLE_CHARACTERS = 60
_CONTEXT_CHARACTERS = 160
_BETWEEN_HEADINGS = " > "


def chunk(document: Document, options: ChunkOptions, counter: TokenCounter, embed: Embed | None = None) -> list[Chunk]:
    """Return a document's chunks in their order.

    None is above `options.tokens` by the counter; each character of the blocks, white space apart, is in one at
    least; the same document gives the same chunks. `page` is that of the first character, and so is `heading_path`;
    by headings it is what all of the chunk stands under.

    Args:
        embed: for semantic chunks; `(n_texts, dimensions)` float32, L2-normalised.

    Raises:
        ValueError: semantic chunks without `embed`.
    """
    measured = Measured(document, counter, options.tokens)
    cuts = [part for pieces in _cut(measured, options, embed) for part in _within(measured, pieces, options.tokens)]
    chunks: list[Chunk] = []
    for text, tokens, pieces in cuts:
        if text.strip():
            paths = [measured.path(piece) for piece in pieces]
            path = common_path(paths) if options.chunker == "heading" else paths[0]
            page = document.blocks[pieces[0].block].page
            chunks.append(Chunk(len(chunks), text, context_of(document.title, path), tokens, page, path))
    return chunks


def context_of(title: str, path: Sequence[str]) -> str:
    """Return title and headings in one line, short enough to leave the chunk its room; the nearest headings stay."""
    names = [_shortened(name) for name in (title, *path) if name]
    if len(names) > 1 and names[0] == names[1]:
        names = names[1:]
    while len(names) > 2 and len(_BETWEEN_HEADINGS.join(names)) > _CONTEXT_CHARACTERS:
        names = [names[0], *names[2:]]
    return _BETWEEN_HEADINGS.join(names)


def _shortened(name: str) -> str:
    line = " ".join(name.split())
    return line if len(line) <= _TITLE_CHARACTERS else line[: _TITLE_CHARACTERS - 1].rstrip() + "…"


def _cut(measured: Measured, options: ChunkOptions, embed: Embed | None) -> list[list[Piece]]:
    if options.chunker == "fixed":
        return cut_fixed(measured, options.overlap_tokens)
    if options.chunker == "sentence":
        return cut_sentences(measured, options.overlap_tokens)
    if options.chunker == "heading":
        return cut_by_headings(measured, options.overlap_tokens)
    if embed is None:
        raise ValueError("semantic chunks need the embedding model: give embed, or choose heading")
    return cut_by_meaning(measured, options.overlap_tokens, embed)


def _within(measured: Measured, pieces: list[Piece], limit: int) -> list[tuple[str, int, list[Piece]]]:
    """Return the text of pieces and its tokens; counted anew, and halved, where sums may be wrong."""
    text = measured.text(pieces)
    if measured.counter.additive and not any(map(measured.is_split, pieces)):
        return [(text, sum(map(measured.tokens, pieces)), pieces)]
    (tokens,) = measured.counter.count([text])
    words = [word for piece in pieces for word in measured.words(piece)] if tokens > limit else []
    if len(words) <= 1:
        return [(text, tokens, pieces)]
    middle = len(words) // 2
    return [*_within(measured, words[:middle], limit), *_within(measured, words[middle:], limit)]

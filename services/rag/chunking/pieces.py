"""A document measured: where it can be cut, what each piece costs, and pieces put together as chunks."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from services.rag.chunking.counting import TokenCounter, Words
from services.rag.chunking.sentences import sentence_starts
from services.rag.documents import BlockKind, Document

# A long word can be one unknown token to a tokenizer (BERT: over 100 letters), and white space none: without a bound
# by characters too, a file of such would be one chunk.
CHARACTERS_PER_TOKEN = 16
BETWEEN_BLOCKS = "\n\n"
# What a tokenizer whose words don't add up may put on top of their sum: most count a space before the first.
_SLACK = 2


@dataclass(frozen=True)
class Piece:
    """A run of words of one block, `words[begin:end]`."""

    block: int
    begin: int
    end: int


@dataclass(frozen=True)
class _Measured:
    text: str
    starts: Sequence[int]  # of its words; 0 first, the text's length last
    tokens: Sequence[int]  # before each word, those of the whole last
    split: bool  # a word of it was too long and was cut


class Measured:
    """A document's blocks with their words counted once; everything else is sums.

    No word is above the limit: those that were are cut.

    Args:
        limit: tokens of a chunk. `limit` of what comes out is what sums may reach.
    """

    def __init__(self, document: Document, counter: TokenCounter, limit: int) -> None:
        self.document = document
        self.counter = counter
        self.limit = limit if counter.additive else limit - _SLACK
        words = counter.words([block.text for block in document.blocks])
        # A word alone may have more tokens than within its text, too; half of the limit leaves room for them.
        most = limit if counter.additive else limit // 2
        self._blocks = [
            _measured(block.text, each, counter, most) for block, each in zip(document.blocks, words, strict=True)
        ]

    def kind(self, piece: Piece) -> BlockKind:
        """Return the kind of the block that it is of."""
        return self.document.blocks[piece.block].kind

    def path(self, piece: Piece) -> tuple[str, ...]:
        """Return the headings above it."""
        return self.document.blocks[piece.block].heading_path

    def tokens(self, piece: Piece) -> int:
        """Return its tokens."""
        tokens = self._blocks[piece.block].tokens
        return tokens[piece.end] - tokens[piece.begin]

    def characters(self, piece: Piece) -> int:
        """Return its length, with what stands between it and the next."""
        starts = self._blocks[piece.block].starts
        return starts[piece.end] - starts[piece.begin]

    def whole(self, block: int) -> Piece:
        """Return a whole block."""
        return Piece(block, 0, len(self._blocks[block].starts) - 1)

    def is_split(self, piece: Piece) -> bool:
        """Say whether a word of its block was cut, so that sums may be wrong."""
        return self._blocks[piece.block].split

    def words(self, piece: Piece) -> Iterator[Piece]:
        """Yield it word by word."""
        return (Piece(piece.block, at, at + 1) for at in range(piece.begin, piece.end))

    def sentences(self, piece: Piece) -> list[Piece]:
        """Return it by sentences; code and tables by lines."""
        text = self.text_of(piece)
        starts = sentence_starts(text) if self.kind(piece) in ("text", "heading") else _line_starts(text)
        return self._cut(piece, starts)

    def text_of(self, piece: Piece) -> str:
        """Return its text as it stands in the block."""
        block = self._blocks[piece.block]
        return block.text[block.starts[piece.begin] : block.starts[piece.end]]

    def _cut(self, piece: Piece, starts: Sequence[int]) -> list[Piece]:
        words = self._blocks[piece.block].starts
        base = words[piece.begin]
        edges = [bisect_left(words, base + start, piece.begin, piece.end) for start in starts]
        return [Piece(piece.block, begin, end) for begin, end in pairwise([*edges, piece.end]) if begin < end]

    def running_sums(self) -> tuple[list[int], list[int]]:
        """Return tokens and characters before each word of the document, and of all at the end."""
        tokens, characters = [0], [0]
        for block in self._blocks:
            before_tokens, before_characters = tokens[-1], characters[-1]
            tokens += [before_tokens + each for each in block.tokens[1:]]
            characters += [before_characters + each for each in block.starts[1:]]
        return tokens, characters

    def text(self, pieces: Iterable[Piece]) -> str:
        """Return the text of pieces in their order; blocks stand apart by an empty line."""
        return BETWEEN_BLOCKS.join(self._trimmed(run) for run in join(pieces))

    def _trimmed(self, run: Piece) -> str:
        text = self.text_of(run)
        # The first line of code keeps its indentation.
        return text.strip("\n").rstrip() if self.kind(run) == "code" else text.strip()


def join(pieces: Iterable[Piece]) -> list[Piece]:
    """Return the pieces with those that follow one another in a block made one."""
    runs: list[Piece] = []
    for piece in pieces:
        if runs and runs[-1].block == piece.block and runs[-1].end == piece.begin:
            runs[-1] = Piece(piece.block, runs[-1].begin, piece.end)
        else:
            runs.append(piece)
    return runs


class Room:
    """What a chunk has taken, and whether more goes in."""

    def __init__(self, measured: Measured) -> None:
        self.pieces: list[Piece] = []
        self.tokens = 0
        self._characters = 0
        self._measured = measured

    def fits(self, pieces: Iterable[Piece]) -> bool:
        """Say whether pieces fit on top of what is in."""
        tokens, characters = self.tokens, self._characters
        limit = self._measured.limit
        for piece in pieces:
            tokens += self._measured.tokens(piece)
            characters += self._measured.characters(piece)
            if tokens > limit or characters > limit * CHARACTERS_PER_TOKEN:
                return False
        return True

    def add(self, pieces: Iterable[Piece]) -> None:
        """Take pieces in."""
        for piece in pieces:
            self.pieces.append(piece)
            self.tokens += self._measured.tokens(piece)
            self._characters += self._measured.characters(piece)


def fits(measured: Measured, pieces: Iterable[Piece]) -> bool:
    """Say whether pieces fit into one chunk."""
    return Room(measured).fits(pieces)


def small_enough(measured: Measured, pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Yield the pieces, those that fit into no chunk word by word."""
    for piece in pieces:
        if fits(measured, (piece,)):
            yield piece
        else:
            yield from measured.words(piece)


def pack(measured: Measured, pieces: Sequence[Piece], overlap_tokens: int) -> list[list[Piece]]:
    """Return the pieces in chunks, each as full as whole pieces make it.

    Each chunk after the first begins with as many of the last pieces of the one before as have `overlap_tokens`
    together at most, and leave room for what is new.
    """
    chunks: list[list[Piece]] = []
    room = Room(measured)
    for piece in pieces:
        if room.pieces and not room.fits((piece,)):
            chunks.append(room.pieces)
            room = after(measured, room.pieces, piece, overlap_tokens)
        room.add((piece,))
    if room.pieces:
        chunks.append(room.pieces)
    return chunks


def after(measured: Measured, before: Sequence[Piece], first: Piece, overlap_tokens: int) -> Room:
    """Return the room of the next chunk, with what it repeats of the one before."""
    repeated = tail(measured, before, overlap_tokens)
    while repeated and not fits(measured, [*repeated, first]):
        repeated = repeated[1:]
    room = Room(measured)
    room.add(repeated)
    return room


def tail(measured: Measured, pieces: Sequence[Piece], most_tokens: int) -> list[Piece]:
    """Return the last pieces that have `most_tokens` together at most; never all of them."""
    tokens = 0
    for at in range(len(pieces) - 1, 0, -1):
        tokens += measured.tokens(pieces[at])
        if tokens > most_tokens:
            return list(pieces[at + 1 :])
    return list(pieces[1:])


def _line_starts(text: str) -> list[int]:
    starts = [0]
    at = text.find("\n")
    while at >= 0 and at + 1 < len(text):
        starts.append(at + 1)
        at = text.find("\n", at + 1)
    return starts


def _measured(text: str, words: Words, counter: TokenCounter, limit: int) -> _Measured:
    """Return a block with its words; the first begins at 0, and those above the limit are cut."""
    starts = [0, *words.starts[1:], len(text)]
    tokens = list(words.tokens) if words.starts else [0, 0]
    most = limit * CHARACTERS_PER_TOKEN
    if all(after - before <= limit for before, after in pairwise(tokens)) and all(
        after - before <= most for before, after in pairwise(starts)
    ):
        return _Measured(text, starts, tokens, split=False)
    cut_starts, cut_tokens = [0], [0]
    for at in range(len(starts) - 1):
        parts: Iterable[tuple[int, int]]
        if tokens[at + 1] - tokens[at] <= limit and starts[at + 1] - starts[at] <= most:
            parts = ((starts[at + 1], tokens[at + 1] - tokens[at]),)
        else:
            parts = _parts(text, starts[at], starts[at + 1], counter, limit)
        for end, cost in parts:
            cut_starts.append(end)
            cut_tokens.append(cut_tokens[-1] + cost)
    return _Measured(text, cut_starts, cut_tokens, split=True)


def _parts(text: str, begin: int, end: int, counter: TokenCounter, limit: int) -> Iterator[tuple[int, int]]:
    """Yield the end and the tokens of each part of a word that is too long; halves what is still too long."""
    step = limit * CHARACTERS_PER_TOKEN
    edges = [*range(begin, end, step), end]
    spans = list(pairwise(edges))[::-1]
    costs = counter.count([text[a:b] for a, b in spans])
    waiting = list(zip(spans, costs, strict=True))
    while waiting:
        (a, b), cost = waiting.pop()
        if cost <= limit or b - a == 1:
            yield b, cost
            continue
        middle = (a + b) // 2
        left, right = counter.count([text[a:middle], text[middle:b]])
        waiting += (((middle, b), right), ((a, middle), left))

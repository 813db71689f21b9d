"""What a reading process does: one file after another, each to chunks. The other end is services/rag/reading.py.

Frames of MessagePack go over standard input and output, typed, so that a process that a file has taken over can't make
its parent build anything but these. The process ends when its input does, and with its parent.
"""

import contextlib
import ctypes
import dataclasses
import logging
import os
import resource
import signal
import struct
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
import numpy.typing as npt

from services.rag.chunking import Embed, TokenCounter, chunk, tokenizer_counter
from services.rag.documents import Chunk
from services.rag.library import ChunkOptions
from services.rag.loading import Limits, LoadCode, LoadError, load

HEADER = struct.Struct(">Q")
NO_MEMORY = 77
"""What the process exits with when a file needs more memory than it may take."""
_CHUNKS_PER_FRAME = 500
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38


@dataclass(frozen=True)
class Cut:
    """What reading a file gives: the document's facts and its chunks.

    Args:
        characters: of its text, before it was cut.
        pages: of a PDF; None where the format has none.
    """

    title: str
    media_type: str
    characters: int
    pages: int | None
    metadata: Mapping[str, str | int | float] = field(default_factory=dict)
    chunks: tuple[Chunk, ...] = ()

    @property
    def tokens(self) -> int:
        """The tokens of all chunks, what overlaps counted twice."""
        return sum(each.tokens for each in self.chunks)


def read_and_cut(
    path: Path,
    name: str,
    options: ChunkOptions,
    limits: Limits,
    counter: TokenCounter | None = None,
    embed: Embed | None = None,
) -> Cut:
    """Return a file's chunks; takes as long as it takes, so call it where nobody waits: see `Readers`.

    Args:
        counter: of the embedding model's tokens; None for the default model's.

    Raises:
        LoadError
    """
    document = load(path, name, limits)
    chunks = chunk(document, options, counter or tokenizer_counter(), embed)
    if not chunks:
        raise LoadError("empty", f"{name!r} has no text in it; leave it out, or check how it was written")
    pages = document.metadata.get("pages") if document.media_type == "application/pdf" else None
    return Cut(
        document.title,
        document.media_type,
        document.characters,
        int(pages) if pages is not None else None,
        document.metadata,
        tuple(chunks),
    )


class Start(msgspec.Struct, tag=True):
    """To the process, once: the limits, and the tokenizer's file."""

    limits: Limits
    tokenizer: str | None


class Read(msgspec.Struct, tag=True):
    """To the process: a file to read."""

    path: str
    name: str
    options: ChunkOptions


class Vectors(msgspec.Struct, tag=True):
    """To the process: the answer to `Embed`; `(rows, …)` float32, row by row."""

    rows: int
    values: bytes


class Ready(msgspec.Struct, tag=True):
    """From the process: it has started."""


class Some(msgspec.Struct, tag=True):
    """From the process: some of the file's chunks; many come in several frames, so that none takes long to decode."""

    chunks: tuple[Chunk, ...]


class Done(msgspec.Struct, tag=True):
    """From the process: the file's facts, after its chunks."""

    cut: Cut


class Refused(msgspec.Struct, tag=True):
    """From the process: the file can't be read."""

    code: LoadCode
    message: str


class ToEmbed(msgspec.Struct, tag=True):
    """From the process: texts whose vectors it needs to go on."""

    texts: list[str]


Asked = Start | Read | Vectors
Answered = Ready | Some | Done | Refused | ToEmbed


def main() -> None:
    """Read files until the input ends."""
    # Whatever a library prints must not land among the frames.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    channel = _Channel(sys.stdin.buffer, answers)
    start = channel.receive()
    if not isinstance(start, Start):
        return
    _confine(start.limits)
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    counter = tokenizer_counter(Path(start.tokenizer) if start.tokenizer else None)
    channel.send(Ready())
    while isinstance(read := channel.receive(), Read):
        _answer(channel, read, start.limits, counter)


def _answer(channel: "_Channel", read: Read, limits: Limits, counter: TokenCounter) -> None:
    try:
        cut = read_and_cut(Path(read.path), read.name, read.options, limits, counter, partial(_embedded, channel))
    except LoadError as error:
        channel.send(Refused(error.code, error.message))
        return
    except MemoryError:
        # What is left of this process is not to be trusted; the parent tells of the file.
        os._exit(NO_MEMORY)
    for at in range(0, len(cut.chunks), _CHUNKS_PER_FRAME):
        channel.send(Some(cut.chunks[at : at + _CHUNKS_PER_FRAME]))
    channel.send(Done(dataclasses.replace(cut, chunks=())))


def _embedded(channel: "_Channel", texts: Sequence[str]) -> npt.NDArray[np.float32]:
    channel.send(ToEmbed(list(texts)))
    vectors = channel.receive()
    if not isinstance(vectors, Vectors):
        raise SystemExit(0)
    return np.frombuffer(vectors.values, np.float32).reshape(vectors.rows, -1)


class _Channel:
    """Frames: eight bytes of length, then MessagePack."""

    def __init__(self, source: BinaryIO, target: BinaryIO) -> None:
        self._source = source
        self._target = target
        self._decoder = msgspec.msgpack.Decoder(Asked)

    def send(self, message: Answered) -> None:
        body = msgspec.msgpack.encode(message)
        self._target.write(HEADER.pack(len(body)) + body)
        self._target.flush()

    def receive(self) -> Asked | None:
        """Return the next message; None when the input has ended."""
        header = self._source.read(HEADER.size)
        if len(header) < HEADER.size:
            return None
        (length,) = HEADER.unpack(header)
        message: Asked = self._decoder.decode(self._source.read(length))
        return message


def _confine(limits: Limits) -> None:
    """Bound this process: its memory, its life by its parent's, its rights; it goes first when memory is short."""
    resource.setrlimit(resource.RLIMIT_AS, (limits.max_memory_bytes, limits.max_memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        prctl = ctypes.CDLL(None).prctl
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("500")
    # A terminal's Ctrl-C is for the parent, which ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    main()

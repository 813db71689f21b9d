"""A reading process: one file after another, each to chunks. It ends when its input does, and with its parent."""

import contextlib
import ctypes
import dataclasses
import logging
import os
import resource
import signal
import sys
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np
import numpy.typing as npt

from services.rag.chunking import TokenCounter, tokenizer_counter
from services.rag.loading import Limits, LoadError
from services.rag.reading.cutting import read_and_cut
from services.rag.reading.frames import (
    HEADER,
    NO_MEMORY,
    Answered,
    Asked,
    Done,
    Read,
    Ready,
    Refused,
    Some,
    Start,
    ToEmbed,
    Vectors,
)

_CHUNKS_PER_FRAME = 500
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38


def main() -> None:
    """Read files until the input ends."""
    # Whatever a library prints must not land among the frames.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    channel = Channel(sys.stdin.buffer, answers)
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


def _answer(channel: "Channel", read: Read, limits: Limits, counter: TokenCounter) -> None:
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


def _embedded(channel: "Channel", texts: Sequence[str]) -> npt.NDArray[np.float32]:
    channel.send(ToEmbed(list(texts)))
    vectors = channel.receive()
    if not isinstance(vectors, Vectors):
        raise SystemExit(0)
    return np.frombuffer(vectors.values, np.float32).reshape(vectors.rows, -1)


class Channel:
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

"""The process that holds Qdrant's engine: requests on standard input, answers on standard output, one after another.

The engine's Python binding holds the interpreter's lock during every call, for minutes while it optimizes; in the
service's own process each call would stop every other request. Here it stops none; optimizing has a process of its
own (edge_optimizing.py). A message is its length in 4 bytes and MessagePack: `[method, arguments]`, answered by
`[true, result]` or `[false, message]`. The first answer, unasked, tells whether the folder could be taken.

Every write is in the engine's log when it is answered, so that a killed process loses none; it is on disk
(fsync) at most a second later. The process ends when its standard input does.
"""

import os
import select
import signal
import struct
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from services.rag.vectors import VectorStoreError
from services.rag.vectors.edge_shards import Shards

_FLUSH_AFTER_S = 1.0
_METHODS = frozenset(
    {"create", "drop", "names", "spec", "upsert", "delete", "count", "search", "fetch", "flush", "record", "swap"}
)


def main() -> None:
    """Serve the folder of the first argument; collections up to the second in bytes are searched exactly."""
    # Ctrl-C goes to the whole group of processes; this one ends after the one that it serves.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    answers = os.dup(1)
    os.dup2(2, 1)  # whatever else prints must not get between the messages
    try:
        shards = Shards(Path(sys.argv[1]), int(sys.argv[2]))
    except VectorStoreError as error:
        _write(answers, [False, str(error)])
        return
    _write(answers, [True, None])
    _serve(shards, answers)
    shards.close()


def _serve(shards: Shards, answers: int) -> None:
    flush_at: float | None = None
    while True:
        if flush_at is not None and (time.monotonic() >= flush_at or not _waiting(flush_at - time.monotonic())):
            _answer(shards, "flush", [])
            flush_at = None
            continue
        request = _read(0)
        if request is None:
            return
        try:
            _write(answers, _answer(shards, *msgspec.msgpack.decode(request)))
        except BrokenPipeError:
            return
        if flush_at is None and shards.unflushed:
            flush_at = time.monotonic() + _FLUSH_AFTER_S


def _answer(shards: Shards, method: str, arguments: list[Any]) -> list[Any]:
    if method not in _METHODS:
        return [False, f"the vector engine's process knows no {method!r}"]
    try:
        return [True, getattr(shards, method)(*arguments)]
    except VectorStoreError as error:
        return [False, str(error)]
    except Exception as error:  # a request that the engine's types refuse must not end the process for all others
        return [False, f"the vector engine refused to {method}: {error}"]


def _waiting(timeout_s: float) -> bool:
    return bool(select.select([0], [], [], max(0.0, timeout_s))[0])


def _read(source: int) -> bytes | None:
    head = _exactly(source, 4)
    return None if head is None else _exactly(source, struct.unpack("<I", head)[0])


def _exactly(source: int, size: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < size:
        part = os.read(source, size - len(parts))
        if not part:
            return None
        parts += part
    return bytes(parts)


def _write(target: int, message: list[Any]) -> None:
    body = msgspec.msgpack.encode(message)
    data = memoryview(struct.pack("<I", len(body)) + body)
    while data:
        data = data[os.write(target, data) :]


if __name__ == "__main__":
    main()

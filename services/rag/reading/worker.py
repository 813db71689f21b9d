"""The service's end of one reading process."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from services.rag.documents import Chunk
from services.rag.loading import Limits, LoadError
from services.rag.reading.cutting import Cut
from services.rag.reading.frames import (
    HEADER,
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

AsyncEmbed = Callable[[Sequence[str]], Awaitable[npt.NDArray[np.float32]]]

_ROOT = Path(__file__).parents[3]
_START_S = 60.0
_END_S = 5.0
_SETTLE_S = 2.0
_FRAME_BYTES = 1 << 28
# What such a process needs of the environment; the service's keys stay out of it.
_PASSED_ON = ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "SYSTEMROOT")


class ReadersBroken(Exception):
    """No reading process can be started; the message says why. No file is at fault."""


class Lost(Exception):
    """The process has ended, or says what it must not."""


class TookTooLong(Exception):
    """The time for a file is over."""


class Worker:
    """One reading process, and the way to it."""

    def __init__(self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader) -> None:
        self.files = 0
        self._process = process
        self._reader = reader
        self._decoder = msgspec.msgpack.Decoder(Answered)
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    async def start(cls, limits: Limits, tokenizer: Path | None) -> "Worker":
        """Return a process that is ready.

        Raises:
            ReadersBroken
        """
        environment = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        # One file, one core: the pool is what uses the others.
        environment |= {"PYTHONPATH": os.pathsep.join([str(_ROOT), *sys.path]), "TOKENIZERS_PARALLELISM": "false"}
        environment |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "services.rag.reading.child",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment,
            limit=1 << 20,
        )
        assert process.stdout is not None
        started = cls(process, process.stdout)
        try:
            await started._send(Start(limits, str(tokenizer) if tokenizer else None))
            ready = await asyncio.wait_for(started._receive(), _START_S)
        except (Lost, TimeoutError) as error:
            await started.kill()
            raise ReadersBroken(
                "the process that reads files doesn't start; its message is in this service's log. Check that the "
                "tokenizer is there and that RAG_READER_MEMORY_MB leaves it room"
            ) from error
        except BaseException:
            await started.kill()
            raise
        assert isinstance(ready, Ready)
        return started

    @property
    def exit_code(self) -> int | None:
        """Minus the signal, where it was one; None while it runs."""
        return self._process.returncode

    async def read(self, request: Read, embed: AsyncEmbed | None, timeout_s: float) -> Cut:
        """Return what the process makes of a file.

        Raises:
            LoadError, TookTooLong, Lost: and whatever `embed` raises.
        """
        self.files += 1
        clock = asyncio.get_running_loop().time
        left = timeout_s
        chunks: list[Chunk] = []
        await self._send(request)
        while True:
            began = clock()
            try:
                answer = await asyncio.wait_for(self._receive(), left)
            except TimeoutError as error:
                raise TookTooLong from error
            left -= clock() - began
            if isinstance(answer, Some):
                chunks += answer.chunks
            elif isinstance(answer, Done):
                return replace(answer.cut, chunks=tuple(chunks))
            elif isinstance(answer, Refused):
                raise LoadError(answer.code, answer.message)
            elif isinstance(answer, ToEmbed) and embed is not None:
                vectors = np.ascontiguousarray(await embed(answer.texts), np.float32)
                await self._send(Vectors(len(vectors), vectors.tobytes()))
            else:
                raise Lost

    def wait_for_work(self, idle_s: float, end: Callable[[], Any]) -> None:
        """Call `end` when no work came for so long."""
        self._timer = asyncio.get_running_loop().call_later(idle_s, end)

    def rest(self) -> bool:
        """Stop the clock of idleness; say whether the process is still there."""
        if self._timer is not None:
            self._timer.cancel()
        return self._process.returncode is None

    async def end(self) -> None:
        """Let the process end: its input does."""
        self.rest()
        try:
            if self._process.stdin is not None:
                self._process.stdin.close()
            await asyncio.wait_for(self._process.wait(), _END_S)
        except TimeoutError:
            await self.kill()

    async def settle(self) -> None:
        """See a process off that has closed its output: it is about to exit, and says why by its code."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), _SETTLE_S)
        await self.kill()

    async def kill(self) -> None:
        """End the process now, and wait until it has gone."""
        self.rest()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        if self._process.stdin is not None:
            self._process.stdin.close()
        await self._process.wait()

    async def _send(self, message: Asked) -> None:
        body = msgspec.msgpack.encode(message)
        assert self._process.stdin is not None
        self._process.stdin.write(HEADER.pack(len(body)) + body)
        try:
            await self._process.stdin.drain()
        except ConnectionError as error:
            raise Lost from error

    async def _receive(self) -> Answered:
        try:
            (length,) = HEADER.unpack(await self._reader.readexactly(HEADER.size))
            if length > _FRAME_BYTES:
                raise Lost
            message: Answered = self._decoder.decode(await self._reader.readexactly(length))
        except (EOFError, ConnectionError, msgspec.MsgspecError) as error:
            raise Lost from error
        return message

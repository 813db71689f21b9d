"""Files to chunks in processes of their own, so that no file can hold up, crash or fill the memory of the service.

A process reads one file at a time and many after one another. It is started when there is a file, ended when it has
had none for a while, and killed with the file that takes too long.
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from services.rag.documents import Chunk
from services.rag.library import ChunkOptions
from services.rag.loading import Limits, LoadError, clean_name
from services.rag.reading_process import (
    HEADER,
    NO_MEMORY,
    Answered,
    Asked,
    Cut,
    Done,
    Read,
    Ready,
    Refused,
    Some,
    Start,
    ToEmbed,
    Vectors,
    read_and_cut,
)
from services.rag.settings import RagSettings

__all__ = ["Cut", "Readers", "ReadersBroken", "read_and_cut"]

AsyncEmbed = Callable[[Sequence[str]], Awaitable[npt.NDArray[np.float32]]]

_ROOT = Path(__file__).parents[2]
_START_S = 60.0
_END_S = 5.0
_SETTLE_S = 2.0
_FRAME_BYTES = 1 << 28
# What such a process needs of the environment; the service's keys stay out of it.
_PASSED_ON = ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "SYSTEMROOT")


class ReadersBroken(Exception):
    """No reading process can be started; the message says why. No file is at fault."""


class Readers:
    """A pool of reading processes.

    Args:
        workers: processes at a time; 0 for half of the cores, at least 1.
        tokenizer: `tokenizer.json` of the embedding model; None for the default model's.
        idle_s: a process ends when it has had no file for so long.
    """

    def __init__(self, limits: Limits, *, workers: int = 0, tokenizer: Path | None = None, idle_s: float = 60) -> None:
        self.workers = workers or max(1, (os.cpu_count() or 1) // 2)
        self._limits = limits
        self._tokenizer = tokenizer
        self._idle_s = idle_s
        self._places = asyncio.Semaphore(self.workers)
        self._idle: list[_Process] = []
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False

    @classmethod
    def of(cls, settings: RagSettings, tokenizer: Path | None = None) -> "Readers":
        """Return the pool that the settings describe."""
        return cls(Limits.of(settings), workers=settings.ingest_workers, tokenizer=tokenizer)

    async def __aenter__(self) -> "Readers":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def read(self, path: Path, name: str, options: ChunkOptions, embed: AsyncEmbed | None = None) -> Cut:
        """Return a file's facts and chunks, when a process is free and has read it.

        A process that had read other files before may have been worn out by them; where it crashes, a fresh one tries
        once more.

        Args:
            embed: for semantic chunks; its time isn't counted.

        Raises:
            LoadError: whatever is wrong with the file; `crashed` and `timed_out` among its codes.
            ReadersBroken
        """
        name = clean_name(name)
        if options.chunker == "semantic" and embed is None:
            raise ValueError("semantic chunks need the embedding model: give embed, or choose heading")
        async with self._places:
            try:
                return await self._read_once(path, name, options, embed, fresh=False)
            except _WornOut:
                return await self._read_once(path, name, options, embed, fresh=True)

    async def _read_once(
        self, path: Path, name: str, options: ChunkOptions, embed: AsyncEmbed | None, *, fresh: bool
    ) -> Cut:
        process = await self._take(fresh=fresh)
        request = _request(path, name, options)
        try:
            cut = await process.read(request, embed, self._limits.timeout_s)
        except LoadError:
            self._give_back(process)
            raise
        except TimeoutError as error:
            await process.kill()
            raise LoadError(
                "timed_out",
                f"{name!r} took longer than {self._limits.timeout_s:g} s to read and was given up; split it, or raise "
                "RAG_FILE_TIMEOUT_S",
            ) from error
        except (EOFError, ConnectionError, msgspec.MsgspecError) as error:
            worn = process.files > 1
            await process.settle()
            if worn:
                raise _WornOut from error
            raise LoadError("crashed", self._crash(name, process)) from error
        except BaseException:
            # The caller left, or embedding failed: the process is in the middle of a file that nobody wants.
            await process.kill()
            raise
        self._give_back(process)
        return cut

    async def close(self) -> None:
        """End all processes; files in work are the callers' to cancel, and their processes end after them."""
        self._closed = True
        for process in self._idle:
            self._retire(process)
        self._idle.clear()
        await asyncio.gather(*self._ending)

    async def _take(self, *, fresh: bool) -> "_Process":
        while self._idle and not fresh:
            process = self._idle.pop()
            if process.rest():
                return process
            await process.kill()
        return await _Process.start(self._limits, self._tokenizer)

    def _give_back(self, process: "_Process") -> None:
        if self._closed:
            self._retire(process)
            return
        self._idle.append(process)
        process.wait_for_work(self._idle_s, lambda: self._end_idle(process))

    def _end_idle(self, process: "_Process") -> None:
        if process in self._idle:
            self._idle.remove(process)
            self._retire(process)

    def _retire(self, process: "_Process") -> None:
        task = asyncio.get_running_loop().create_task(process.end())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def _crash(self, name: str, process: "_Process") -> str:
        code = process.exit_code or 0
        memory = f"{self._limits.max_memory_bytes / 1e6:,.0f} MB of memory"
        if code == NO_MEMORY:
            return f"{name!r} needs more than the {memory} that it may take; split it, or raise RAG_READER_MEMORY_MB"
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        return (
            f"the process that read {name!r} {how}; the file may be broken or need more than {memory}: save it anew, "
            "split it, or raise RAG_READER_MEMORY_MB"
        )


def _request(path: Path, name: str, options: ChunkOptions) -> Read:
    return Read(str(path.absolute()), name, options)


class _WornOut(Exception):
    """A process crashed that had read other files before."""


class _Process:
    """One reading process, and the way to it."""

    def __init__(self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader) -> None:
        self.files = 0
        self._process = process
        self._reader = reader
        self._decoder = msgspec.msgpack.Decoder(Answered)
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    async def start(cls, limits: Limits, tokenizer: Path | None) -> "_Process":
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
            "services.rag.reading_process",
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
        except (EOFError, OSError, TimeoutError) as error:
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
            LoadError, TimeoutError, EOFError: EOFError where it ended.
        """
        self.files += 1
        clock = asyncio.get_running_loop().time
        left = timeout_s
        chunks: list[Chunk] = []
        await self._send(request)
        while True:
            began = clock()
            answer = await asyncio.wait_for(self._receive(), left)
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
                raise EOFError

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
        await self._process.stdin.drain()

    async def _receive(self) -> Answered:
        (length,) = HEADER.unpack(await self._reader.readexactly(HEADER.size))
        if length > _FRAME_BYTES:
            raise EOFError
        message: Answered = self._decoder.decode(await self._reader.readexactly(length))
        return message

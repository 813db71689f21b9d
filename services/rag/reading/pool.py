"""Files to chunks in processes of their own, so that no file can hold up, crash or fill the memory of the service.

A process reads one file at a time and many after one another. It is started when there is a file, ended when it has
had none for a while, and killed with the file that takes too long.
"""

import asyncio
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from services.rag.library import ChunkOptions
from services.rag.loading import Limits, LoadError, clean_name
from services.rag.reading.cutting import Cut
from services.rag.reading.frames import NO_MEMORY, Read
from services.rag.reading.worker import AsyncEmbed, Lost, TookTooLong, Worker

if TYPE_CHECKING:
    from services.rag.settings import RagSettings


class Readers:
    """A pool of reading processes.

    Args:
        workers: processes at a time, which is the pool's `size`; 0 for half of the cores, at least 1.
        tokenizer: `tokenizer.json` of the embedding model; None for the default model's.
        idle_s: a process ends when it has had no file for so long.
    """

    def __init__(self, limits: Limits, *, workers: int = 0, tokenizer: Path | None = None, idle_s: float = 60) -> None:
        self.size = workers or max(1, (os.cpu_count() or 1) // 2)
        self._limits = limits
        self._tokenizer = tokenizer
        self._idle_s = idle_s
        self._places = asyncio.Semaphore(self.size)
        self._idle: list[Worker] = []
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False

    @classmethod
    def of(cls, settings: "RagSettings", tokenizer: Path | None = None) -> "Readers":
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
        except TookTooLong as error:
            await process.kill()
            raise LoadError(
                "timed_out",
                f"{name!r} took longer than {self._limits.timeout_s:g} s to read and was given up; split it, or raise "
                "RAG_FILE_TIMEOUT_S",
            ) from error
        except Lost as error:
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

    async def _take(self, *, fresh: bool) -> Worker:
        while self._idle and not fresh:
            process = self._idle.pop()
            if process.rest():
                return process
            await process.kill()
        return await Worker.start(self._limits, self._tokenizer)

    def _give_back(self, process: Worker) -> None:
        if self._closed:
            self._retire(process)
            return
        self._idle.append(process)
        process.wait_for_work(self._idle_s, lambda: self._end_idle(process))

    def _end_idle(self, process: Worker) -> None:
        if process in self._idle:
            self._idle.remove(process)
            self._retire(process)

    def _retire(self, process: Worker) -> None:
        task = asyncio.get_running_loop().create_task(process.end())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def _crash(self, name: str, process: Worker) -> str:
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

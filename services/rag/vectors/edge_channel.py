"""The way to the process that holds Qdrant's engine: started when it is needed, asked in turn, ended with the store."""

import asyncio
import os
import struct
import sys
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

import services
from services.rag.vectors import VectorStoreError

_START_S, _ANSWER_S, _END_S = 60.0, 300.0, 30.0
_ROOT = Path(services.__file__).resolve().parents[1]


async def spawn(module: str, *arguments: str, **pipes: Any) -> asyncio.subprocess.Process:
    """Start a module of this package in a process of its own, with this interpreter."""
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments, env={**os.environ, "PYTHONPATH": path}, **pipes
    )


class EdgeChannel:
    """Requests to a host process, answered in their order. A process that has died is started again by the next."""

    def __init__(self, folder: Path, exact_bytes: int) -> None:
        self._arguments = (str(folder), str(exact_bytes))
        self._starting = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._closed = False

    async def ask(self, method: str, *arguments: Any) -> Any:
        """Return what the host answers.

        Raises:
            VectorStoreError: it refused, can't be started, or ended meanwhile.
        """
        process = await self._running()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        body = msgspec.msgpack.encode([method, arguments])
        stdin = process.stdin
        assert stdin is not None
        self._waiting.append(future)
        stdin.write(struct.pack("<I", len(body)) + body)
        try:
            with suppress(ConnectionError):  # the reader fails the future with the better sentence
                await stdin.drain()
            return await asyncio.wait_for(future, _ANSWER_S)
        except TimeoutError:
            raise VectorStoreError(
                f"the vector engine has not answered for {_ANSWER_S:.0f} s: restart the service"
            ) from None

    async def start(self) -> None:
        """Start the process, where none runs."""
        await self._running()

    async def close(self) -> None:
        """End the process, which writes everything to disk first."""
        async with self._starting:
            self._closed = True
            process, self._process = self._process, None
            if process is None:
                return
            assert process.stdin is not None
            process.stdin.close()
            try:
                await asyncio.wait_for(process.wait(), _END_S)
            except TimeoutError:
                process.kill()  # what was answered is in the log
                await process.wait()
            if self._reading is not None:
                await self._reading

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is not None:
            return self._process
        async with self._starting:
            if self._closed:
                raise VectorStoreError("the vector store is closed")
            if self._process is None:
                self._process = await self._start()
            return self._process

    async def _start(self) -> asyncio.subprocess.Process:
        pipe = asyncio.subprocess.PIPE
        process = await spawn("services.rag.vectors.edge_host", *self._arguments, stdin=pipe, stdout=pipe)
        assert process.stdout is not None
        try:
            ok, said = await asyncio.wait_for(_message(process.stdout), _START_S)
        except (TimeoutError, asyncio.IncompleteReadError):
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise VectorStoreError("the vector engine's process does not start; the service's log says why") from None
        if not ok:
            await process.wait()
            raise VectorStoreError(said)
        self._waiting = deque()
        self._reading = asyncio.create_task(self._read(process, self._waiting))
        return process

    async def _read(self, process: asyncio.subprocess.Process, waiting: deque[asyncio.Future[Any]]) -> None:
        assert process.stdout is not None
        try:
            while True:
                ok, said = await _message(process.stdout)
                future = waiting.popleft()
                if future.done():
                    continue
                if ok:
                    future.set_result(said)
                else:
                    future.set_exception(VectorStoreError(said))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        if self._process is process:
            self._process = None
        code = await process.wait()
        for future in waiting:
            if not future.done():
                future.set_exception(
                    VectorStoreError(f"the vector engine's process ended (status {code}): it starts again when asked")
                )


async def _message(source: asyncio.StreamReader) -> Any:
    (size,) = struct.unpack("<I", await source.readexactly(4))
    return msgspec.msgpack.decode(await source.readexactly(size))

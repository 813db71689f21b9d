"""Child processes that are ready when a test goes on, and gone when it ends."""

import asyncio
import contextlib
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path

import httpx
import psutil

_POLL_S = 0.01
_LAST_OUTPUT_S = 2.0


class ChildProcess:
    """A running child: its id, and its output (stdout and stderr as they come) line by line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.lines: list[str] = []
        self.match: re.Match[str] | None = None
        """The match of `ready` in the line that showed it."""
        self._process = process
        self._grew = asyncio.Event()
        self._reading = asyncio.create_task(self._read())

    @property
    def pid(self) -> int:
        """Return the process's id."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Return the exit status; None while it runs."""
        return self._process.returncode

    @property
    def output(self) -> str:
        """Return all that was written so far."""
        return "\n".join(self.lines)

    async def wait_for_line(self, pattern: str, *, timeout_s: float = 30.0) -> re.Match[str]:
        """Return the match of the first line, of those already written too, in which `pattern` is found.

        Raises:
            AssertionError: with the output, when the child ended or `timeout_s` passed before.
        """
        looked_at = 0
        with self._explained(f"no line with {pattern!r}", timeout_s):
            async with asyncio.timeout(timeout_s):
                while True:
                    for line in self.lines[looked_at:]:
                        if found := re.search(pattern, line):
                            return found
                    looked_at = len(self.lines)
                    if self._reading.done():
                        raise ProcessLookupError
                    self._grew.clear()
                    await self._grew.wait()

    async def wait_for_url(self, url: str, *, timeout_s: float = 30.0) -> None:
        """Wait until a GET of `url` answers with 200.

        Raises:
            AssertionError: with the output, when the child ended or `timeout_s` passed before.
        """
        with self._explained(f"no 200 from {url}", timeout_s):
            async with asyncio.timeout(timeout_s), httpx.AsyncClient(trust_env=False) as client:
                while True:
                    with contextlib.suppress(httpx.TransportError):
                        if (await client.get(url)).status_code == 200:
                            return
                    if self.returncode is not None:
                        raise ProcessLookupError
                    await asyncio.sleep(_POLL_S)

    async def wait(self, *, timeout_s: float = 30.0) -> int:
        """Wait until the child has ended by itself and return its exit status.

        Raises:
            AssertionError: with the output, after `timeout_s`.
        """
        with self._explained("it did not end", timeout_s):
            await self._exited(timeout_s)
        await self._close_output()
        return self._process.returncode or 0

    def send_signal(self, number: int) -> None:
        """Send a signal to the child."""
        self._process.send_signal(number)

    async def end(self, *, grace_s: float = 10.0) -> int:
        """Ask the child to end, force it after `grace_s`, and end the children that it left."""
        family = self._family()
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGCONT)  # one that a test has stopped cannot end
            self._process.terminate()
        try:
            await self._exited(grace_s)
        except TimeoutError:
            self._process.kill()
        for left in family:
            with contextlib.suppress(psutil.NoSuchProcess):  # psutil makes sure that the id is still the same process
                left.kill()
        await self._exited(grace_s)
        await self._close_output()
        return self._process.returncode or 0

    async def _exited(self, timeout_s: float) -> None:
        """Wait for the child alone: asyncio's own `wait` waits for everybody who holds its output."""
        async with asyncio.timeout(timeout_s):
            while self._process.returncode is None:
                await asyncio.sleep(_POLL_S)

    def _family(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    async def _close_output(self) -> None:
        """Read the rest; a stranger that still holds the pipe's other end must not hold us."""
        _, unfinished = await asyncio.wait([self._reading], timeout=_LAST_OUTPUT_S)
        if unfinished:
            self._process._transport.close()  # type: ignore[attr-defined]
            await self._reading

    @contextlib.contextmanager
    def _explained(self, problem: str, timeout_s: float) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        except (TimeoutError, ProcessLookupError):
            seconds = time.monotonic() - started
            end = "" if self.returncode is None else f"; it ended with status {self.returncode}"
            raise AssertionError(
                f"{problem} after {seconds:.1f} s of at most {timeout_s:.0f}{end}. Its output:\n{self.output}"
            ) from None

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.lines.append(line.decode("utf-8", "replace").rstrip("\r\n"))
            self._grew.set()
        await self._process.wait()
        self._grew.set()  # whoever waits for a line that will not come


@contextlib.asynccontextmanager
async def run_process(
    arguments: Sequence[str | os.PathLike[str]],
    *,
    ready: str | None = None,
    ready_url: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_s: float = 30.0,
) -> AsyncIterator[ChildProcess]:
    """Run a child; the body begins when it is ready, and when it is left the child is ended by its id.

    Args:
        arguments: the program and its arguments.
        ready: a regular expression; ready when a line of output has it. Its match is `child.match`.
        ready_url: an address; ready when it answers 200.
        env: added to this process's environment.
        cwd: where it runs.
        timeout_s: for being ready.

    Raises:
        AssertionError: with the child's output, when it is not ready in time.
    """
    process = await asyncio.create_subprocess_exec(
        *(os.fspath(each) for each in arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
        cwd=cwd,
        start_new_session=True,  # a Ctrl-C at the terminal is for pytest, which then ends the child
        limit=1024 * 1024,
    )
    child = ChildProcess(process)
    try:
        if ready is not None:
            child.match = await child.wait_for_line(ready, timeout_s=timeout_s)
        if ready_url is not None:
            await child.wait_for_url(ready_url, timeout_s=timeout_s)
        yield child
    finally:
        await child.end()

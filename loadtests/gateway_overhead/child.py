"""A gateway as a child process: started, waited for, ended with all that it started."""

import asyncio
import contextlib
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from loadtests.gateway_overhead import loads
from loadtests.gateway_overhead.targets import Launch, clean_environment

_STOP_S = 10.0


class GatewayError(Exception):
    """A gateway did not start or answered wrongly; the message has the end of its log."""


class Child:
    """A running gateway; its output goes to a file, as it would in service."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name = name
        self.pid = process.pid
        self._process = process
        self._log = log

    def failed(self, why: str) -> GatewayError:
        """Return the error that says why, with the last lines of the log."""
        lines = self._log.read_text(errors="replace").splitlines()[-12:]
        return GatewayError("\n".join([f"{self.name}: {why}; the end of its output:", *lines]))

    def require_alive(self) -> None:
        """Raise when the process has ended.

        Raises:
            GatewayError: with its exit status.
        """
        status = self._process.poll()
        if status is not None:
            raise self.failed(f"it ended by itself with status {status}")

    async def wait_ready(self, door: loads.Door, timeout_s: float) -> None:
        """Return when a plain answer and a stream have come through.

        Raises:
            GatewayError: it ended, or nothing right came within `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            self.require_alive()
            record = await loads.plain(door, 1, 0)
            if not record.error_count:
                record = await loads.short_streams(door, 1, 0, 2)
            if not record.error_count:
                return
            if time.monotonic() > deadline:
                raise self.failed(f"not ready after {timeout_s:.0f} s ({record.errors[0]})")
            await asyncio.sleep(0.1)

    async def stop(self) -> None:
        """End the process and everything in its process group."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)
            deadline = time.monotonic() + _STOP_S
            while self._process.poll() is None and time.monotonic() < deadline:
                await asyncio.sleep(0.05)


@asynccontextmanager
async def running(name: str, launch: Launch, folder: Path) -> AsyncIterator[Child]:
    """Run a gateway in a session of its own, in `folder`, which keeps its log."""
    log = folder / "output.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            launch.argv,
            cwd=folder,
            env=clean_environment(launch.environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    child = Child(name, process, log)
    try:
        yield child
    finally:
        await child.stop()

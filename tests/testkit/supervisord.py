"""A supervisord of one's own, as a child that runs in the foreground."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import services
from services.kit.files import write_private
from services.kit.launch import MARK
from services.kit.supervisord import ProcessState, SupervisordClient, SupervisordGone, section
from tests.testkit.server import ChildProcess, run_process

_CODE = Path(services.__file__).resolve().parents[1]


@dataclass(frozen=True)
class Supervisord:
    """One that runs, with its folders."""

    child: ChildProcess
    folder: Path

    @property
    def socket(self) -> Path:
        return self.folder / "s.sock"

    @property
    def on_demand(self) -> Path:
        """The folder whose configurations it includes."""
        return self.folder / "on-demand"

    async def call(self, method: str, *arguments: Any) -> Any:
        """Ask it, in a thread of its own."""
        return await asyncio.to_thread(SupervisordClient(self.socket, 10).call, method, *arguments)

    async def processes(self) -> dict[str, ProcessState]:
        return await asyncio.to_thread(SupervisordClient(self.socket, 10).processes)

    async def configure(self, *programs: str, include: bool = True) -> None:
        """Replace its configuration; it takes no notice by itself."""
        await asyncio.to_thread(write_configuration, self.folder, *programs, include=include)


def write_configuration(folder: Path, *programs: str, include: bool = True) -> None:
    """Write what supervisord reads: `programs` are sections."""
    sections = [
        section(
            "supervisord",
            logfile=folder / "supervisord.log",
            pidfile=folder / "supervisord.pid",
            childlogdir=folder,
            umask="077",
            nocleanup="true",
        ),
        section("unix_http_server", file=folder / "s.sock", chmod="0700"),
        section(
            "rpcinterface:supervisor",
            **{"supervisor.rpcinterface_factory": "supervisor.rpcinterface:make_main_rpcinterface"},
        ),
        *([section("include", files="on-demand/*.conf")] if include else []),
        *programs,
    ]
    write_private(folder / "supervisord.conf", "\n".join(sections))


@contextlib.asynccontextmanager
async def run_supervisord(folder: Path, *programs: str, include: bool = True) -> AsyncIterator[Supervisord]:
    """Run a supervisord whose files are in `folder`; it is ended, with what it runs, when the body is left.

    Args:
        programs: sections of its configuration.
        include: whether it includes what is written to `on-demand/`.
    """
    (folder / "on-demand").mkdir(mode=0o700, exist_ok=True)
    await asyncio.to_thread(write_configuration, folder, *programs, include=include)
    arguments = [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(folder / "supervisord.conf")]
    async with run_process(
        arguments,
        cwd=_CODE,
        env={MARK: f"{folder}:supervisord"},
        ready="supervisord started with pid",
    ) as child:
        found = Supervisord(child, folder)
        yield found
        with contextlib.suppress(SupervisordGone):
            await found.call("shutdown")
            await child.wait()

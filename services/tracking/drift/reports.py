"""Reports as HTML, made by Evidently in a process of its own: it takes seconds and hundreds of megabytes to load.

A report has numbers and names of each request, never a text. It lies beside the records and goes after some newer ones.
"""

import asyncio
import os
import re
import secrets
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import structlog

import services
from services.tracking.drift.references import Window
from services.tracking.requests import SampledRequest

LIMIT_S = 300.0
_KEPT = 20
_ROOT = str(Path(services.__file__).resolve().parents[1])
_NAME = re.compile(r"\A[0-9]{8}-[0-9]{6}-[0-9a-f]{6}\Z")
_QUIET = {"DO_NOT_TRACK": "1", "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_log = structlog.get_logger("tracking.drift")


@dataclass
class Report:
    """A report that was asked for. `status` is running, ready or failed; `error` says why it failed."""

    id: str
    at: float
    window: int
    reference: str
    status: str = "running"
    error: str = ""

    def document(self) -> dict[str, Any]:
        """Return it for JSON."""
        where = f"/v1/tracking/reports/{self.id}" if self.status == "ready" else None
        return {"object": "tracking.report", **vars(self), "url": where}


class Reports:
    """Makes one report at a time.

    Args:
        command: makes an HTML file (its last argument) of a JSON file (the one before); tests give their own.
    """

    def __init__(
        self, folder: Path, command: Sequence[str] = (sys.executable, "-m", "services.tracking.drift.child")
    ) -> None:
        self._folder = folder / "reports"
        self._command = tuple(command)
        self._asked: dict[str, Report] = {}
        self._one = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def stop(self) -> None:
        """End what is under way, its process included."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def ask(self, window: Window, requests: list[SampledRequest], reference: list[SampledRequest]) -> Report:
        """Begin a report on a window; return at once."""
        now = time.time()
        name = f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}-{secrets.token_hex(3)}"
        report = Report(name, now, window.id, window.reference)
        self._asked[name] = report
        for old in list(self._asked)[:-_KEPT]:
            del self._asked[old]
        task = asyncio.create_task(self._make(report, window, requests, reference))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return report

    @property
    def waiting(self) -> int:
        """Reports that are not finished."""
        return len(self._tasks)

    async def listed(self) -> list[Report]:
        """Return the reports that there are, the newest first; those of an earlier start by their files."""
        there = await asyncio.to_thread(self._stored)
        found = {**{each.id: each for each in there}, **self._asked}
        return [found[name] for name in sorted(found, reverse=True)]

    async def find(self, name: str) -> Report | None:
        """Return a report."""
        return next((each for each in await self.listed() if each.id == name), None)

    def path(self, name: str) -> Path:
        """Return where a report is, or will be."""
        return self._folder / f"{name}.html"

    async def _make(
        self, report: Report, window: Window, requests: list[SampledRequest], reference: list[SampledRequest]
    ) -> None:
        try:
            async with self._one:
                await asyncio.to_thread(self._write, report, window, requests, reference)
                report.error = await self._run(report)
        except OSError as error:
            report.error = f"{error.filename or self._folder}: {error.strerror or error}"
        except asyncio.CancelledError:
            report.error = "the service was stopped"
            raise
        finally:
            report.status = "failed" if report.error else "ready"
            with suppress(OSError):
                await asyncio.to_thread(self._tidy, report)
            (_log.error if report.error else _log.info)("drift.report", report=report.id, error=report.error or None)

    async def _run(self, report: Report) -> str:
        """Run the process; return why it failed, or nothing."""
        path = self.path(report.id)
        process = await asyncio.create_subprocess_exec(
            *self._command,
            str(path.with_suffix(".json")),
            str(path),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            # The project is found where it is, whatever folder the service was started in.
            env={**os.environ, **_QUIET, "PYTHONPATH": os.pathsep.join([_ROOT, os.environ.get("PYTHONPATH", "")])},
        )
        try:
            async with asyncio.timeout(LIMIT_S):
                _, said = await process.communicate()
        except TimeoutError:
            return f"it was not finished within {LIMIT_S:.0f} s; a window of fewer requests may be"
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode == 0:
            return ""
        lines = said.decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"its process ended with {process.returncode}"

    def _write(
        self, report: Report, window: Window, requests: list[SampledRequest], reference: list[SampledRequest]
    ) -> None:
        from services.tracking.drift.tabulating import rows_of

        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        mine, theirs = rows_of(requests, reference)
        document = {"window": window.document(), "current": mine, "reference": theirs}
        path = self.path(report.id).with_suffix(".json")
        path.touch(mode=0o600)
        path.write_bytes(msgspec.json.encode(document))

    def _tidy(self, report: Report) -> None:
        self.path(report.id).with_suffix(".json").unlink(missing_ok=True)
        if report.error:
            self.path(report.id).unlink(missing_ok=True)
        for old in sorted(self._folder.glob("*.html"))[:-_KEPT]:
            old.unlink(missing_ok=True)

    def _stored(self) -> list[Report]:
        names = [path.stem for path in self._folder.glob("*.html") if _NAME.match(path.stem)]
        running = {name for name, report in self._asked.items() if report.status == "running"}
        return [Report(name, self.path(name).stat().st_mtime, 0, "", "ready") for name in names if name not in running]

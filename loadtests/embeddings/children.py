"""The processes that are measured: the service, and the backend by itself."""

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from loadtests.embeddings.subjects import ROOT, Subject
from loadtests.gateway_overhead.targets import free_port

_START_S = 180.0
_STOP_S = 15.0
_FOREIGN = re.compile(r"(EMBEDDINGS|GATEWAY|SPARKSTACK|OTEL|OMP|ORT|HF)_|PYTHON|.*_proxy$", re.IGNORECASE)


class ChildError(Exception):
    """A process did not start or answered wrongly; the message has the end of its log."""


class Service:
    """A running service.

    Args:
        start_s: from its launch to the first vector.
    """

    def __init__(self, pid: int, url: str, start_s: float, session: aiohttp.ClientSession) -> None:
        self.pid = pid
        self.url = url
        self.start_s = start_s
        self.session = session

    async def post(self, path: str, body: bytes) -> bytes:
        """Return the whole answer.

        Raises:
            ChildError: its status is not 200.
        """
        async with self.session.post(self.url + path, data=body) as answer:
            content = await answer.read()
            if answer.status != 200:
                raise ChildError(f"{path} answered {answer.status}: {content[:300]!r}")
            return content


@asynccontextmanager
async def service(subject: Subject, state: Path, catalogue: Path, **variables: str) -> AsyncIterator[Service]:
    """Run the service as `sparkstack embeddings` does, in the subject's environment, until the block is left."""
    port = free_port()
    given = {"EMBEDDINGS_PORT": str(port), "EMBEDDINGS_CATALOGUE": str(catalogue), "SPARKSTACK_STATE": str(state)}
    given["EMBEDDINGS_MODELS"] = ",".join(name for name in (subject.model, subject.reranker) if name)
    command = [subject.python, "-m", "services.cli.main", "embeddings"]
    started = time.perf_counter()
    with _child(command, state / f"service-{port}.log", given | variables) as process:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            found = Service(process.pid, f"http://127.0.0.1:{port}", 0.0, session)
            await _first_vector(found, subject, process, state / f"service-{port}.log")
            found.start_s = time.perf_counter() - started
            yield found


async def _first_vector(found: Service, subject: Subject, process: "subprocess.Popen[bytes]", log: Path) -> None:
    body = json.dumps({"model": subject.model, "input": "first"}).encode()
    deadline = time.monotonic() + _START_S
    while True:
        with contextlib.suppress(aiohttp.ClientConnectionError):
            await found.post("/v1/embeddings", body)
            return
        if process.poll() is not None or time.monotonic() > deadline:
            end = "\n".join(log.read_text(errors="replace").splitlines()[-12:])
            raise ChildError(f"the service did not start:\n{end}")
        await asyncio.sleep(0.02)


class Bound:
    """A running `loadtests.embeddings.direct`."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self._process = process
        self._log = log

    def call(self, name: str, **arguments: Any) -> Any:
        """Return what the child's method returns; blocks, and so does the child: nothing else is measured meanwhile.

        Raises:
            ChildError: it ended.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"call": name, **arguments}).encode() + b"\n")
        self._process.stdin.flush()
        return self.read()

    def read(self) -> Any:
        """Return the next line's value.

        Raises:
            ChildError: it ended.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            end = "\n".join(self._log.read_text(errors="replace").splitlines()[-12:])
            raise ChildError(f"the backend's process ended:\n{end}")
        return json.loads(line)


@contextlib.contextmanager
def bound(subject: Subject, model: str, state: Path, catalogue: Path) -> Any:
    """Run the backend of a model by itself until the block is left."""
    log = state / f"direct-{model}.log"
    command = [subject.python, "-m", "loadtests.embeddings.direct", model, str(state), str(catalogue)]
    with _child(command, log, {}, piped=True) as process:
        found = Bound(process, log)
        found.read()
        yield found


@contextlib.contextmanager
def _child(command: list[str], log: Path, variables: dict[str, str], *, piped: bool = False) -> Any:
    kept = {name: value for name, value in os.environ.items() if not _FOREIGN.match(name)}
    pipe = subprocess.PIPE if piped else None
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=log.parent,
            env={**kept, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **variables},
            stdin=pipe or subprocess.DEVNULL,
            stdout=pipe or output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _stop(process)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End the process and all that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
            break
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()

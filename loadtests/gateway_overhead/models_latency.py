"""How long `/v1/models` takes while the engine is up, stopped, silent or dead, before and after discovery."""

import argparse
import asyncio
import contextlib
import datetime
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import uvloop

from loadtests.gateway_overhead import loads, wire
from loadtests.gateway_overhead.arithmetic import percentile
from loadtests.gateway_overhead.child import Child, running
from loadtests.gateway_overhead.client import PlainCaller, Record
from loadtests.gateway_overhead.facts import machine_facts
from loadtests.gateway_overhead.report import aligned, write_json
from loadtests.gateway_overhead.targets import ROOT, TARGETS, Launch, Place, free_port

LIMIT_MS = 5.0
_WAITING_CHATS = 16
_READY_S = 30.0
_MOST_SECONDS = 60.0


class NoAnswerError(Exception):
    """`/v1/models` did not answer as it should; the message says how."""


@dataclass(frozen=True)
class Listing:
    """What one situation gave. Times in milliseconds."""

    engine: str
    discovery: str
    answers: int
    models: int
    p50_ms: float
    p99_ms: float
    worst_ms: float
    bare_p99_ms: float
    """Of a bare server, asked in turns with the gateway: what the machine itself does to such figures."""

    @property
    def verdict(self) -> str:
        """Return whether the limit is kept, as far as this machine lets one say."""
        if self.p99_ms < LIMIT_MS:
            return "yes"
        return "no" if self.bare_p99_ms < LIMIT_MS / 2 else "machine too busy"


class Engine:
    """The engine stub as a process of its own, so that it can be stopped and killed."""

    def __init__(self) -> None:
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._silent: socket.socket | None = None

    @property
    def url(self) -> str:
        """The engine's address."""
        return f"http://127.0.0.1:{self.port}"

    def up(self) -> None:
        """Start it and wait for its address on standard output."""
        argv = (sys.executable, "-m", "loadtests.gateway_overhead.stub", "--port", str(self.port))
        self._process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def stopped(self) -> None:
        """Stop it: connections are still taken by the kernel, nothing is answered."""
        if self._process is None:
            self.up()
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def silent(self) -> None:
        """Replace it by a socket that listens and never answers."""
        self.dead()
        self._silent = socket.socket()
        self._silent.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._silent.bind(("127.0.0.1", self.port))
        self._silent.listen(1024)

    def dead(self) -> None:
        """End it: connections are refused."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._silent is not None:
            self._silent.close()
            self._silent = None


_STATES: dict[str, Callable[[Engine], None]] = {
    "stopped": Engine.stopped,
    "silent": Engine.silent,
    "dead": Engine.dead,
}


async def measure(seconds: float, per_second: int) -> list[Listing]:
    """Return the figures of every situation, one after the other."""
    situations = [("up", None), *((state, before) for state in _STATES for before in (True, False))]
    return [await _situation(state, before, seconds, per_second) for state, before in situations]


async def _situation(state: str, before: bool | None, seconds: float, per_second: int) -> Listing:
    engine, bare = Engine(), Engine()
    try:
        bare.up()
        if before:
            _STATES[state](engine)
        else:
            engine.up()
        async with _gateway(engine) as (child, door):
            await _until(door, child, models=0 if before else 1)
            if before is False:
                _STATES[state](engine)
            waiting = await _waiting_chats(door)
            times_ms, bare_ms, models = await _ask_evenly(door, loads.Door(bare.port), seconds, per_second)
            for caller in waiting:
                caller.end()
    finally:
        engine.dead()
        bare.dead()
    discovery = {None: "done", True: "never got through", False: "done before"}[before]
    return Listing(
        state,
        discovery,
        len(times_ms),
        models,
        percentile(times_ms, 50),
        percentile(times_ms, 99),
        max(times_ms),
        percentile(bare_ms, 99),
    )


@asynccontextmanager
async def _gateway(engine: Engine) -> AsyncIterator[tuple[Child, loads.Door]]:
    with tempfile.TemporaryDirectory(prefix="models-latency-") as folder:
        place = Place(engine.url, free_port(), Path(folder))
        launch: Launch = TARGETS["sparkstack"](place)
        # Discovery each second instead of each five, so that its work falls into the measurement often.
        more = {**launch.environment, "GATEWAY_DISCOVERY_INTERVAL_S": "1"}
        async with running("sparkstack", replace(launch, environment=more), Path(folder)) as child:
            yield child, loads.Door(place.port, key=launch.key)


async def _waiting_chats(door: loads.Door) -> list[PlainCaller]:
    """Send some chat requests that nobody awaits: with a broken engine they hang, or fail."""
    record = Record()
    callers = [
        PlainCaller(door.request(stream=False), record, lambda: False, lambda _: None) for _ in range(_WAITING_CHATS)
    ]
    loop = asyncio.get_running_loop()
    for caller in callers:
        await loop.create_connection(lambda caller=caller: caller, "127.0.0.1", door.port)  # type: ignore[misc]
    return callers


async def _until(door: loads.Door, child: Child, models: int) -> None:
    deadline = time.monotonic() + _READY_S
    while True:
        child.require_alive()
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, NoAnswerError):
            async with _connection(door) as ask:
                if await ask() >= models:
                    return
        if time.monotonic() > deadline:
            raise child.failed(f"/v1/models did not list {models} models within {_READY_S:.0f} s")
        await asyncio.sleep(0.05)


async def _ask_evenly(
    door: loads.Door, bare: loads.Door, seconds: float, per_second: int
) -> tuple[list[float], list[float], int]:
    """Ask gateway and bare server in turns, at even times; return the milliseconds of both and the models listed."""
    times_ms, bare_ms = [], []
    models = 0
    began = time.monotonic()
    async with _connection(door) as ask, _connection(bare) as ask_bare:
        for number in range(round(seconds * per_second)):
            await asyncio.sleep(max(0.0, began + number / per_second - time.monotonic()))
            asked = time.perf_counter()
            models = await ask()
            answered = time.perf_counter()
            await ask_bare()
            times_ms.append((answered - asked) * 1000)
            bare_ms.append((time.perf_counter() - answered) * 1000)
    return times_ms, bare_ms, models


@asynccontextmanager
async def _connection(door: loads.Door) -> AsyncIterator[Callable[[], Awaitable[int]]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    head = f"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1:{door.port}\r\nAuthorization: Bearer {door.key}\r\n\r\n"

    async def ask() -> int:
        writer.write(head.encode())
        answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        length = next(int(line[15:]) for line in answer.splitlines() if line.startswith("content-length:"))
        body = await reader.readexactly(length)
        if " 200 " not in answer.splitlines()[0]:
            raise NoAnswerError(f"/v1/models: {answer.splitlines()[0]} {body[:200]!r}")
        return sum(1 for item in json.loads(body)["data"] if item["id"] == wire.MODEL)

    try:
        yield ask
    finally:
        writer.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write JSON; return 1 where the limit is not kept."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.gateway_overhead.models_latency", description=__doc__)
    parser.add_argument("--seconds", type=float, default=6.0, help=f"each of 7 situations, at most {_MOST_SECONDS:g}")
    parser.add_argument("--per-second", type=int, default=200, choices=range(1, 1001), metavar="1-1000")
    parser.add_argument("--output", type=Path, default=ROOT / "loadtests" / "results")
    options = parser.parse_args(arguments)
    if not 0 < options.seconds <= _MOST_SECONDS:
        parser.error(f"--seconds {options.seconds:g}: above 0, at most {_MOST_SECONDS:g}")
    listings = uvloop.run(measure(options.seconds, options.per_second))
    print(table(listings))
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / f"models-latency-{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}.json"
    content = {"schema": 1, "machine": machine_facts(), "situations": [asdict(one) for one in listings]}
    write_json(path, content)
    return 1 if any(one.verdict == "no" for one in listings) else 0


def table(listings: Sequence[Listing]) -> str:
    """Return the figures as a Markdown table."""
    head = [
        "engine",
        "discovery",
        "answers",
        "models listed",
        "p50 ms",
        "p99 ms",
        "worst ms",
        "bare p99 ms",
        "under 5 ms",
    ]
    lines = [
        [
            one.engine,
            one.discovery,
            str(one.answers),
            str(one.models),
            f"{one.p50_ms:.2f}",
            f"{one.p99_ms:.2f}",
            f"{one.worst_ms:.2f}",
            f"{one.bare_p99_ms:.2f}",
            one.verdict,
        ]
        for one in listings
    ]
    return aligned([head, *lines])


if __name__ == "__main__":
    sys.exit(main())

"""The three loads: plain answers in a closed loop, short streams in a closed loop, paced streams."""

import asyncio
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from loadtests.gateway_overhead import wire
from loadtests.gateway_overhead.client import Caller, PlainCaller, Record, StreamCaller
from loadtests.gateway_overhead.processes import machine_busy_s, tree_cpu_s

_SETTLE_S = 0.15
"""After a load, for what a gateway does once the last byte is out: accounting, log lines."""


@dataclass(frozen=True)
class Door:
    """Where requests go in: a gateway's port, or the engine's own."""

    port: int
    model: str = wire.MODEL
    key: str = ""

    def request(self, *, stream: bool, max_tokens: int = wire.PLAIN_TOKENS) -> bytes:
        """Return a chat completion request, head and body."""
        body = wire.request_body(self.model, stream=stream, max_tokens=max_tokens)
        key = f"Authorization: Bearer {self.key}\r\n" if self.key else ""
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
            f"User-Agent: gateway-overhead\r\nAccept: */*\r\n{key}"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


@dataclass(frozen=True)
class Measured:
    """One load's findings and its cost in seconds of CPU; `gateway_cpu_s` is 0 where there is no gateway."""

    record: Record
    seconds: float
    gateway_cpu_s: float
    harness_cpu_s: float
    others_cpu_s: float


class _Load:
    """Some connections at once; ends when each has ended, or at `bound_s` with an error."""

    def __init__(self, door: Door, connections: int, bound_s: float) -> None:
        self.record = Record()
        self._door = door
        self._bound_s = bound_s
        self._open = connections
        self._callers: set[Caller] = set()
        self._connecting: set[asyncio.Task[None]] = set()
        self._ended = asyncio.Event()

    def connect(self, make: Callable[[Callable[[bool], None]], Caller], after_s: float = 0.0) -> None:
        """Open a connection after a while; `make` gets the callback for its end."""
        task = asyncio.create_task(self._connect(make, after_s))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, make: Callable[[Callable[[bool], None]], Caller], after_s: float) -> None:
        def left(again: bool) -> None:
            self._callers.discard(caller)
            if again:
                self.connect(make)
            else:
                self._one_less()

        await asyncio.sleep(after_s)
        caller = make(left)
        self._callers.add(caller)
        try:
            await asyncio.get_running_loop().create_connection(lambda: caller, "127.0.0.1", self._door.port)
        except OSError as error:
            self.record.error(f"no connection to port {self._door.port}: {error.strerror}")
            caller.end()

    def _one_less(self) -> None:
        self._open -= 1
        if self._open == 0:
            self._ended.set()

    async def wait(self) -> None:
        """Return when every connection has ended."""
        try:
            async with asyncio.timeout(self._bound_s):
                await self._ended.wait()
        except TimeoutError:
            self.record.error(f"{self._open} connections had not ended after {self._bound_s:.0f} s")
            for task in self._connecting:
                task.cancel()
            for caller in list(self._callers):
                caller.end()


class _Budget:
    """Allows a number of requests on one connection, the first included."""

    def __init__(self, requests: int) -> None:
        self._left = requests

    def __call__(self) -> bool:
        self._left -= 1
        return self._left > 0


async def plain(door: Door, connections: int, seconds: float) -> Record:
    """Send plain requests for so long, each connection the next as soon as it has its answer."""
    load = _Load(door, connections, seconds + 30)
    request = door.request(stream=False)
    deadline = time.monotonic() + seconds
    for _ in range(connections):
        load.connect(lambda left: PlainCaller(request, load.record, lambda: time.monotonic() < deadline, left))
    await load.wait()
    return load.record


async def short_streams(door: Door, connections: int, seconds: float, chunks: int) -> Record:
    """Send streams of a few tokens for so long, each connection the next as soon as the last has ended."""
    load = _Load(door, connections, seconds + 30)
    request = door.request(stream=True, max_tokens=chunks)
    deadline = time.monotonic() + seconds
    for _ in range(connections):
        load.connect(lambda left: StreamCaller(chunks, request, load.record, lambda: time.monotonic() < deadline, left))
    await load.wait()
    return load.record


async def paced_streams(door: Door, streams: int, rounds: int, chunks: int, interval_s: float) -> Record:
    """Hold so many streams open side by side, each connection `rounds` of them one after the other.

    The stub sends a token each `interval_s` to each stream; the streams' starts are spread evenly over one
    interval, so that tokens come evenly too.
    """
    nominal_s = rounds * chunks * interval_s
    load = _Load(door, streams, 5 * nominal_s + 30)
    request = door.request(stream=True, max_tokens=chunks)

    def make_with(budget: _Budget) -> Callable[[Callable[[bool], None]], Caller]:
        return lambda left: StreamCaller(chunks, request, load.record, budget, left)

    for number in range(streams):
        load.connect(make_with(_Budget(rounds)), number * interval_s / streams)
    await load.wait()
    return load.record


async def measure(load: Any, gateway_pid: int | None) -> Measured:
    """Await a load and return it with the CPU time that gateway, harness and all others used meanwhile."""
    gc.collect()
    gc.disable()
    try:
        gateway_before = tree_cpu_s(gateway_pid) if gateway_pid else 0.0
        busy_before, own_before, began = machine_busy_s(), time.process_time(), time.monotonic()
        record = await load
        seconds = time.monotonic() - began
        own = time.process_time() - own_before
        await asyncio.sleep(_SETTLE_S)
        busy = machine_busy_s() - busy_before
        gateway = tree_cpu_s(gateway_pid) - gateway_before if gateway_pid else 0.0
    finally:
        gc.enable()
    return Measured(record, seconds, gateway, own, max(0.0, busy - own - gateway))

"""The run: a gateway for each variant, all up at once and anew in each repetition, measured in turns."""

import asyncio
import re
import sys
import tempfile
import urllib.request
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from loadtests.gateway_overhead import loads
from loadtests.gateway_overhead.child import Child, GatewayError, running
from loadtests.gateway_overhead.client import Record
from loadtests.gateway_overhead.loads import Door
from loadtests.gateway_overhead.stub import Stub
from loadtests.gateway_overhead.targets import TARGETS, Place, free_port
from loadtests.tracing_overhead.variants import VARIANTS, Receivers, Variant

Say = Callable[[str], None]
Repetition = dict[str, float]
_TIMEOUT_S = 5.0
_CHUNKS = 20


@dataclass(frozen=True)
class Plan:
    """What is measured, how long and how often. Everything in it is bounded."""

    variants: tuple[str, ...]
    seconds: float = 4.0
    repetitions: int = 7
    connections: int = 16


@dataclass
class Row:
    """One variant's findings."""

    variant: Variant
    repetitions: list[Repetition] = field(default_factory=list)
    told: dict[str, float] = field(default_factory=dict)
    """Of all repetitions: requests, and what became of their records."""


@dataclass
class _Gateway:
    row: Row
    receivers: Receivers
    door: Door
    child: Child


async def run(plan: Plan, say: Say = lambda line: print(line, file=sys.stderr, flush=True)) -> list[Row]:
    """Measure; return a row for each variant, in the plan's order.

    Raises:
        GatewayError: an answer was wrong or missing, or a request has neither been told nor been counted as dropped.
    """
    stub = Stub()
    rows = [Row(VARIANTS[name]) for name in plan.variants]
    async with AsyncExitStack() as stack:
        await stub.start()
        stack.push_async_callback(stub.stop)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tracing-overhead-")))
        for number in range(plan.repetitions):
            # Each repetition begins with another one: being first must be nobody's lot.
            turn = number % len(rows)
            await _repeat(rows[turn:] + rows[:turn], plan, stub, folder / str(number), say)
    return rows


async def _repeat(rows: list[Row], plan: Plan, stub: Stub, folder: Path, say: Say) -> None:
    """Measure each once, in gateways of this repetition's own: two that do the same differ as long as they live."""
    folder.mkdir()
    async with AsyncExitStack() as stack:
        gateways = [await _start(stack, row, stub, folder / row.variant.name) for row in rows]
        for gateway in gateways:
            await _measure(gateway, plan)
            last = gateway.row.repetitions[-1]
            figures = " ".join(f"{last[name]:7.1f} {name}" for name in ("request_us", "stream_us", "requests_per_s"))
            say(f"{len(gateway.row.repetitions)}/{plan.repetitions} {gateway.row.variant.name:16} {figures}")
        for gateway in gateways:
            await _account(gateway)


async def _start(stack: AsyncExitStack, row: Row, stub: Stub, folder: Path) -> _Gateway:
    folder.mkdir()
    receivers = Receivers(row.variant)
    variables = await receivers.start()
    stack.push_async_callback(receivers.stop)
    place = Place(stub.url, free_port(), folder)
    launch = TARGETS["sparkstack"](place)
    launch = replace(launch, environment={**launch.environment, **variables})
    child = await stack.enter_async_context(running(row.variant.name, launch, folder))
    door = Door(place.port, key=launch.key)
    await child.wait_ready(door, launch.ready_timeout_s)
    return _Gateway(row, receivers, door, child)


async def _measure(gateway: _Gateway, plan: Plan) -> None:
    door, pid, seconds = gateway.door, gateway.child.pid, plan.seconds
    _require_right(gateway, await loads.plain(door, plan.connections, seconds / 4))
    plain = await loads.measure(loads.plain(door, plan.connections, seconds), pid)
    _require_right(gateway, plain.record)
    streams = await loads.measure(loads.short_streams(door, plan.connections, seconds, _CHUNKS), pid)
    _require_right(gateway, streams.record)
    gateway.row.repetitions.append(
        {
            "request_us": plain.gateway_cpu_s / plain.record.answers * 1e6,
            "stream_us": streams.gateway_cpu_s / streams.record.answers * 1e6,
            "requests_per_s": plain.record.answers / plain.seconds,
            "streams_per_s": streams.record.answers / streams.seconds,
            "harness_cores": plain.harness_cpu_s / plain.seconds,
            "others_cores": plain.others_cpu_s / plain.seconds,
        }
    )


def _require_right(gateway: _Gateway, record: Record) -> None:
    if record.error_count:
        raise gateway.child.failed(f"{record.error_count} errors, the first: {record.errors[0]}")
    if not record.answers:
        raise gateway.child.failed("no answer came")
    gateway.child.require_alive()


async def _account(gateway: _Gateway) -> None:
    """Hold the records to the requests: each was taken, or dropped and counted, or waits.

    Raises:
        GatewayError
    """
    text = await asyncio.to_thread(_metrics, gateway.door)
    names = ("gateway_exchanges_total", "gateway_records_sent_total", "gateway_records_dropped_total")
    requests, sent, dropped = (_sum(text, name) for name in names)
    waiting = _sum(text, "gateway_records_waiting")
    told = {"requests": requests, "sent": sent, "dropped": dropped, "waiting": waiting}
    told["spans_bytes"] = gateway.receivers.collector.bytes
    before = gateway.row.told
    gateway.row.told = {name: before.get(name, 0) + value for name, value in told.items()}
    variant = gateway.row.variant
    if variant.records is not None and requests != sent + dropped + waiting:
        raise gateway.child.failed(f"{requests - sent - dropped - waiting:.0f} of {requests:.0f} records are nowhere")
    if variant.loses != bool(dropped):
        raise gateway.child.failed(f"{dropped:.0f} records were dropped: not what {variant.name} is to show")
    if variant.traces and not gateway.receivers.collector.posts:
        raise gateway.child.failed("no span came")


def _metrics(door: Door) -> str:
    headers = {"Authorization": f"Bearer {door.key}"}
    request = urllib.request.Request(f"http://127.0.0.1:{door.port}/metrics", headers=headers)
    with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
        text: str = answer.read().decode()
        return text


def _sum(text: str, name: str) -> float:
    return sum(float(value) for value in re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE))


__all__ = ["GatewayError", "Plan", "Row", "run"]

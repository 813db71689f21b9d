"""The run: every gateway up at once, measured in turns, so that the machine's noise falls on all of them."""

import math
import sys
import tempfile
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from loadtests.gateway_overhead import loads
from loadtests.gateway_overhead.accounting import counted_tokens
from loadtests.gateway_overhead.arithmetic import StreamLoad, cpu_per_chunk_s, percentile
from loadtests.gateway_overhead.child import Child, GatewayError, running
from loadtests.gateway_overhead.client import Record
from loadtests.gateway_overhead.loads import Door, Measured
from loadtests.gateway_overhead.processes import tree_peak_rss_bytes
from loadtests.gateway_overhead.stub import Stub
from loadtests.gateway_overhead.targets import DIRECT, TARGETS, NotInstalledError, Place, free_port
from loadtests.gateway_overhead.wire import PLAIN_TOKENS

Repetition = dict[str, float]
Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What is measured, how long and how often. Everything in it is bounded."""

    targets: tuple[str, ...]
    seconds: float = 5.0
    repetitions: int = 5
    connections: int = 16
    streams: int = 64
    tokens_per_s: float = 25.0
    short_chunks: int = 2

    @property
    def chunks(self) -> int:
        """Tokens of each paced stream: 50, or what fits into `seconds`."""
        return max(10, min(50, round(self.seconds * self.tokens_per_s)))

    @property
    def rounds(self) -> int:
        """How many paced streams each connection has, one after the other."""
        return max(1, math.ceil(self.seconds * self.tokens_per_s / self.chunks))


@dataclass
class Row:
    """One target's findings: `status` is `ok`, `failed` or `not installed`."""

    name: str
    status: str = "ok"
    note: str = ""
    version: str = ""
    peak_rss_bytes: int = 0
    repetitions: list[Repetition] = field(default_factory=list)


@dataclass
class _Gateway:
    row: Row
    door: Door
    child: Child | None = None
    counts_tokens: bool = False

    @property
    def pid(self) -> int | None:
        return self.child.pid if self.child else None


async def run(plan: Plan, say: Say = lambda line: print(line, file=sys.stderr, flush=True)) -> list[Row]:
    """Measure the plan's targets and return a row for each, in the plan's order."""
    stub = Stub()
    await stub.start()
    rows = {name: Row(name) for name in plan.targets}
    try:
        async with AsyncExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gateway-overhead-")))
            gateways = []
            for name in plan.targets:
                gateway = await _start(stack, rows[name], stub, folder / name, say)
                if gateway is not None:
                    gateways.append(gateway)
            for number in range(plan.repetitions):
                # Each repetition begins with another one: being first must be nobody's lot.
                turn = number % max(len(gateways), 1)
                for gateway in gateways[turn:] + gateways[:turn]:
                    await _measure(gateway, plan, stub, f"{number + 1}/{plan.repetitions}", say)
            for gateway in gateways:
                if gateway.pid:
                    gateway.row.peak_rss_bytes = tree_peak_rss_bytes(gateway.pid)
    finally:
        await stub.stop()
    return list(rows.values())


async def _start(stack: AsyncExitStack, row: Row, stub: Stub, folder: Path, say: Say) -> _Gateway | None:
    if row.name == DIRECT:
        row.note = "no gateway: what stub and clients can do by themselves"
        return _Gateway(row, Door(stub.port))
    folder.mkdir()
    place = Place(stub.url, free_port(), folder)
    try:
        launch = TARGETS[row.name](place)
    except NotInstalledError as error:
        row.status, row.note = "not installed", str(error)
        return None
    row.version = launch.version
    say(f"starting {row.name} {launch.version}")
    child = await stack.enter_async_context(running(row.name, launch, folder))
    door = Door(place.port, key=launch.key)
    try:
        await child.wait_ready(door, launch.ready_timeout_s)
        if launch.key:
            await _require_identification(child, door)
    except GatewayError as error:
        row.status, row.note = "failed", str(error)
        say(row.note)
        return None
    return _Gateway(row, door, child, launch.counts_tokens)


async def _require_identification(child: Child, door: Door) -> None:
    """Make sure that keys are checked: a gateway that lets everybody in does less than its work."""
    record = await loads.plain(replace(door, key="sk-wrong-key"), 1, 0)
    # 400 is LiteLLM's word for it where it has no database of keys.
    if record.errors not in (["status 401"], ["status 403"], ["status 400"]):
        raise child.failed(f"a wrong key was not refused ({record.errors or 'answered'})")


async def _measure(gateway: _Gateway, plan: Plan, stub: Stub, number: str, say: Say) -> None:
    row = gateway.row
    if row.status != "ok":
        return
    try:
        repetition = await _repetition(gateway, plan, stub)
    except GatewayError as error:
        row.status, row.note = "failed", str(error)
        say(row.note)
        return
    row.repetitions.append(repetition)
    figures = (f"{repetition[key]:8.1f} {key}" for key in ("cpu_us_per_request", "cpu_us_per_chunk", "requests_per_s"))
    say(f"{number} {row.name:16}" + " ".join(figures))


async def _repetition(gateway: _Gateway, plan: Plan, stub: Stub) -> Repetition:
    """Run the three loads once, after a warm-up of each kind of answer.

    Raises:
        GatewayError: an answer was wrong, short or missing, tokens were miscounted, or the gateway ended.
    """
    door, pid = gateway.door, gateway.pid
    warm_s = max(0.2, plan.seconds / 5)
    stub.interval_s = 0.0
    _require_right(gateway, await loads.plain(door, plan.connections, warm_s))
    _require_right(gateway, await loads.short_streams(door, plan.connections, warm_s / 2, plan.short_chunks))
    counted_before = await counted_tokens(door) if gateway.counts_tokens else 0

    plain = await loads.measure(loads.plain(door, plan.connections, plan.seconds), pid)
    _require_right(gateway, plain.record)
    short = await loads.measure(loads.short_streams(door, plan.connections, plan.seconds / 2, plan.short_chunks), pid)
    _require_right(gateway, short.record)
    interval_s = 1 / plan.tokens_per_s
    stub.interval_s = interval_s
    paced = await loads.measure(loads.paced_streams(door, plan.streams, plan.rounds, plan.chunks, interval_s), pid)
    _require_right(gateway, paced.record)
    if paced.record.answers != plan.streams * plan.rounds:
        raise _failure(gateway, f"{paced.record.answers} of {plan.streams * plan.rounds} streams ended")
    if gateway.counts_tokens:
        sent = plain.record.answers * PLAIN_TOKENS + short.record.chunks + paced.record.chunks
        counted = await counted_tokens(door) - counted_before
        if counted != sent:
            raise _failure(gateway, f"{sent} tokens were sent and {counted} counted")
    return _figures(plain, short, paced, plan)


def _require_right(gateway: _Gateway, record: Record) -> None:
    if record.error_count:
        raise _failure(gateway, f"{record.error_count} errors, the first: {record.errors[0]}")
    if not record.answers:
        raise _failure(gateway, "no answer came")
    if gateway.child is not None:
        gateway.child.require_alive()


def _failure(gateway: _Gateway, why: str) -> GatewayError:
    return gateway.child.failed(why) if gateway.child else GatewayError(f"{gateway.row.name}: {why}")


def _figures(plain: Measured, short: Measured, paced: Measured, plan: Plan) -> Repetition:
    figures = {
        "cpu_us_per_request": plain.gateway_cpu_s / plain.record.answers * 1e6,
        "cpu_us_per_short_stream": short.gateway_cpu_s / short.record.answers * 1e6,
        "cpu_us_per_chunk": cpu_per_chunk_s(_stream_load(paced), _stream_load(short)) * 1e6,
        "requests_per_s": plain.record.answers / plain.seconds,
        "short_streams_per_s": short.record.answers / short.seconds,
        "chunks_per_s": paced.record.chunks / paced.seconds,
        # 1 when the streams took no longer than the engine needs for them.
        "paced_slowdown": paced.seconds / (plan.rounds * plan.chunks / plan.tokens_per_s),
        "plain_requests": plain.record.answers,
        "paced_chunks": paced.record.chunks,
        "reconnects": plain.record.reconnects + short.record.reconnects + paced.record.reconnects,
    }
    for name, measured in (("plain", plain), ("paced", paced)):
        figures[f"{name}_gateway_cores"] = measured.gateway_cpu_s / measured.seconds
        figures[f"{name}_harness_cores"] = measured.harness_cpu_s / measured.seconds
        figures[f"{name}_others_cores"] = measured.others_cpu_s / measured.seconds
    times = {
        "request": plain.record.answer_ns,
        "ttft": paced.record.first_token_ns,
        "itl": paced.record.gap_ns,
        "chunk_delay": paced.record.delay_ns,
    }
    for name, values in times.items():
        figures[f"{name}_p50_ms"] = percentile(values, 50) / 1e6
        figures[f"{name}_p99_ms"] = percentile(values, 99) / 1e6
    return figures


def _stream_load(measured: Measured) -> StreamLoad:
    return StreamLoad(measured.gateway_cpu_s, measured.record.answers, measured.record.chunks)

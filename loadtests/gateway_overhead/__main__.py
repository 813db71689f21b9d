"""Measure what gateways cost: `python -m loadtests.gateway_overhead --help`."""

import argparse
import asyncio
import datetime
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import uvloop

from loadtests.gateway_overhead import report
from loadtests.gateway_overhead.facts import machine_facts
from loadtests.gateway_overhead.plot import MatplotlibMissingError, draw
from loadtests.gateway_overhead.run import Plan, Row, run
from loadtests.gateway_overhead.targets import DIRECT, ROOT, TARGETS

_ALL = (DIRECT, *TARGETS)
_MOST_SECONDS, _MOST_REPETITIONS = 60.0, 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print the table, write JSON and picture; return 1 when a target failed."""
    options = _parser().parse_args(arguments)
    if not Path("/proc/self/stat").exists():
        print("gateway_overhead reads CPU time from /proc: run it on Linux", file=sys.stderr)
        return 2
    seconds = options.seconds or (1.5 if options.quick else 5.0)
    repetitions = options.repetitions or (2 if options.quick else 5)
    plan = Plan(targets=options.targets, seconds=seconds, repetitions=repetitions)
    machine = machine_facts()
    try:
        rows = uvloop.run(_until_terminated(plan))
    except (asyncio.CancelledError, KeyboardInterrupt):
        print("stopped before the end: the gateways are down, nothing is written", file=sys.stderr)
        return 130
    title = _title(plan, machine)
    print(f"{title}\n\n{report.table(rows)}\n")
    _write(options.output, plan, rows, machine, title)
    return 1 if any(row.status == "failed" for row in rows) else 0


async def _until_terminated(plan: Plan) -> list[Row]:
    """Run; on SIGTERM end the gateways first, then this process."""
    work = asyncio.ensure_future(run(plan))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, work.cancel)
    return await work


def _title(plan: Plan, machine: dict[str, str | int | float]) -> str:
    return (
        f"{machine['cpu']}, {machine['cores']} cores, {machine['kernel']}, Python {machine['python']}; "
        f"{plan.repetitions} repetitions of {plan.seconds:g} s, interleaved; {plan.connections} connections, "
        f"{plan.streams} streams of {plan.tokens_per_s:g} tokens/s; median (lowest-highest)"
    )


def _write(folder: Path, plan: Plan, rows: list[Row], machine: dict[str, str | int | float], title: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"gateway-overhead-{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}"
    written = stem.with_suffix(".json")
    report.write_json(written, report.document(plan, rows, machine))
    print(f"written: {_shown(written)}")
    try:
        draw(rows, title, stem.with_suffix(".png"))
        print(f"written: {_shown(stem.with_suffix('.png'))}")
    except MatplotlibMissingError as error:
        print(error)


def _shown(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.gateway_overhead",
        description="CPU, latency and memory that a gateway costs between clients and an engine, ours beside "
        "its peers. Everything runs on loopback and ends by itself.",
    )
    parser.add_argument("--quick", action="store_true", help="2 repetitions of 1.5 s instead of 5 of 5 s")
    parser.add_argument("--targets", type=_targets, default=_ALL, help=f"some of {','.join(_ALL)} (default: all)")
    parser.add_argument("--seconds", type=_bounded(float, _MOST_SECONDS), help="length of each load")
    parser.add_argument("--repetitions", type=_bounded(int, _MOST_REPETITIONS), help="of all targets in turns")
    parser.add_argument("--output", type=Path, default=ROOT / "loadtests" / "results", help="folder of JSON and PNG")
    return parser


def _targets(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in _ALL]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"{', '.join(unknown) or 'nothing'} is no target; there are {', '.join(_ALL)}")
    return names


def _bounded(kind: Callable[[str], float], most: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value: float = kind(text)
        if not 0 < value <= most:
            raise argparse.ArgumentTypeError(f"{text}: above 0, at most {most:g}")
        return value

    return parse


if __name__ == "__main__":
    sys.exit(main())

"""Measure what traces and records cost the gateway: `python -m loadtests.tracing_overhead --help`."""

import argparse
import asyncio
import datetime
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

from loadtests.gateway_overhead.facts import machine_facts
from loadtests.gateway_overhead.report import write_json
from loadtests.gateway_overhead.targets import ROOT
from loadtests.tracing_overhead import report
from loadtests.tracing_overhead.run import GatewayError, Plan, Row, run
from loadtests.tracing_overhead.variants import VARIANTS

_MOST_SECONDS, _MOST_REPETITIONS = 30.0, 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print the table, write JSON; return 1 where a bound was not kept or a gateway failed."""
    options = _parser().parse_args(arguments)
    if not Path("/proc/self/stat").exists():
        print("tracing_overhead reads CPU time from /proc: run it on Linux", file=sys.stderr)
        return 2
    plan = Plan(options.variants, options.seconds, options.repetitions)
    machine = machine_facts()
    try:
        rows = uvloop.run(_until_terminated(plan))
    except (asyncio.CancelledError, KeyboardInterrupt):
        print("stopped before the end: the gateways are down, nothing is written", file=sys.stderr)
        return 130
    except GatewayError as error:
        print(error, file=sys.stderr)
        return 1
    print(
        f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}; {plan.repetitions} repetitions of "
        f"{plan.seconds:g} s, interleaved; {plan.connections} connections; median (lowest-highest)\n\n"
        f"{report.table(rows)}\n"
    )
    options.output.mkdir(parents=True, exist_ok=True)
    written = options.output / f"tracing-overhead-{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}.json"
    write_json(written, report.document(plan, rows, machine))
    print(f"written: {written.name}")
    for sentence in (found := report.broken(rows)):
        print(sentence, file=sys.stderr)
    return 1 if found else 0


async def _until_terminated(plan: Plan) -> list[Row]:
    """Run; on SIGTERM end the gateways first, then this process."""
    work = asyncio.ensure_future(run(plan))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, work.cancel)
    return await work


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.tracing_overhead",
        description="CPU that traces and records of requests cost the gateway, also while the tracking service is "
        "dead, full or slow. Everything runs on loopback and ends by itself.",
    )
    names = ",".join(VARIANTS)
    parser.add_argument("--variants", type=_variants, default=tuple(VARIANTS), help=f"some of {names} (default: all)")
    parser.add_argument("--seconds", type=_seconds, default=Plan.seconds, help="length of each load")
    parser.add_argument("--repetitions", type=_repetitions, default=Plan.repetitions, help="of all variants in turns")
    parser.add_argument("--output", type=Path, default=ROOT / "loadtests" / "results", help="folder of the JSON file")
    return parser


def _variants(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in VARIANTS]
    if unknown or not names:
        what = ", ".join(unknown) or "nothing"
        raise argparse.ArgumentTypeError(f"{what} is no variant; there are {', '.join(VARIANTS)}")
    return names


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= _MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"{text}: above 0, at most {_MOST_SECONDS:g}")
    return value


def _repetitions(text: str) -> int:
    value = int(text)
    if not 0 < value <= _MOST_REPETITIONS:
        raise argparse.ArgumentTypeError(f"{text}: above 0, at most {_MOST_REPETITIONS}")
    return value


if __name__ == "__main__":
    sys.exit(main())

"""Compare what engines hold with the memory plan: `python -m loadtests.engine_memory --help`."""

import argparse
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from loadtests.engine_memory import report
from loadtests.engine_memory.measuring import MeasuringError, measure
from loadtests.engine_memory.settings import RECIPES, Setting


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table, write docs/memory.md; return 1 when a setting failed or misses by more than 15 %."""
    options = _parser().parse_args(arguments)
    if not Path("/proc/self/smaps_rollup").exists():
        print("engine_memory reads PSS from /proc: run it on Linux", file=sys.stderr)
        return 2
    # Else a SIGTERM would leave the engine behind.
    signal.signal(signal.SIGTERM, _interrupt)
    settings = [] if options.render else report.chosen(options.engines, options.use)
    failed = 0
    try:
        for setting in settings:
            failed += not _measure(setting)
    except KeyboardInterrupt:
        print("stopped before the end: the engine is down, what was measured is kept", file=sys.stderr)
        return 130
    rows = report.load()
    print(report.table(rows))
    if options.write:
        report.TARGET.write_text(report.document(rows), encoding="utf-8")
    missed = [row for row in rows if abs(row.error) > report.WITHIN]
    return 1 if failed or missed else 0


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _measure(setting: Setting) -> bool:
    print(f"{setting.key}: {setting.use} …", flush=True)
    try:
        with tempfile.TemporaryDirectory(prefix="engine-memory-") as folder:
            row = report.Row(setting, measure(setting, Path(folder)))
    except MeasuringError as error:
        print(f"{setting.key}: {error}", file=sys.stderr)
        return False
    report.save([row])
    print(f"{setting.key}: {row.error:+.1%} (ready after {row.measured.load_s} s, requests {row.measured.traffic_s} s)")
    return True


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtests.engine_memory", description=__doc__)
    names = sorted(RECIPES)
    parser.add_argument("--engines", nargs="+", choices=names, default=names)
    parser.add_argument("--use", choices=("calibration", "check"), help="only these settings; both where left out")
    parser.add_argument("--render", action="store_true", help="measure nothing: show the last results")
    parser.add_argument("--write", action="store_true", help="write docs/memory.md")
    return parser


if __name__ == "__main__":
    sys.exit(main())

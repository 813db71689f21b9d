"""Compare vector databases behind one port: `python -m loadtests.vector_databases --help`."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadtests.gateway_overhead.facts import machine_facts
from loadtests.vector_search import report

_NAMES = ("edge", "local", "chroma", "faiss", "milvus")
_LIMIT_S = 1800
_QUIET = {"ANONYMIZED_TELEMETRY": "False", "DO_NOT_TRACK": "1", "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)))}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure in turns, keep the results, print the table; return 1 where a database failed."""
    options = _parser().parse_args(arguments)
    # A run of some databases keeps what was measured of the others.
    rows = [row for row in report.load(report.DATABASE_RESULTS)["rows"] if _kept(row, options)]
    failed = 0
    for repetition in range(0 if options.render else options.repetitions):
        turn = options.databases[repetition % len(options.databases) :] + options.databases[: repetition % 5]
        for name in dict.fromkeys(turn):
            row = _measure(options.python, name, options.chunks)
            failed += row is None
            if row is not None:
                rows.append(row)
                _save(sorted(rows, key=lambda each: _NAMES.index(each["name"])))
    print(report.databases_table())
    if options.write:
        report.write()
    return 1 if failed else 0


def _kept(row: dict[str, Any], options: argparse.Namespace) -> bool:
    return row["chunks"] == options.chunks and row["name"] not in options.databases


def _save(rows: list[dict[str, Any]]) -> None:
    document = {"machine": machine_facts(), "rows": rows}
    report.DATABASE_RESULTS.parent.mkdir(parents=True, exist_ok=True)
    report.DATABASE_RESULTS.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _measure(python: str, name: str, chunks: int) -> dict[str, Any] | None:
    print(f"{name}: {chunks:,} chunks …", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(prefix="vector-databases-") as folder:
        command = [python, "-m", "loadtests.vector_databases.child", name, str(chunks), f"{folder}/store"]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=_LIMIT_S,
                check=False,
                cwd=report.ROOT,
                env={**os.environ, **_QUIET},
            )
        except subprocess.TimeoutExpired:
            print(f"{name}: not done after {_LIMIT_S} s", file=sys.stderr)
            return None
    if done.returncode:
        print(f"{name}: {done.stderr[-2000:]}", file=sys.stderr)
        return None
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if found["chunks"] != chunks:
        print(f"{name}: has {found['chunks']} of {chunks} chunks", file=sys.stderr)
        return None
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtests.vector_databases", description=__doc__)
    ours = Path(".venvs/vector-databases/bin/python")
    parser.add_argument("--python", default=str(report.ROOT / ours), help="interpreter that has the databases")
    parser.add_argument("--databases", nargs="+", choices=_NAMES, default=list(_NAMES))
    parser.add_argument("--chunks", type=int, default=10_000, help="100000 takes an hour, most of it for `local`")
    parser.add_argument("--repetitions", type=int, choices=range(1, 11), default=3)
    parser.add_argument("--render", action="store_true", help="measure nothing: the table of the last results")
    parser.add_argument("--write", action="store_true", help="write docs/vector-search.md")
    return parser


if __name__ == "__main__":
    sys.exit(main())

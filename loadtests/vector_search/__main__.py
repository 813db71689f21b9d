"""Measure searches of the embedded stack's vector store: `python -m loadtests.vector_search --help`."""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from loadtests.gateway_overhead.facts import machine_facts
from loadtests.vector_search import report
from loadtests.vector_search.measuring import measure

_QUANTIZATIONS = ("none", "scalar", "binary")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, keep the results, print the tables, write docs/vector-search.md."""
    options = _parser().parse_args(arguments)
    for chunks in [] if options.render else options.chunks:
        optimized = chunks >= report.GRAPH_FROM
        for quantization in options.quantization if optimized else _QUANTIZATIONS[:1]:
            print(f"{chunks:,} chunks, quantization {quantization} …", flush=True)
            with tempfile.TemporaryDirectory(prefix="vector-search-") as folder:
                _save([asdict(row) for row in measure(chunks, quantization, Path(folder) / "v", optimize=optimized)])
    print(report.searches_table())
    if options.write:
        report.write()
    return 0


def _save(rows: list[dict[str, Any]]) -> None:
    """Put rows into the file of results, in the place of those of the same setting."""
    path = report.SEARCH_RESULTS
    known = {_key(row): row for row in report.load(path)["rows"]} | {_key(row): row for row in rows}
    ordered = sorted(
        known.values(), key=lambda row: (row["chunks"], row["state"], _QUANTIZATIONS.index(row["quantization"]))
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine_facts(), "rows": ordered}, indent=1) + "\n", encoding="utf-8")


def _key(row: dict[str, Any]) -> tuple[int, str, str]:
    return row["chunks"], row["quantization"], row["state"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtests.vector_search", description=__doc__)
    parser.add_argument("--chunks", nargs="+", type=int, default=[1_000, 10_000, 100_000])
    parser.add_argument("--quantization", nargs="+", choices=_QUANTIZATIONS, default=_QUANTIZATIONS)
    parser.add_argument("--render", action="store_true", help="measure nothing: the tables of the last results")
    parser.add_argument("--write", action="store_true", help="write docs/vector-search.md")
    return parser


if __name__ == "__main__":
    sys.exit(main())

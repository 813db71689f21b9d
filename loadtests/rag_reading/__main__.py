"""Measure how many pages a second are read and cut: `python -m loadtests.rag_reading --help`."""

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadtests.gateway_overhead.facts import machine_facts
from loadtests.rag_reading import report
from loadtests.rag_reading.corpus import write_all
from loadtests.rag_reading.measuring import CHUNKERS, measure_chunker, measure_format, measure_pool

_POOL_FORMATS = ("md", "html", "txt", "pdf")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print tables, keep the figures; with --write also in docs/documents.md."""
    options = _parser().parse_args(arguments)
    if options.render:
        results = json.loads(report.RESULTS.read_text(encoding="utf-8"))
    else:
        # As in a reading process, which has one core.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        results = _measure(options.pages, options.files, options.repetitions)
        report.save(results)
    print(report.tables(results))
    if options.write:
        report.write(results)
    return 0


def _measure(pages: int, files: int, repetitions: int) -> dict[str, Any]:
    results: dict[str, Any] = {"machine": machine_facts(), "repetitions": repetitions}
    with tempfile.TemporaryDirectory(prefix="rag-reading-") as folder:
        written = write_all(Path(folder), pages, files)
        results["formats"] = {name: measure_format(paths, repetitions) for name, paths in written.items()}
        results["chunkers"] = {name: measure_chunker(name, written["md"], repetitions) for name in CHUNKERS}
        workers = sorted({1, os.cpu_count() or 1})
        results["pool"] = {
            name: {str(count): measure_pool(written[name], count, repetitions) for count in workers}
            for name in _POOL_FORMATS
        }
    results["machine"]["load_after"] = round(os.getloadavg()[0], 2)
    return results


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtests.rag_reading", description=__doc__)
    parser.add_argument("--pages", type=int, default=200, help="pages of each format (200)")
    parser.add_argument("--files", type=int, default=20, help="files of each format (20)")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--render", action="store_true", help="measure nothing: show what was measured last")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/documents.md")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())

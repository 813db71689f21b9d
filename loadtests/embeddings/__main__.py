"""Measure embeddings and reranking over HTTP, beside the bare backends: `python -m loadtests.embeddings --help`."""

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from loadtests.embeddings import report
from loadtests.embeddings.children import ChildError
from loadtests.embeddings.measuring import Plan, measure
from loadtests.embeddings.subjects import Subject, subjects
from loadtests.gateway_overhead.facts import machine_facts


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the tables, write the pages' figures; return 1 where something failed or misses its target."""
    options = _parser().parse_args(arguments)
    if not Path("/proc/self/stat").exists():
        print("embeddings reads CPU time from /proc: run it on Linux", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _interrupt)  # else it would leave the service behind
    plan = Plan(2, 0.4) if options.quick else Plan()
    failed = 0
    try:
        for subject in [] if options.render else _chosen(options.only):
            failed += not _measure(subject, plan)
    except KeyboardInterrupt:
        print("stopped before the end: the service is down, what was measured is kept", file=sys.stderr)
        return 130
    results = report.load()
    if not results:
        print("nothing has been measured yet: run this without --render", file=sys.stderr)
        return 1
    print("\n\n".join(report.blocks(results).values()))
    if options.write:
        report.write_pages(results)
    return 1 if failed or report.missed(results) else 0


def _chosen(only: str | None) -> list[Subject]:
    found = subjects()
    if len(found) == 1:
        print("torch is not measured: `make embeddings-torch` makes its environment", file=sys.stderr)
    return [subject for subject in found if only in (None, subject.name.partition(" ")[0])]


def _measure(subject: Subject, plan: Plan) -> bool:
    machine = machine_facts()
    try:
        found = measure(subject, plan)
    except ChildError as error:
        print(f"{subject.name}: {error}", file=sys.stderr)
        return False
    report.save(subject, plan, found, machine)
    return True


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtests.embeddings", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="2 repetitions of smaller loads instead of 5")
    parser.add_argument("--only", choices=("int8", "torch"), help="one of the two; the other keeps its last results")
    parser.add_argument("--render", action="store_true", help="measure nothing: show the last results")
    parser.add_argument("--write", action="store_true", help="write the figures of docs/embeddings.md and reranking.md")
    return parser


if __name__ == "__main__":
    sys.exit(main())

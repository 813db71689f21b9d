"""Measure the drift monitor: `python -m loadtests.drift --write`.

Streams of requests are drawn from corpora/postgresql and from own sentences, embedded by the shipped model, and
compared as the monitor compares them. Seeds are fixed in `measuring.py`: the same code gives the same tables. Exit
status 1 where more than 2 % of the unchanged windows alarm, or a drift of all requests is not found within two windows.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from loadtests.drift import report
from loadtests.drift.corpus import Corpus
from loadtests.drift.measuring import drifted, unchanged
from loadtests.drift.streams import Streams, embedded
from loadtests.gateway_overhead.facts import machine_facts

_MODEL = "all-minilm-l6-v2"


def main() -> int:
    """Measure, print tables, keep the figures."""
    options = _parser().parse_args()
    if options.render:
        results = json.loads(report.RESULTS.read_text("utf-8"))
    else:
        results = _measure(options.windows, options.repetitions)
        report.save(results)
    print(report.tables(results))
    if options.write:
        report.write(results)
    quiet = results["unchanged"]
    missed = [each for each in results["drifted"] if each["share"] == 1.0 and _missed(each)]
    return int(sum(quiet["alarmed"]) > 0.02 * quiet["windows"] or bool(missed))


def _measure(windows: int, repetitions: int) -> dict[str, Any]:
    corpus = Corpus()
    texts = corpus.texts()
    streams = Streams(corpus, embedded(texts, _embed()))
    print(f"{len(texts)} texts are embedded", flush=True)
    facts = machine_facts()
    machine = f"{facts['cpu']}, {facts['cores']} cores"
    return {"machine": machine, "unchanged": unchanged(streams, windows), "drifted": drifted(streams, repetitions)}


def _embed() -> Any:
    from services.embeddings.catalogue import SHIPPED, locate, read_cards
    from services.embeddings.loading import open_backend
    from services.embeddings.settings import EmbeddingsSettings

    settings = EmbeddingsSettings(state=Path(".state"))
    card = next(each for each in read_cards(SHIPPED) if each.id == _MODEL)
    backend: Any = open_backend(card, locate(card, settings.state), settings)
    return backend.embed


def _missed(each: dict[str, Any]) -> bool:
    return bool(each["first"] + each["second"] < each["repetitions"])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtests.drift", description=__doc__)
    parser.add_argument("--windows", type=int, default=200, help="unchanged windows (200)")
    parser.add_argument("--repetitions", type=int, default=5, help="of each drift at each share (5)")
    parser.add_argument("--render", action="store_true", help="measure nothing: show what was measured last")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/drift.md")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())

"""Measure how well and how quickly the corpus is searched: `python -m loadtests.rag_quality --help`."""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from loadtests.gateway_overhead.facts import machine_facts
from loadtests.rag_quality import latency, quality, report, threshold
from loadtests.rag_quality.models import EMBEDDINGS, LocalEmbedder, LocalReranker, VectorCache
from services.rag.answering.deciding import THRESHOLDS, Thresholds
from services.rag.library import ChunkOptions

PARTS = ("searches", "chunkers", "threshold", "latency")
ALLOWED_LOSS = 0.01
_VECTORS = report.RESULTS.with_name("rag-quality-vectors.sqlite")
Models = tuple[LocalEmbedder, LocalReranker]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the parts, keep the results, render the tables; return 1 where hybrid loses or retrieval is slow."""
    options = _parser().parse_args(arguments)
    if not options.render:
        asyncio.run(_measure(options))
    results = report.load()
    for part, table in report.tables(results).items():
        print(f"\n== {part}\n{table}")
    if options.write or options.render:
        report.TARGET.write_text(report.render(results), encoding="utf-8")
    return 1 if _missed(results) else 0


async def _measure(options: argparse.Namespace) -> None:
    models = LocalEmbedder(VectorCache(_VECTORS, EMBEDDINGS)), LocalReranker()
    for part in options.parts:
        started = time.monotonic()
        print(f"{part} …", flush=True)
        if part == "searches":
            report.save(part, await _searches(models))
        elif part == "chunkers":
            report.save(part, await _chunkers(models, options.chunkers))
        elif part == "threshold":
            report.save(part, await _threshold(models))
        else:
            report.save(part, await _latency(models, options))
        print(f"{part}: {time.monotonic() - started:.0f} s", flush=True)


async def _searches(models: Models) -> dict[str, Any]:
    found = await quality.measure(ChunkOptions(), "held_out", *models)
    against = quality.best_of(found.scores, quality.SINGLES)
    asked = [each for each in quality.questions("held_out") if each.answerable]
    kinds: dict[str, dict[str, float]] = {}
    for kind in dict.fromkeys(each.kind for each in asked):
        places = [at for at, each in enumerate(asked) if each.kind == kind]
        means = {name: sum(scores[at].ndcg for at in places) / len(places) for name, scores in found.scores.items()}
        kinds[kind] = {"questions": len(places), **means}
    return {
        "questions": len(asked),
        "against": against,
        "allowed_loss": ALLOWED_LOSS,
        "searches": quality.summary(found.scores, against),
        "kinds": kinds,
    }


async def _chunkers(models: Models, chunkers: Sequence[str]) -> dict[str, Any]:
    measured = {}
    for name in chunkers:
        print(f"  {name} …", flush=True)
        measured[name] = await quality.measure(ChunkOptions(chunker=name), "held_out", *models, searches=["hybrid"])  # type: ignore[arg-type]
    against = ChunkOptions().chunker if ChunkOptions().chunker in measured else chunkers[0]
    scores = {name: each.scores["hybrid"] for name, each in measured.items()}
    rows = quality.summary(scores, against)
    for name, each in measured.items():
        rows[name] |= {"chunks": each.chunks, "mean_tokens": each.mean_tokens}
    return {"questions": len(scores[against]), "against": against, "chunkers": rows}


async def _threshold(models: Models) -> dict[str, Any]:
    dev = (await quality.measure(ChunkOptions(), "dev", *models, searches=["hybrid"])).evidence
    held_out = (await quality.measure(ChunkOptions(), "held_out", *models, searches=["hybrid"])).evidence
    fitted, shipped = threshold.chosen(dev), THRESHOLDS[EMBEDDINGS]

    def shown(values: Thresholds) -> dict[str, Any]:
        splits = {"dev": dev, "held_out": held_out}
        return {**asdict(values), **{name: asdict(threshold.rates(each, values)) for name, each in splits.items()}}

    weight = fitted.overlap_weight
    return {
        "fitted": shown(fitted),
        "shipped": shown(shipped),
        "area": {"dev": threshold.area(dev, weight), "held_out": threshold.area(held_out, weight)},
        "curve": [asdict(each) for each in threshold.curve(dev, weight)],
    }


async def _latency(models: Models, options: argparse.Namespace) -> dict[str, Any]:
    facts = machine_facts()
    rows = await latency.measure(options.sizes, *models, repetitions=options.repetitions, optimize=not options.no_graph)
    searches = len(quality.questions("all")) * options.repetitions
    return {"machine": facts, "searches": searches, "rows": [asdict(each) for each in rows]}


def _missed(results: dict[str, Any]) -> bool:
    lost = "searches" in results and (
        results["searches"]["searches"]["hybrid"]["against"]["ndcg"]["mean"] < -ALLOWED_LOSS
    )
    slow = any(
        row["chunks"] == latency.TARGET_SIZE and row["preset"] == "fast" and row["median_ms"] > latency.TARGET_MS
        for row in results.get("latency", {}).get("rows", [])
    )
    return bool(lost or slow)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtests.rag_quality", description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--chunkers", nargs="+", choices=quality.CHUNKERS, default=quality.CHUNKERS)
    parser.add_argument("--sizes", nargs="+", type=int, default=latency.SIZES, help="chunks, for the latency")
    parser.add_argument("--repetitions", type=int, default=3, help="of all questions, for the latency")
    parser.add_argument("--no-graph", action="store_true", help="leave out the graph of the largest size (minutes)")
    parser.add_argument("--render", action="store_true", help="measure nothing: docs/rag.md from the last results")
    parser.add_argument("--write", action="store_true", help="write docs/rag.md, too")
    return parser


if __name__ == "__main__":
    sys.exit(main())

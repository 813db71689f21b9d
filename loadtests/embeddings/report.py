"""The figures as tables, and the two pages of the documentation that have them."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from loadtests.embeddings.measuring import CONCURRENCIES, Found, Plan
from loadtests.embeddings.subjects import ROOT, Subject
from loadtests.embeddings.texts import WORDS_OF
from loadtests.gateway_overhead.arithmetic import median, spread
from loadtests.gateway_overhead.report import aligned

RESULTS = ROOT / "loadtests" / "results" / "embeddings.json"
PAGES = (ROOT / "docs" / "embeddings.md", ROOT / "docs" / "reranking.md")
QUIET_CORES = 0.3
"""What else the machine may compute before its figures are no longer worth a page."""

Results = Mapping[str, Mapping[str, Any]]


def save(subject: Subject, plan: Plan, found: Found, machine: Mapping[str, Any], path: Path = RESULTS) -> None:
    """Write a subject's figures beside those of the others, which were perhaps measured another day."""
    known = load(path)
    entry = {"target": subject.target, "plan": asdict(plan), "machine": dict(machine), "found": asdict(found)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**known, subject.name: entry}, indent=1) + "\n", encoding="utf-8")


def load(path: Path = RESULTS) -> dict[str, Any]:
    """Return all figures that were measured so far, by subject."""
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def shares(entry: Mapping[str, Any], kind: str) -> dict[str, float]:
    """Return by concurrency what HTTP keeps of the direct calls' texts a second: the median of each repetition's."""
    found = entry["found"]
    return {
        concurrency: median([ours / bound for ours, bound in zip(values, found["direct"][kind], strict=True)])
        for concurrency, values in found["http"][kind].items()
    }


def missed(results: Results) -> list[str]:
    """Return a sentence for each kind of text that keeps less than the target, whatever the concurrency."""
    found = []
    for name, entry in results.items():
        for kind in entry["found"]["http"]:
            best = max(shares(entry, kind).values())
            if best < entry["target"]:
                kept, wanted = f"{best * 100:.0f} %", f"{entry['target'] * 100:.0f} %"
                found.append(f"{name}, {kind}: {kept} of the direct calls' texts a second, not {wanted}")
    return found


def throughput(results: Results) -> str:
    """Return the table of texts a second."""
    head = ["model by", "text of words", "called directly"]
    head += [f"HTTP, {number} at once" for number in CONCURRENCIES] + ["best, of direct", "target"]
    rows = [head]
    for name, entry in results.items():
        for kind, direct in entry["found"]["direct"].items():
            http = entry["found"]["http"][kind]
            best = max(shares(entry, kind).values())
            row = [name, f"about {WORDS_OF[kind]}", _with_spread(direct)]
            row += [_with_spread(http[str(number)]) for number in CONCURRENCIES]
            rows.append([*row, f"{best * 100:.0f} %", f"{entry['target'] * 100:.0f} %"])
    return aligned(rows)


def alone(results: Results) -> str:
    """Return the table of one text at a time, start and memory."""
    rows = [
        [
            "model by",
            "one short text, directly: ms",
            "over HTTP: ms, p50 / p99",
            "texts/s, one a request, 16 at once",
            "start to first vector: s",
            "peak RSS: MB",
        ]
    ]
    for name, entry in results.items():
        found = entry["found"]
        latency = {key: median(values) for key, values in found["latency"].items()}
        rows.append(
            [
                name,
                f"{latency['direct_p50']:.1f}",
                f"{latency['http_p50']:.1f} / {latency['http_p99']:.1f}",
                _with_spread(found["singles"]),
                f"{median(found['start_s']):.1f}",
                f"{found['peak_rss_bytes'] / 1e6:,.0f}",
            ]
        )
    return aligned(rows)


def reranking(results: Results) -> str:
    """Return the table of what a candidate costs."""
    rows = [
        ["candidates", "of words", "called directly: ms", "HTTP: ms", "a candidate: ms", "again: ms", "a candidate: ms"]
    ]
    for entry in results.values():
        for key, found in entry["found"]["rerank"].items():
            kind, _, candidates = key.partition("/")
            first, again = median(found["http"]), median(found["again"])
            row = [candidates, f"about {WORDS_OF[kind]}", f"{median(found['direct']):,.0f}", f"{first:,.0f}"]
            row += [f"{first / int(candidates):.1f}", f"{again:,.1f}", f"{again / int(candidates):.2f}"]
            rows.append(row)
    return aligned(rows)


def setting(results: Results) -> str:
    """Return the sentence that says where and how it was measured, and how noisy it was there."""
    lines = []
    for name, entry in results.items():
        machine, plan, others = entry["machine"], entry["plan"], entry["found"]["others_cores"]
        lines.append(
            f"{name}: {machine['cpu']}, {machine['cores']} cores, {machine['kernel']}, Python {machine['python']}; "
            f"{plan['repetitions']} repetitions, median (lowest-highest); meanwhile all else on this machine used "
            f"{median(others):.2f} cores (at most {max(others):.2f})."
        )
    noisy = any(median(entry["found"]["others_cores"]) > QUIET_CORES for entry in results.values())
    if noisy:
        lines.append("**The machine was busy with other work**: the shares say more than the absolute figures.")
    return "\n\n".join(lines)


def blocks(results: Results) -> dict[str, str]:
    """Return what stands between the marks of the pages, by the name of the mark."""
    names: Sequence[str] = missed(results)
    verdict = "\n".join(f"- **Missed**: {each}." for each in names) or "Every kind of text keeps its target."
    return {
        "throughput": f"{throughput(results)}\n\n{verdict}",
        "alone": alone(results),
        "reranking": reranking(results),
        "setting": setting(results),
    }


def render(page: str, results: Results) -> str:
    """Return a page with all its marked blocks made anew: `<!-- figures: NAME -->` to `<!-- end of NAME -->`."""
    made = blocks(results)

    def block(match: "re.Match[str]") -> str:
        name = match["name"]
        return f"<!-- figures: {name} -->\n{made[name]}\n<!-- end of {name} -->"

    return re.sub(r"<!-- figures: (?P<name>\w+) -->.*?<!-- end of (?P=name) -->", block, page, flags=re.DOTALL)


def write_pages(results: Results) -> None:
    """Make the figures of the documentation anew."""
    for path in PAGES:
        path.write_text(render(path.read_text(encoding="utf-8"), results), encoding="utf-8")


def _with_spread(values: Sequence[float]) -> str:
    found = spread(values)
    return f"{found.median:,.0f} ({found.low:,.0f}-{found.high:,.0f})"

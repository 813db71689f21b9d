"""The tables of docs/rag.md, between their marks, from the last results."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RESULTS = Path("loadtests/results/rag-quality.json")
TARGET = Path(__file__).parents[2] / "docs/rag.md"
_MEASURES = ("ndcg", "recall", "mrr")
_NAMES = {
    "dense": "dense",
    "bm25": "BM25",
    "hybrid": "hybrid",
    "hybrid-rerank": "hybrid + rerank",
}


def save(part: str, found: Mapping[str, Any]) -> None:
    """Keep the results of a part, beside those of the others."""
    document = load()
    document[part] = dict(found)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def load() -> dict[str, Any]:
    """Return the results of all parts that were measured."""
    found: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    return found


def render(results: Mapping[str, Any]) -> str:
    """Return docs/rag.md with the tables of these results; a part that was not measured keeps its table."""
    text = TARGET.read_text(encoding="utf-8")
    for part, table in tables(results).items():
        marks = re.compile(rf"(<!-- {part} -->\n).*?(<!-- end of {part} -->)", re.DOTALL)
        if not marks.search(text):
            raise ValueError(f"docs/rag.md has no place for the table {part}")
        text = marks.sub(lambda found, table=table: f"{found[1]}{table}{found[2]}", text)
    return text


def tables(results: Mapping[str, Any]) -> dict[str, str]:
    """Return each measured part as Markdown."""
    makers = {
        "searches": _searches,
        "kinds": _kinds,
        "chunkers": _chunkers,
        "threshold": _threshold,
        "latency": _latency,
    }
    parts = {"kinds": "searches"}
    return {
        name: make(results[parts.get(name, name)]) for name, make in makers.items() if parts.get(name, name) in results
    }


def _searches(found: Mapping[str, Any]) -> str:
    best = found["against"]
    head = (
        f"{found['questions']} held-out questions; heading chunks. Differences are to the better single way, "
        f"{_NAMES[best]}, question by question.\n\n"
        f"| search | nDCG@10 | recall@10 | MRR | nDCG@10 against {_NAMES[best]} | results judged |\n"
        "|---|---|---|---|---|---:|\n"
    )
    rows = []
    for name, each in found["searches"].items():
        difference = _interval(each["against"]["ndcg"], signed=True) if each["against"] else "–"
        cells = " | ".join(_interval(each[measure]) for measure in _MEASURES)
        rows.append(f"| {_NAMES[name]} | {cells} | {difference} | {each['judged']:.0%} |\n")
    return head + "".join(rows) + "\n" + _verdict(found) + "\n"


def _verdict(found: Mapping[str, Any]) -> str:
    difference = found["searches"]["hybrid"]["against"]["ndcg"]["mean"]
    single = _NAMES[found["against"]]
    if difference < -found["allowed_loss"]:
        return f"**A loss: hybrid is {-difference:.3f} below {single}, more than the {found['allowed_loss']} allowed.**"
    return f"Hybrid against the better single way, {single}: {difference:+.3f}; allowed: −{found['allowed_loss']}."


def _kinds(found: Mapping[str, Any]) -> str:
    names = list(found["searches"])
    head = f"| kind | questions | {' | '.join(_NAMES[name] for name in names)} |\n|---|---:|{'---:|' * len(names)}\n"
    rows = [
        f"| {kind} | {row['questions']} | {' | '.join(f'{row[name]:.3f}' for name in names)} |\n"
        for kind, row in found["kinds"].items()
    ]
    return head + "".join(rows)


def _chunkers(found: Mapping[str, Any]) -> str:
    head = (
        f"{found['questions']} held-out questions; hybrid search. Differences are to the chunks of the default, "
        f"`{found['against']}`.\n\n"
        f"| chunks | number | mean tokens | nDCG@10 | recall@10 | MRR | nDCG@10 against {found['against']} |\n"
        "|---|---:|---:|---|---|---|---|\n"
    )
    rows = []
    for name, each in found["chunkers"].items():
        difference = _interval(each["against"]["ndcg"], signed=True) if each["against"] else "–"
        cells = " | ".join(_interval(each[measure]) for measure in _MEASURES)
        rows.append(f"| {name} | {each['chunks']:,} | {each['mean_tokens']:.0f} | {cells} | {difference} |\n")
    return head + "".join(rows)


def _threshold(found: Mapping[str, Any]) -> str:
    fitted, shipped = found["fitted"], found["shipped"]
    head = (
        f"Evidence is the best cosine + {fitted['overlap_weight']:.2f} × the share of the question's words in the best "
        f"passages; fitted on `dev`: {fitted['least']:.3f}. Area under the ROC curve: {found['area']['dev']:.3f} on "
        f"`dev`, {found['area']['held_out']:.3f} on `held_out`.\n\n"
        "| threshold | answered of the answerable, dev | of the others, dev | of the answerable, held out | "
        "of the others, held out |\n|---|---:|---:|---:|---:|\n"
    )
    rows = []
    for name, values in (
        ("fitted on dev", fitted),
        (f"shipped: {shipped['overlap_weight']:.2f} and {shipped['least']:.3f}", shipped),
    ):
        cells = " | ".join(
            f"{values[split][rate]:.0%}" for split in ("dev", "held_out") for rate in ("answered", "wrongly_answered")
        )
        rows.append(f"| {name} | {cells} |\n")
    curve = "".join(
        f"| {each['least']:.2f} | {each['answered']:.0%} | {each['wrongly_answered']:.0%} |\n"
        for each in found["curve"]
    )
    return (
        head
        + "".join(rows)
        + "\nThe curve on `dev`:\n\n| threshold | answerable answered | others answered |\n|---:|---:|---:|\n"
        + curve
    )


def _latency(found: Mapping[str, Any]) -> str:
    machine = found["machine"]
    head = (
        f"{machine['cpu']}, {machine['cores']} cores; load average {machine['load_average_1_min']} when it began; "
        f"{found['searches']} searches a row, one at a time.\n\n"
        "| chunks | preset | vectors | median ms | p95 ms | embed | search | rest |\n"
        "|---:|---|---|---:|---:|---:|---:|---:|\n"
    )
    rows = []
    for each in found["rows"]:
        steps = each["steps"]
        embed, search = steps.get("embed", 0.0), steps.get("hybrid", 0.0)
        rows.append(
            f"| {each['chunks']:,} | {each['preset']} | {'by graph' if each['graph'] else 'one by one'} | "
            f"{each['median_ms']:.1f} | {each['p95_ms']:.1f} | {embed:.1f} | {search:.1f} | "
            f"{sum(steps.values()) - embed - search:.1f} |\n"
        )
    return head + "".join(rows)


def _interval(found: Mapping[str, float], *, signed: bool = False) -> str:
    form = "+.3f" if signed else ".3f"
    return f"{found['mean']:{form}} [{found['low']:{form}}, {found['high']:{form}}]"

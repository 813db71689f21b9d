"""docs/vector-search.md, from the last results of loadtests/vector_search and loadtests/vector_databases."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from loadtests.gateway_overhead.arithmetic import median
from services.rag.vectors.layout import EXACT_BYTES

ROOT = Path(__file__).parents[2]
TARGET = ROOT / "docs" / "vector-search.md"
SEARCH_RESULTS = ROOT / "loadtests" / "results" / "vector-search.json"
DATABASE_RESULTS = ROOT / "loadtests" / "results" / "vector-databases.json"
# From here on a graph is built: 75 MB are 48,828 vectors of 384 dimensions.
GRAPH_FROM = EXACT_BYTES // (384 * 4)

_TITLES = {
    "edge": "Qdrant's engine (ours)",
    "local": "Qdrant client, pure Python",
    "chroma": "Chroma",
    "faiss": "FAISS (HNSW in memory)",
    "milvus": "Milvus Lite",
}
_START, _END = "<!-- {} -->", "<!-- end of {} -->"


def load(path: Path) -> dict[str, Any]:
    """Return the last results; none where nothing was measured."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"rows": [], "machine": {}}


def searches_table() -> str:
    """Return the table of searches by size."""
    rows = load(SEARCH_RESULTS)["rows"]
    kinds = [each["name"] for each in rows[0]["searches"]] if rows else []
    head = ["chunks", "quantization", "state", "written, chunks/s", "optimized in s", "disk MB", *kinds]
    lines = [head, ["---"] * 3 + ["---:"] * (len(head) - 3)]
    for row in rows:
        cells = [f"{row['chunks']:,}", row["quantization"], row["state"], f"{row['chunks'] / row['write_s']:,.0f}"]
        cells += [f"{row['optimize_s']:,.0f}" if row["optimize_s"] else "–", f"{row['disk_mb']:,.0f}"]
        lines.append(cells + [_cell(each["median_ms"], each["p95_ms"], each["recall"]) for each in row["searches"]])
    return _markdown(lines)


def databases_table() -> str:
    """Return the comparison's table: the median of the repetitions."""
    found = load(DATABASE_RESULTS)["rows"]
    kinds = ["dense", "dense, filtered", "hybrid"]
    head = [
        "database",
        "chunks",
        "written, chunks/s",
        "optimized in s",
        "disk MB",
        "memory MB",
        *kinds,
        "x ours (dense)",
    ]
    lines = [head, ["---"] + ["---:"] * (len(head) - 1)]
    for name in dict.fromkeys(row["name"] for row in found):
        rows = [row for row in found if row["name"] == name]
        ours = [row for row in found if row["name"] == "edge"]
        cells = [_TITLES[name], f"{rows[0]['chunks']:,}", f"{rows[0]['chunks'] / _of(rows, 'write_s'):,.0f}"]
        cells += [f"{_of(rows, 'optimize_s'):.1f}", f"{_of(rows, 'disk_mb'):,.0f}", f"{_of(rows, 'held_mb'):,.0f}"]
        cells += [_searched(rows, kind) for kind in kinds]
        pairs = zip(rows, ours, strict=False)
        ratios = [one["searches"]["dense"][0] / other["searches"]["dense"][0] for one, other in pairs]
        lines.append([*cells, f"{median(ratios):.1f}" if ratios else "–"])
    return _markdown(lines)


def _of(rows: Iterable[dict[str, Any]], key: str) -> float:
    return median([row[key] for row in rows])


def _searched(rows: list[dict[str, Any]], kind: str) -> str:
    found = [row["searches"][kind] for row in rows if kind in row["searches"]]
    if not found:
        return "–"
    recall = None if found[0][2] is None else median([each[2] for each in found])
    return _cell(median([each[0] for each in found]), median([each[1] for each in found]), recall)


def _cell(median_ms: float, p95_ms: float, recall: float | None) -> str:
    text = f"{median_ms:.1f} / {p95_ms:.1f}"
    return text if recall is None else f"{text} ({recall:.1%})"


def _markdown(lines: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _machine(path: Path) -> str:
    about = load(path)["machine"]
    if not about:
        return "Not measured yet.\n"
    return (
        f"Measured on {about['cpu']}, {about['cores']} cores, {about['memory_gib']:.0f} GiB, {about['kernel']}, Python "
        f"{about['python']}, no GPU; load average at the start {about['load_average_1_min']}: above 1 other work "
        "disturbs, and the figures are upper bounds.\n"
    )


def write() -> None:
    """Bring the measured parts of docs/vector-search.md up to date."""
    text = TARGET.read_text(encoding="utf-8")
    parts = {
        "searches": _machine(SEARCH_RESULTS) + "\n" + searches_table(),
        "databases": _machine(DATABASE_RESULTS) + "\n" + databases_table(),
    }
    for name, part in parts.items():
        before, rest = text.split(_START.format(name), 1)
        after = rest.split(_END.format(name), 1)[1]
        text = f"{before}{_START.format(name)}\n{part}{_END.format(name)}{after}"
    TARGET.write_text(text, encoding="utf-8")

"""The tables of docs/drift.md, from what was measured."""

import json
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]
RESULTS = _ROOT / "loadtests" / "results" / "drift.json"
PAGE = _ROOT / "docs" / "drift.md"
_BEGIN, _END = "<!-- loadtests.drift: begin -->", "<!-- loadtests.drift: end -->"
_SAYS = {
    "language": "other languages (German, French, Spanish)",
    "topic": "another topic (cooking, gardens, journeys)",
    "longer": "longer prompts (three to six sentences before the question)",
    "worse": "worse answers (refused, empty, cut, in a loop, to another question)",
}


def tables(results: dict[str, Any]) -> str:
    """Return what was measured in Markdown."""
    rows = [
        "| what changes | share of requests | found in the first window | in the second | not in two | signals |",
        "|---|---|---|---|---|---|",
    ]
    for each in results["drifted"]:
        missed = each["repetitions"] - each["first"] - each["second"]
        signals = ", ".join(f"`{name}`" for name in each["signals"][:4]) or "–"
        cells = (_SAYS[each["kind"]], f"{each['share']:.0%}", each["first"], each["second"], missed, signals)
        rows.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    quiet = results["unchanged"]
    alarmed = sum(quiet["alarmed"])
    by_reference = ", ".join(str(count) for count in quiet["alarmed"])
    names = ", ".join(f"`{name}` {count}" for name, count in quiet["signals"].items())
    share = f"{alarmed / quiet['windows']:.1%}"
    said = (
        f"**Unchanged windows**: {alarmed} of {quiet['windows']} alarmed ({share}; by reference: {by_reference}"
        f"{'; ' + names if names else ''}). Comparing one took {quiet['seconds']:.1f} s (median; {results['machine']})."
    )
    each_time = results["drifted"][0]["repetitions"]
    head = f"Of {each_time} repetitions each; the signals that alarmed, the most frequent first:"
    return "\n\n".join([said, head, "\n".join(rows)])


def save(results: dict[str, Any]) -> None:
    """Keep the figures."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1), "utf-8")


def write(results: dict[str, Any]) -> None:
    """Put the tables between their marks."""
    page = PAGE.read_text("utf-8")
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    PAGE.write_text(f"{before}{_BEGIN}\n{tables(results)}\n{_END}{after}", "utf-8")

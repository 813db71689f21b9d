"""What was measured, as tables; and those tables in docs/documents.md."""

import json
from pathlib import Path
from typing import Any

from loadtests.rag_reading.corpus import ROOT

TARGET = ROOT / "docs" / "documents.md"
RESULTS = ROOT / "loadtests" / "results" / "rag-reading.json"
_BEGIN = "<!-- Made by `python -m loadtests.rag_reading --write`: change that, not what stands between these marks. -->"
_END = "<!-- End of what is made. -->"
_NAMES = {
    "md": "Markdown",
    "html": "HTML",
    "txt": "text",
    "pdf": "PDF",
    "docx": "DOCX",
    "csv": "CSV",
    "py": "code",
    "ipynb": "notebook",
    "json": "JSON",
}


def save(results: dict[str, Any]) -> None:
    """Write the figures to loadtests/results/."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1), encoding="utf-8")


def tables(results: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    formats = [
        f"| {_NAMES[name]} | {row['pages']:,.0f} | {row['read']:,.0f} | {row['cut']:,.0f} | {row['both']:,.0f} |"
        for name, row in results["formats"].items()
    ]
    chunkers = [
        f"| {name} | {row['cut']:,.0f} | {row['chunks']:,} | {row['mean_tokens']:.0f} | {row['most_tokens']} |"
        for name, row in results["chunkers"].items()
    ]
    pools = [f"| {_NAMES[name]} | {_cells(rows)} |" for name, rows in results["pool"].items()]
    workers = list(next(iter(results["pool"].values())))
    return "\n".join(
        [
            _circumstances(results),
            "",
            "Pages a second of one core, by the process's own CPU time, which other work moves little:",
            "",
            "| format | pages | read | cut by headings | read and cut |",
            "|---|---|---|---|---|",
            *formats,
            "",
            "Cutting Markdown into chunks of 200 tokens, 40 of them repeated; semantic without the model's time:",
            "",
            "| chunker | pages/s of one core | chunks | tokens, mean | tokens, most |",
            "|---|---|---|---|---|",
            *chunkers,
            "",
            "Pages a second by the clock, read and cut by headings through warm reading processes, to the service:",
            "",
            f"| format | {_heads(workers)} |",
            f"|---|{'---|' * len(workers)}",
            *pools,
        ]
    )


def _circumstances(results: dict[str, Any]) -> str:
    machine = results["machine"]
    return (
        f"Measured on {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, Linux, beside other "
        f"work: load average {machine['load_average_1_min']} at the beginning, {machine['load_after']} at the end. "
        f"Median of {results['repetitions']} repetitions. A page is 3,000 characters of text."
    )


def _cells(rows: dict[str, Any]) -> str:
    return " | ".join(f"{each['pages_per_s']:,.0f}" for each in rows.values())


def _heads(workers: list[str]) -> str:
    return " | ".join("1 process" if each == "1" else f"{each} processes" for each in workers)


def fill(page: str, made: str) -> str:
    """Return the page with what is made between its marks."""
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return f"{before}{_BEGIN}\n\n{made}\n\n{_END}{after}"


def write(results: dict[str, Any], target: Path = TARGET) -> None:
    """Fill the page."""
    target.write_text(fill(target.read_text(encoding="utf-8"), tables(results)), encoding="utf-8")

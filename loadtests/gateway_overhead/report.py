"""The findings as one table for people and one JSON document for programs."""

import datetime
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from loadtests.gateway_overhead.arithmetic import Spread, median, spread
from loadtests.gateway_overhead.run import Plan, Row
from loadtests.gateway_overhead.targets import DIRECT

REFERENCE = "nginx"
SCHEMA = 1
_KEPT_PACE = 1.05


def summary(row: Row) -> dict[str, Spread]:
    """Return each figure of a row over its repetitions."""
    if not row.repetitions:
        return {}
    return {name: spread([one[name] for one in row.repetitions]) for name in row.repetitions[0]}


def ratio(row: Row, reference: Row | None, figure: str) -> float | None:
    """Return the median of a row's figure over the reference's, taken in each repetition.

    Both were measured within the same minute, so that a slow minute of the machine does not show in it.
    """
    if reference is None:
        return None
    pairs = zip(row.repetitions, reference.repetitions, strict=False)
    ratios = [ours[figure] / theirs[figure] for ours, theirs in pairs if theirs[figure]]
    return median(ratios) if ratios else None


def document(plan: Plan, rows: Sequence[Row], machine: dict[str, Any]) -> dict[str, Any]:
    """Return the whole run as JSON values."""
    return {
        "schema": SCHEMA,
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "plan": asdict(plan) | {"chunks": plan.chunks, "rounds": plan.rounds},
        "targets": {
            row.name: asdict(row) | {"summary": {name: s._asdict() for name, s in summary(row).items()}} for row in rows
        },
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a document that people can read and diff."""
    path.write_text(json.dumps(content, indent=1) + "\n")


def table(rows: Sequence[Row]) -> str:
    """Return the findings as a Markdown table, aligned for a terminal, with a note for each row without figures."""
    by_name = {row.name: row for row in rows}
    measured = [row for row in rows if row.status == "ok" and row.repetitions]
    columns = _columns(by_name.get(REFERENCE), by_name.get(DIRECT))
    cells = [[title for title, _ in columns]]
    cells += [[cell(row, summary(row)) for _, cell in columns] for row in measured]
    notes = [_others(measured)] if measured else []
    notes += [f"{row.name}: {row.note}" for row in rows if row not in measured]
    return "\n".join([aligned(cells), "", *notes])


def _others(rows: Sequence[Row]) -> str:
    used = [one[f"{load}_others_cores"] for row in rows for one in row.repetitions for load in ("plain", "paced")]
    return f"Meanwhile everything else on this machine used {median(used):.2f} cores (at most {max(used):.2f})."


Cell = Callable[[Row, dict[str, Spread]], str]


def _columns(reference: Row | None, direct: Row | None) -> list[tuple[str, Cell]]:
    def cost(figure: str) -> Cell:
        return lambda row, figures: "-" if row.name == DIRECT else _with_spread(figures[figure])

    def times(figure: str, other: Row | None) -> Cell:
        def cell(row: Row, _figures: dict[str, Spread]) -> str:
            found = None if row.name == DIRECT else ratio(row, other, figure)
            return "-" if found is None else f"{found:.1f}"

        return cell

    def share(row: Row, _figures: dict[str, Spread]) -> str:
        found = ratio(row, direct, "requests_per_s")
        return "-" if found is None else f"{found * 100:.0f} %"

    def pair(figure: str) -> Cell:
        return lambda _row, figures: (
            f"{_ms(figures[f'{figure}_p50_ms'].median)} / {_ms(figures[f'{figure}_p99_ms'].median)}"
        )

    return [
        ("through", lambda row, _: f"{row.name} {row.version}".strip()),
        ("CPU µs a request", cost("cpu_us_per_request")),
        (f"x {REFERENCE}", times("cpu_us_per_request", reference)),
        ("CPU µs a chunk", cost("cpu_us_per_chunk")),
        (f"x {REFERENCE}", times("cpu_us_per_chunk", reference)),
        ("requests/s", lambda _, figures: f"{figures['requests_per_s'].median:,.0f}"),
        (f"of {DIRECT}", share),
        ("TTFT ms p50 / p99", pair("ttft")),
        ("ITL ms p50 / p99", pair("itl")),
        ("chunk delay ms p50 / p99", pair("chunk_delay")),
        ("kept pace", _pace),
        ("peak RSS MB", lambda row, _: f"{row.peak_rss_bytes / 1e6:.0f}" if row.peak_rss_bytes else "-"),
        ("harness cores", _harness),
    ]


def _with_spread(figure: Spread) -> str:
    return f"{figure.median:,.0f} ({figure.low:,.0f}-{figure.high:,.0f})"


def _ms(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def _pace(_row: Row, figures: dict[str, Spread]) -> str:
    slowdown = figures["paced_slowdown"].median
    return "yes" if slowdown <= _KEPT_PACE else f"no: {slowdown:.1f}x the time"


def _harness(_row: Row, figures: dict[str, Spread]) -> str:
    return f"{figures['plain_harness_cores'].median:.2f} / {figures['paced_harness_cores'].median:.2f}"


def aligned(cells: Sequence[Sequence[str]]) -> str:
    """Return lines of cells, the first the head, as a Markdown table with columns of even width."""

    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]

    def written(line: Sequence[str]) -> str:
        first, *rest = (
            text.rjust(width) if column else text.ljust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        return "| " + " | ".join([first, *rest]) + " |"

    rule = "|" + "|".join("-" * (width + 1) + (":" if column else "-") for column, width in enumerate(widths)) + "|"
    return "\n".join([written(cells[0]), rule, *(written(line) for line in cells[1:])])

"""The findings as one table, as JSON, and as a verdict."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from loadtests.gateway_overhead.arithmetic import median, spread
from loadtests.gateway_overhead.report import aligned
from loadtests.tracing_overhead.run import Plan, Row

SCHEMA = 1
_COSTS = {"request_us": "a request", "stream_us": "a stream of 20 tokens"}


def ratio(row: Row, reference: Row, figure: str) -> float:
    """Return the median of a figure over the reference's, taken in each repetition: both within the same minute."""
    return median([a[figure] / b[figure] for a, b in zip(row.repetitions, reference.repetitions, strict=True)])


def table(rows: Sequence[Row]) -> str:
    """Return the findings as a Markdown table."""
    by_name = {row.variant.name: row for row in rows}
    head = ["variant"]
    for words in _COSTS.values():
        head += [f"CPU µs {words}", "x off"]
    cells = [[*head, "requests/s", "records sent / dropped / waiting"]]
    for row in rows:
        line = [row.variant.name]
        for figure in _COSTS:
            values = spread([each[figure] for each in row.repetitions])
            off = by_name.get("off")
            line.append(f"{values.median:,.0f} ({values.low:,.0f}-{values.high:,.0f})")
            line.append("-" if off is None else f"{ratio(row, off, figure):.3f}")
        told = row.told
        line.append(f"{median([each['requests_per_s'] for each in row.repetitions]):,.0f}")
        without = row.variant.records is None
        line.append("-" if without else f"{told['sent']:,.0f} / {told['dropped']:,.0f} / {told['waiting']:,.0f}")
        cells.append(line)
    others = median([each["others_cores"] for row in rows for each in row.repetitions])
    return f"{aligned(cells)}\n\nMeanwhile everything else on this machine used {others:.2f} cores."


def broken(rows: Sequence[Row]) -> list[str]:
    """Return a sentence for each bound that was not kept."""
    by_name = {row.variant.name: row for row in rows}
    found = []
    for row in rows:
        reference = by_name.get(row.variant.compared_with)
        if row.variant.most is None or reference is None:
            continue
        for figure, words in _COSTS.items():
            times = ratio(row, reference, figure)
            if times > row.variant.most:
                found.append(
                    f"{row.variant.name}: {times:.3f} times the CPU of {reference.variant.name} {words}, "
                    f"the bound is {row.variant.most:g}"
                )
    return found


def document(plan: Plan, rows: Sequence[Row], machine: dict[str, Any]) -> dict[str, Any]:
    """Return the whole run as JSON values."""
    return {
        "schema": SCHEMA,
        "machine": machine,
        "plan": asdict(plan),
        "variants": {row.variant.name: asdict(row) for row in rows},
        "broken": broken(rows),
    }

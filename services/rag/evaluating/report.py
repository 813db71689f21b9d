"""The report of an evaluation: a table for the terminal, Markdown, JSON, and plots where matplotlib is."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from services.rag.evaluating.runner import Evaluation
from services.rag.evaluating.summary import rows_as_json, summarise

_WORST = 5


@dataclass(frozen=True)
class Written:
    """The files of a report.

    Args:
        note: why something is missing; empty otherwise.
    """

    files: tuple[Path, ...]
    note: str = ""


def write(evaluation: Evaluation, folder: Path, *, plots: bool = True) -> Written:
    """Write `report.md`, `report.json` and, where matplotlib is installed, `report.png` and `report.svg`.

    Raises:
        OSError
    """
    summary = summarise(evaluation)
    folder.mkdir(parents=True, exist_ok=True)
    document = {"summary": summary, "rows": rows_as_json(evaluation.rows)}
    found = folder / "report.json"
    found.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    files, note = [found], ""
    if plots:
        from services.rag.evaluating.plots import MatplotlibMissingError, draw

        try:
            files += draw(summary, evaluation, folder)
        except MatplotlibMissingError as error:
            note = str(error)
    text = folder / "report.md"
    text.write_text(markdown(evaluation, summary, [path.name for path in files]), encoding="utf-8")
    return Written((text, *files), note)


def table(summary: Mapping[str, Any]) -> str:
    """Return the figures of all presets as a table of plain text."""
    k = summary["k"]
    head = ["preset", f"nDCG@{k}", f"recall@{k}", "MRR", "ms (median)", "ms (p95)"]
    rows = [head]
    for name, preset in summary["presets"].items():
        found = preset["measures"]
        rows.append(
            [
                name,
                *(with_interval(found[each]) for each in ("ndcg", "recall", "mrr")),
                *(f"{preset['ms'][each]:.1f}" for each in ("median", "p95")),
            ]
        )
    widths = [max(len(row[at]) for row in rows) for at in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def markdown(evaluation: Evaluation, summary: Mapping[str, Any], files: Sequence[str]) -> str:
    """Return the report as Markdown."""
    questions = summary["questions"]
    what = (
        f"{questions['judged']} questions with judgements, {questions['unanswerable']} that the documents don't "
        f"answer; split: {summary['split']}. In brackets: 95 % bootstrap intervals over questions.\n"
    )
    parts = [
        f"# Evaluation of {summary['collection']}\n",
        what,
        _presets_table(summary),
        _differences_table(summary),
        _answers_table(summary),
        _kinds_table(summary),
        _steps_table(summary),
        _worst_table(evaluation, summary),
    ]
    if "report.png" in files:
        parts.insert(2, "![nDCG by preset and by kind of question](report.png)\n")
    return "\n".join(part for part in parts if part)


def _presets_table(summary: Mapping[str, Any]) -> str:
    k = summary["k"]
    lines = [
        f"| preset | nDCG@{k} | recall@{k} | MRR | results judged | median ms | p95 ms |",
        "|---|---|---|---|---:|---:|---:|",
    ]
    for name, preset in summary["presets"].items():
        cells = [with_interval(preset["measures"][each]) for each in ("ndcg", "recall", "mrr")]
        lines.append(
            f"| {name} | {' | '.join(cells)} | {preset['judged_share']:.0%} | {preset['ms']['median']:.1f} | "
            f"{preset['ms']['p95']:.1f} |"
        )
    return "\n".join(lines) + "\n"


def _differences_table(summary: Mapping[str, Any]) -> str:
    if not summary["differences"]:
        return ""
    lines = [
        f"Against `{summary['best']}`, question by question (paired):\n",
        "| preset | nDCG | recall | MRR |",
        "|---|---|---|---|",
    ]
    for name, found in summary["differences"].items():
        cells = [with_interval(found[each], signed=True) for each in ("ndcg", "recall", "mrr")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _answers_table(summary: Mapping[str, Any]) -> str:
    judged = {name: preset["answers"] for name, preset in summary["presets"].items() if preset["answers"]}
    if not judged:
        return ""
    lines = [
        f"## Answers, judged by {summary['judge']}\n",
        "| preset | faithfulness | relevance | judged | unreadable | answerable, refused | others, answered |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for name, found in judged.items():
        cells = [with_interval(found[each]) if found[each] else "–" for each in ("faithfulness", "relevance")]
        lines.append(
            f"| {name} | {' | '.join(cells)} | {found['judged']} | {found['unread_verdicts']} | "
            f"{found['refused_answerable']} of {found['answerable']} | "
            f"{found['answered_unanswerable']} of {found['unanswerable']} |"
        )
    lines.append("\nA judge's verdicts are worth what its model is worth: a model of under some billion parameters is")
    lines.append("close to guessing, and its figures are good for nothing but trying this out.")
    return "\n".join(lines) + "\n"


def _kinds_table(summary: Mapping[str, Any]) -> str:
    presets = summary["presets"]
    kinds = list(next(iter(presets.values()))["by_kind"].items())
    if len(kinds) < 2:
        return ""
    lines = [
        f"## nDCG@{summary['k']} by kind of question\n",
        f"| kind | questions | {' | '.join(presets)} |",
        f"|---|---:|{'---:|' * len(presets)}",
    ]
    for kind, found in kinds:
        cells = [f"{preset['by_kind'][kind]['ndcg']:.3f}" for preset in presets.values()]
        lines.append(f"| {kind or '–'} | {found['questions']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _steps_table(summary: Mapping[str, Any]) -> str:
    lines = ["## Where the milliseconds go (medians of the service's own trace)\n", "| preset | steps |", "|---|---|"]
    for name, preset in summary["presets"].items():
        steps = ", ".join(f"{step} {ms:.1f}" for step, ms in preset["steps_ms"].items())
        lines.append(f"| {name} | {steps or 'not traced'} |")
    return "\n".join(lines) + "\n"


def _worst_table(evaluation: Evaluation, summary: Mapping[str, Any]) -> str:
    rows = [row for row in evaluation.rows[summary["best"]] if row.scores]
    worst = sorted(rows, key=lambda row: row.scores.ndcg if row.scores else 0)[:_WORST]
    lines = [f"## Worst questions of {summary['best']}\n", "| nDCG | question | found first |", "|---:|---|---|"]
    for row in worst:
        first = ", ".join(row.documents[:3]) or "nothing"
        lines.append(f"| {row.scores.ndcg if row.scores else 0:.3f} | {row.question.text} | {first} |")
    return "\n".join(lines) + "\n"


def with_interval(found: Mapping[str, float], *, signed: bool = False) -> str:
    """Return a mean and its interval: `0.712 [0.650, 0.771]`."""
    form = "+.3f" if signed else ".3f"
    return f"{found['mean']:{form}} [{found['low']:{form}}, {found['high']:{form}}]"

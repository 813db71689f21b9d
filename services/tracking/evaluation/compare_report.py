"""Runs side by side, in words: for the terminal, and as Markdown."""

from collections.abc import Sequence
from typing import Any

from services.kit.resampling import Interval
from services.tracking.evaluation.comparison import Change, Comparison
from services.tracking.evaluation.report import shortened, with_interval
from services.tracking.evaluation.runs import Item, Run

_SURE = 0.05


def side_by_side(runs: Sequence[Run]) -> list[list[str]]:
    """Return the figures of each run, a row a run; the first row names them."""
    rows = [["", "MODEL", "SET", "SCORE", "ITEMS", "ERRORS", "FORMAT", "CUT", "P50 S", "P95 S", "TOKENS", "TOKENS/S"]]
    for letter, run in zip(letters(len(runs)), runs, strict=True):
        counts, tokens = run.counts, run.figures.get("completion_tokens")
        rows.append(
            [
                letter,
                run.model,
                f"{run.set} ({run.limit})" if run.limit else run.set,
                with_interval(run.score) if run.score else "–",
                *(str(counts.get(name, 0)) for name in ("items", "errors", "format_failures", "cut")),
                *(f"{run.times[name]:.2f}" if name in run.times else "–" for name in ("p50", "p95")),
                f"{tokens.mean:.0f}" if tokens else "–",
                f"{run.times['tokens_per_s']:.1f}" if "tokens_per_s" in run.times else "–",
            ]
        )
    return rows


def lines(comparison: Comparison, letter: str, items: int) -> list[str]:
    """Return what the terminal shows of a second run against the first, `a`.

    Args:
        items: so many changed ones at most.
    """
    found = [f"{letter} − a, {len(comparison.pairs)} items: {_difference(comparison.difference)}"]
    found += [f"  {line}" for line in _tests(comparison)]
    found += [f"  not alike: {', '.join(comparison.unlike)}"] if comparison.unlike else []
    worse, better = _changes(comparison)
    for name, changes in (("worse", worse), ("better", better)):
        if changes:
            found.append(f"  {name} in {len(changes)}:")
            found += [f"    {_change(change)}" for change in changes[:items]]
            found += [f"    … and {len(changes) - items} more"] if len(changes) > items else []
    return found


def markdown(runs: Sequence[Run], comparisons: Sequence[Comparison]) -> str:
    """Return the report of runs side by side, every changed item in it."""
    head, *rows = side_by_side(runs)
    parts = [f"# {runs[0].model} and {', '.join(run.model for run in runs[1:])} on {runs[0].set}\n"]
    parts.append("Score, difference and ratios: means with 95 % bootstrap intervals, pairs of items drawn together.\n")
    parts.append(_table([[*head, "RECIPE", "RUN"], *_named(runs, rows)]))
    for letter, comparison in zip(letters(len(runs))[1:], comparisons, strict=True):
        parts.append(f"\n## {letter} against a: {comparison.second.model}\n")
        parts.append(f"{len(comparison.pairs)} items: {_difference(comparison.difference)}.\n")
        parts += [f"- {line}" for line in _tests(comparison)]
        parts += [f"- not alike: {', '.join(comparison.unlike)}"] if comparison.unlike else []
        if comparison.changes:
            changed = [["id", "a", letter, "asked", "a answered", f"{letter} answered"]]
            changed += [_changed_row(change) for change in comparison.changes]
            parts.append("\n" + _table(changed))
    return "\n".join(parts) + "\n"


def document(comparison: Comparison) -> dict[str, Any]:
    """Return a comparison as JSON has it."""
    worse, better = _changes(comparison)
    mcnemar = comparison.mcnemar
    return {
        "first": comparison.first.id,
        "second": comparison.second.id,
        "items": len(comparison.pairs),
        "missing": comparison.missing,
        "unlike": comparison.unlike,
        "difference": _interval(comparison.difference),
        "mcnemar": None if mcnemar is None else {"better": mcnemar.better, "worse": mcnemar.worse, "p": mcnemar.p},
        "seconds_ratio": _interval(comparison.seconds_ratio),
        "tokens_ratio": _interval(comparison.tokens_ratio),
        "worse": [change.before.id for change in worse],
        "better": [change.before.id for change in better],
        "new_format_failures": list(comparison.new_format_failures),
    }


def letters(number: int) -> list[str]:
    """Return the letters of so many runs: a, b, c …"""
    return [chr(ord("a") + place) for place in range(number)]


def _difference(difference: Interval) -> str:
    word = "it may be chance" if not difference.excludes_zero else "better" if difference.mean > 0 else "worse"
    return f"{difference.mean:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}], {word}"


def _tests(comparison: Comparison) -> list[str]:
    found = []
    if comparison.mcnemar is not None:
        better, worse, p = comparison.mcnemar.better, comparison.mcnemar.worse, comparison.mcnemar.p
        verdict = "chance would do" if p >= _SURE else "more than chance"
        found.append(f"right in {better} that were wrong, wrong in {worse} that were right: p = {p:.3g}, {verdict}")
    if comparison.seconds_ratio is not None:
        found.append(f"an answer takes {_ratio(comparison.seconds_ratio)} as long")
    if comparison.tokens_ratio is not None:
        found.append(f"it has {_ratio(comparison.tokens_ratio)} as many tokens")
    if comparison.new_format_failures:
        names = ", ".join(comparison.new_format_failures[:5])
        more = " …" if len(comparison.new_format_failures) > 5 else ""
        found.append(f"newly not in the form asked for: {len(comparison.new_format_failures)} ({names}{more})")
    if comparison.missing:
        found.append(f"{comparison.missing} items are in one run alone")
    return found


def _ratio(ratio: Interval) -> str:
    return f"{ratio.mean:.2f} × [{ratio.low:.2f}, {ratio.high:.2f}]"


def _changes(comparison: Comparison) -> tuple[list[Change], list[Change]]:
    worse = [change for change in comparison.changes if change.by < 0]
    return worse, [change for change in reversed(comparison.changes) if change.by > 0]


def _change(change: Change) -> str:
    answered = shortened(_said(change.after))
    return f"{change.before.id}: {change.before.score:g} → {change.after.score:g}  {answered}"


def _changed_row(change: Change) -> list[str]:
    before, after = change.before, change.after
    return [
        before.id,
        f"{before.score:g}{' (form)' if before.format_failed else ''}",
        f"{after.score:g}{' (form)' if after.format_failed else ''}",
        *(shortened(text) for text in (before.prompt, _said(before), _said(after))),
    ]


def _said(item: Item) -> str:
    return f"error: {item.error}" if item.error else item.answer


def _named(runs: Sequence[Run], rows: Sequence[list[str]]) -> list[list[str]]:
    return [[*row, run.recipe, run.id] for run, row in zip(runs, rows, strict=True)]


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = [[_cell(cell) for cell in row] for row in rows]
    found = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*found, *(f"| {' | '.join(row)} |" for row in body)])


def _cell(text: str) -> str:
    """Return a text that breaks no table and is no markup: answers say what they like."""
    for mark in ("\\", "|", "<", "[", "`", "*", "_"):
        text = text.replace(mark, f"\\{mark}")
    return text


def _interval(found: Interval | None) -> dict[str, float] | None:
    return None if found is None else {"mean": found.mean, "low": found.low, "high": found.high}

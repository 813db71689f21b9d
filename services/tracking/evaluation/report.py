"""A run in words: for the terminal, and as Markdown beside it."""

import json
from collections.abc import Sequence
from typing import Any

from services.tracking.evaluation.figures import by_kind
from services.tracking.evaluation.runs import Figure, Item, Run

_WORST = 12
_CHARACTERS = 160


def markdown(run: Run, items: Sequence[Item]) -> str:
    """Return the report of a run."""
    parts = [
        f"# {run.model} on {run.set}\n",
        _about(run),
        "## Figures\n",
        "Means over items; in brackets their 95 % bootstrap intervals.\n",
        _figures_table(run),
        _kinds_table(items),
        _counts(run),
        _worst_table(items),
    ]
    return "\n".join(part for part in parts if part)


def lines(run: Run, items: Sequence[Item]) -> list[str]:
    """Return what the terminal shows of a run."""
    found = [f"{run.model} on {run.set}: {_state(run)}"]
    served = run.recipe if run.recipe and run.recipe != run.model else ""
    about = ", ".join(part for part in (served, run.engine, _limited(run)) if part)
    if about:
        found.append(about)
    for name, value in run.figures.items():
        found.append(f"  {name:<20} {with_interval(value)}  n={value.n}")
    for kind, value in by_kind(items).items():
        found.append(f"    {kind or '–':<18} {with_interval(value)}  n={value.n}")
    if run.times:
        rate = f", {run.times['tokens_per_s']:.1f} tokens/s" if "tokens_per_s" in run.times else ""
        found.append(f"  an answer took {run.times['p50']:.2f} s (median), {run.times['p95']:.2f} s (p95){rate}")
    found.append(f"  {_troubles(run)}")
    if run.note:
        found.append(run.note)
    return found


def with_interval(figure: Figure) -> str:
    """Return a mean and its interval: `0.712 [0.650, 0.771]`."""
    return f"{figure.mean:.3f} [{figure.low:.3f}, {figure.high:.3f}]"


def item_lines(item: Item) -> list[str]:
    """Return what the terminal shows of an item."""
    failed = ", not in the form asked for" if item.format_failed else ""
    found = [f"{item.id}: {item.score:g}{failed}", f"  asked:    {shortened(item.prompt)}"]
    found.append(f"  wanted:   {shortened(_spelled(item.reference))}")
    found.append(f"  error:    {item.error}" if item.error else f"  answered: {shortened(item.answer)}")
    return found


def shortened(text: str) -> str:
    """Return a text on one line, of bounded length."""
    line = " ".join(text.split())
    return line if len(line) <= _CHARACTERS else f"{line[: _CHARACTERS - 1]}…"


def _about(run: Run) -> str:
    rows = {
        "state": _state(run),
        "model": run.model,
        "served": run.served,
        "recipe": run.recipe,
        "revision": run.revision,
        "engine": run.engine,
        run.kind: f"{run.set} (digest {run.set_digest[:16]})" if run.set_digest else run.set,
        "limit": run.limit,
        "temperature": run.temperature,
        "seed": run.seed,
        "most tokens": run.max_tokens or "as the set says",
        "at once": run.concurrency,
        "started": run.started,
        "seconds": f"{run.seconds:.1f}",
        "commit": run.commit,
        "versions": ", ".join(f"{name} {version}" for name, version in run.versions.items()),
        "note": run.note,
    }
    found = ["| | |", "|---|---|"]
    found += [f"| {name} | {_cell(value)} |" for name, value in rows.items() if value not in ("", None)]
    return "\n".join(found) + "\n"


def _figures_table(run: Run) -> str:
    if not run.figures:
        return "Nothing was answered.\n"
    found = ["| figure | | n |", "|---|---|---:|"]
    found += [f"| {name} | {with_interval(value)} | {value.n} |" for name, value in run.figures.items()]
    found += [f"| {name} | {value:.3f} | |" for name, value in run.times.items()]
    return "\n".join(found) + "\n"


def _kinds_table(items: Sequence[Item]) -> str:
    kinds = by_kind(items)
    if not kinds:
        return ""
    found = ["| kind | score | n |", "|---|---|---:|"]
    found += [f"| {_cell(kind) or '–'} | {with_interval(value)} | {value.n} |" for kind, value in kinds.items()]
    return "\n".join(found) + "\n"


def _counts(run: Run) -> str:
    return f"{_troubles(run)}.\n"


def _troubles(run: Run) -> str:
    counts = run.counts
    return (
        f"{counts.get('items', 0)} items: {counts.get('errors', 0)} without an answer, "
        f"{counts.get('format_failures', 0)} not in the form asked for, {counts.get('cut', 0)} cut at the most tokens"
    )


def _worst_table(items: Sequence[Item]) -> str:
    worst = sorted((item for item in items if item.score < 1), key=lambda item: item.score)[:_WORST]
    if not worst:
        return ""
    found = ["## Lowest scores\n", "| id | score | asked | wanted | answered |", "|---|---:|---|---|---|"]
    for item in worst:
        answered = f"error: {item.error}" if item.error else item.answer
        cells = (_cell(item.prompt), _cell(_spelled(item.reference)), _cell(answered))
        found.append(f"| {_cell(item.id)} | {item.score:g} | {' | '.join(cells)} |")
    return "\n".join(found) + "\n"


def _state(run: Run) -> str:
    return run.state if run.state != "finished" else f"finished, {run.counts.get('items', 0)} items"


def _limited(run: Run) -> str:
    return f"the first {run.limit} alone" if run.limit else ""


def _spelled(reference: Any) -> str:
    return reference if isinstance(reference, str) else json.dumps(reference, ensure_ascii=False)


def _cell(value: Any) -> str:
    """Return a text that breaks no table and is no markup: answers say what they like."""
    text = shortened(str(value))
    for mark in ("\\", "|", "<", "[", "`", "*", "_"):
        text = text.replace(mark, f"\\{mark}")
    return text

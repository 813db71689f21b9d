"""A judgement in words: for the terminal, and as Markdown beside it."""

from services.tracking.evaluation.judgements import Judgement, win_rate_range
from services.tracking.evaluation.report import with_interval

# Below it the judge's word is worth little, and the report says so first.
_CONSISTENT = 0.5


def lines(judgement: Judgement) -> list[str]:
    """Return what the terminal shows of a judgement."""
    head = [_head(judgement)]
    body = _pairwise(judgement) if judgement.kind == "pairwise" else _grades(judgement)
    notes = [f"note: {note}" for note in warnings(judgement)]
    return [*head, *(f"  {line}" for line in body), *notes, *([judgement.note] if judgement.note else [])]


def markdown(judgement: Judgement) -> str:
    """Return the report of a judgement."""
    body = _pairwise(judgement) if judgement.kind == "pairwise" else _grades(judgement)
    rows = {
        "state": judgement.state,
        "judge": judgement.judge + (f" ({judgement.served})" if judgement.served != judgement.judge else ""),
        "set": f"{judgement.set} (digest {judgement.set_digest[:16]})",
        "a": f"{judgement.model_a}, {judgement.run_a}",
        "b": f"{judgement.model_b}, {judgement.run_b}" if judgement.run_b else "",
        "rubric": judgement.rubric,
        "method": judgement.method + (", with reasons" if judgement.reasons else ""),
        "references": "shown" if judgement.references else "not shown",
        "started": judgement.started,
        "seconds": f"{judgement.seconds:.1f}",
    }
    table = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items() if value)]
    parts = [f"# {_head(judgement)}", "", *table, "", *(f"- {line}" for line in body), ""]
    parts += [f"**Note**: {note}\n" for note in warnings(judgement)]
    return "\n".join([*parts, *([judgement.note, ""] if judgement.note else [])])


def warnings(judgement: Judgement) -> list[str]:
    """Return what a reader must know before the figures are believed."""
    found = []
    consistency = judgement.consistency
    if consistency is not None and consistency < _CONSISTENT:
        found.append(
            f"{judgement.judge} contradicts itself in {1 - consistency:.0%} of the pairs when the answers change "
            "places: its verdicts say little; take a larger judge"
        )
    asked = judgement.counts.get("asked", judgement.counts.get("answers", 0))
    invalid = judgement.counts.get("invalid", 0)
    if invalid and asked:
        found.append(
            f"{invalid} of {asked} verdicts can't be read; verdicts.jsonl says why"
            " (a judge that thinks first needs --max-tokens)"
        )
    judged = {judgement.model_a, judgement.model_b}
    if judgement.judge in judged or judgement.served in judged:
        found.append("the judge is one of the judged: models tend to prefer their own answers")
    return found


def metrics_of(judgement: Judgement) -> dict[str, float]:
    """Return a judgement's figures and counts as MLflow takes them."""
    found: dict[str, float] = {}
    for name, value in judgement.figures.items():
        found |= {name: value.mean, f"{name}.low": value.low, f"{name}.high": value.high}
    if judgement.consistency is not None:
        found["consistency"] = judgement.consistency
    return found | {f"count.{name}": float(value) for name, value in judgement.counts.items()}


def parameters_of(judgement: Judgement) -> dict[str, str]:
    """Return how a judgement was made."""
    names = ("kind", "judge", "served", "method", "run_a", "model_a", "run_b", "model_b", "set", "set_digest", "rubric")
    return {name: str(getattr(judgement, name)) for name in names if getattr(judgement, name)}


def tags_of(judgement: Judgement) -> dict[str, str]:
    """Return what a judgement is found by."""
    found = {
        "sparkstack.judgement": judgement.id,
        "sparkstack.judge": judgement.judge,
        "sparkstack.set": judgement.set,
        "mlflow.source.name": "sparkstack eval judge",
    }
    return {name: value for name, value in found.items() if value}


def _head(judgement: Judgement) -> str:
    if judgement.kind == "pairwise":
        return (
            f"{judgement.model_a} (a) against {judgement.model_b} (b) on {judgement.set}, judged by {judgement.judge}"
        )
    return f"{judgement.model_a} on {judgement.set}, graded by {judgement.judge} ({judgement.rubric})"


def _pairwise(judgement: Judgement) -> list[str]:
    counts = judgement.counts
    if not counts.get("pairs"):
        return ["nothing was judged"]
    found = [f"a won {counts['a']}, b won {counts['b']}, {counts['tie']} ties, of {counts['pairs']} pairs"]
    names = {"win_rate": "win rate of a", "win_rate_length_controlled": "at equal lengths"}
    found += [f"{names[name]}: {with_interval(value)}" for name, value in judgement.figures.items() if name in names]
    length = judgement.length
    if length is not None:
        part = "has had a part" if length.weight_low > 0 or length.weight_high < 0 else "has had no part that shows"
        found.append(
            f"length {part}: weight {length.weight:+.2f} [{length.weight_low:+.2f}, {length.weight_high:+.2f}] logits"
        )
    consistency = judgement.consistency
    if consistency is not None:
        found.append(
            f"places swapped, the same verdict in {consistency:.0%} of {counts['asked'] - counts['invalid']} pairs; "
            f"else it chose the first place in both ({counts['first']}), the second ({counts['second']}), "
            f"or wavered ({counts['wavered']}): ties"
        )
    without = [f"{counts['identical']} of the same words (ties)"] if counts["identical"] else []
    without += [f"{counts['unanswered']} whose request had failed (lost)"] if counts["unanswered"] else []
    if without:
        found.append(f"decided without the judge: {', '.join(without)}")
    if counts["invalid"]:
        low, high = win_rate_range(counts)
        found.append(
            f"unreadable verdicts: {counts['invalid']} pairs, neither won nor lost; the win rate would be {low:.3f} "
            f"if all were lost, {high:.3f} if all were won"
        )
    return found


def _grades(judgement: Judgement) -> list[str]:
    counts = judgement.counts
    if not counts.get("answers"):
        return ["nothing was graded"]
    found = [f"{name}: {with_interval(value)}  n={value.n}" for name, value in judgement.figures.items()]
    grades = [f"{name.removeprefix('grade_')}: {n}" for name, n in counts.items() if name.startswith("grade_")]
    found.append(f"answers by grade: {', '.join(grades)}")
    if counts["unanswered"]:
        found.append(f"{counts['unanswered']} requests had failed: they have the lowest grade")
    if counts["invalid"]:
        found.append(f"{counts['invalid']} of {counts['answers']} grades can't be read, and count nothing")
    return found

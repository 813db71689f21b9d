"""The report's picture: nDCG by preset with intervals, and by kind of question."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from services.rag.evaluating.runner import Evaluation

_COLOURS = ("#2f6fb3", "#d08a2e", "#4f9b5f", "#8a5fa8", "#a9b4bf", "#b3402f")


class MatplotlibMissingError(Exception):
    """The drawing library is not installed; everything but the picture works without it."""


def draw(summary: Mapping[str, Any], evaluation: Evaluation, folder: Path) -> list[Path]:
    """Write `report.png` and `report.svg`; return them.

    Raises:
        MatplotlibMissingError
    """
    try:
        import matplotlib as mpl
    except ImportError:
        raise MatplotlibMissingError("no picture: matplotlib is not installed (dependency group `bench`)") from None
    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (left, middle, right) = pyplot.subplots(1, 3, figsize=(13, 4))
    _presets(left, summary)
    _kinds(middle, summary)
    _milliseconds(right, evaluation)
    figure.suptitle(
        f"{summary['collection']}, {summary['split']}: {summary['questions']['judged']} questions", fontsize=10
    )
    figure.tight_layout()
    written = [folder / "report.png", folder / "report.svg"]
    for path in written:
        figure.savefig(path, dpi=130)
    pyplot.close(figure)
    return written


def _presets(axis: Any, summary: Mapping[str, Any]) -> None:
    names = list(summary["presets"])
    found = [summary["presets"][name]["measures"]["ndcg"] for name in names]
    means = [each["mean"] for each in found]
    errors = [[each["mean"] - each["low"] for each in found], [each["high"] - each["mean"] for each in found]]
    axis.bar(names, means, yerr=errors, capsize=4, color=_COLOURS[: len(names)], width=0.6)
    axis.set(ylim=(0, 1), title=f"nDCG@{summary['k']}, 95 % intervals")
    axis.tick_params(axis="x", labelrotation=15)


def _kinds(axis: Any, summary: Mapping[str, Any]) -> None:
    presets = summary["presets"]
    kinds = list(next(iter(presets.values()))["by_kind"])
    width = 0.8 / len(presets)
    for at, (name, preset) in enumerate(presets.items()):
        places = [place + (at - (len(presets) - 1) / 2) * width for place in range(len(kinds))]
        heights = [preset["by_kind"][kind]["ndcg"] for kind in kinds]
        axis.bar(places, heights, width, label=name, color=_COLOURS[at % len(_COLOURS)])
    axis.set_xticks(range(len(kinds)), [kind or "all" for kind in kinds], rotation=15)
    axis.set(ylim=(0, 1), title="by kind of question")
    axis.legend(fontsize=8)


def _milliseconds(axis: Any, evaluation: Evaluation) -> None:
    for at, (name, rows) in enumerate(evaluation.rows.items()):
        ordered = sorted(row.ms for row in rows)
        shares = [(place + 1) / len(ordered) for place in range(len(ordered))]
        axis.step(ordered, shares, where="post", label=name, color=_COLOURS[at % len(_COLOURS)])
    axis.set(xlim=(0, None), xlabel="ms", ylabel="share of searches", title="time of a search")
    axis.legend(fontsize=8)

"""The findings as one picture: CPU a request, CPU a chunk, memory; bars on a logarithmic scale."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from loadtests.gateway_overhead.arithmetic import Spread
from loadtests.gateway_overhead.report import summary
from loadtests.gateway_overhead.run import Row
from loadtests.gateway_overhead.targets import DIRECT

_OWN = "sparkstack"
_OWN_COLOUR, _PEER_COLOUR, _LIMIT_COLOUR = "#2f6fb3", "#a9b4bf", "#b3402f"
_PANELS: tuple[tuple[str, float, Callable[[Row], Spread]], ...] = (
    ("CPU µs a request", 500, lambda row: summary(row)["cpu_us_per_request"]),
    ("CPU µs a streamed chunk", 100, lambda row: summary(row)["cpu_us_per_chunk"]),
    ("peak RSS, MB", 150, lambda row: Spread(*[row.peak_rss_bytes / 1e6] * 3)),
)
"""Title, the most that this project allows itself, and where the value comes from."""


class MatplotlibMissingError(Exception):
    """The drawing library is not installed; everything but the picture works without it."""


def draw(rows: Sequence[Row], title: str, path: Path) -> None:
    """Write the picture of all gateways that were measured as PNG.

    Raises:
        MatplotlibMissingError: without matplotlib.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        raise MatplotlibMissingError("no picture: matplotlib is not installed (dependency group `bench`)") from None
    mpl.use("Agg")
    from matplotlib import pyplot

    measured = [row for row in rows if row.repetitions and row.status == "ok" and row.name != DIRECT]
    measured.sort(key=lambda row: -summary(row)["cpu_us_per_request"].median)
    figure, axes = pyplot.subplots(1, len(_PANELS), figsize=(13, 1.4 + 0.55 * max(len(measured), 2)), sharey=True)
    for axis, (name, limit, value) in zip(axes, _PANELS, strict=True):
        _bars(axis, measured, name, limit, value)
    figure.suptitle(title, fontsize=10, x=0.01, horizontalalignment="left")
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _bars(axis: Any, rows: Sequence[Row], name: str, limit: float, value: Callable[[Row], Spread]) -> None:
    spreads = [value(row) for row in rows]
    places = range(len(rows))
    colours = [_OWN_COLOUR if row.name == _OWN else _PEER_COLOUR for row in rows]
    medians = [one.median for one in spreads]
    below = [one.median - one.low for one in spreads]
    above = [one.high - one.median for one in spreads]
    axis.barh(places, medians, xerr=[below, above], color=colours, ecolor="#555555", capsize=2, height=0.62)
    axis.set_yticks(places, [row.name for row in rows])
    axis.set_xscale("log")
    axis.set_xlim(left=1, right=max([limit, *(one.high for one in spreads)]) * 4)
    axis.axvline(limit, color=_LIMIT_COLOUR, linestyle="--", linewidth=1)
    for place, one in zip(places, spreads, strict=True):
        axis.annotate(
            f"{one.median:,.0f}",
            (one.high, place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )
    axis.set_title(f"{name}\n(dashed: our limit, {limit:,.0f})", fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="x", which="major", color="#e3e3e3")
    axis.set_axisbelow(True)

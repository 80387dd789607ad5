"""Values with their intervals, one line each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from modalnet.plotting.layers import CHANCE, SMALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def intervals(
    rows: Sequence[tuple[str, float, float, float]], *, label: str = "", ax: Axes | None = None, zero: bool = True
) -> Axes:
    """Draw values with their intervals as dots and whiskers, the first one on top.

    Parameters
    ----------
    rows
        Name, value, lower and upper bound of each.
    label
        Of the x axis.
    ax
        Where to draw; a new figure, if None.
    zero
        Draw a line at zero.

    Returns
    -------
    Axes
    """
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.figure(figsize=(4.2, 0.26 * len(rows) + 0.8), layout="constrained").subplots()
    for place, (_, value, low, high) in enumerate(rows):
        ax.plot([low, high], [place, place], color=CHANCE, linewidth=2, zorder=1)
        ax.plot([value], [place], "o", color="#0072B2", markersize=5, zorder=2)
    if zero:
        ax.axvline(0, color=CHANCE, linewidth=0.6, zorder=0)
    ax.set_yticks(range(len(rows)), [name for name, *_ in rows], fontsize=SMALL)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlabel(label, fontsize=SMALL)
    ax.tick_params(axis="x", labelsize=SMALL)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def reliability_intervals(result: Any, **options: Any) -> Axes:
    """Draw a reliability: every measure for the network and for random units."""
    table: list[Mapping[Any, Any]] = result.table().to_dict("records")
    rows = [(f"{row['measure']}, {row['units']}", row["mean"], row["low"], row["high"]) for row in table]
    return intervals(rows, **options)


def human_intervals(result: Any, **options: Any) -> Axes:
    """Draw a comparison with humans: the difference of each pair of conditions."""
    rows = [(f"{row['higher']} > {row['lower']}", row["difference"], row["low"], row["high"]) for row in result.rows]
    return intervals(rows, **{"label": "difference of responses", **options})

"""Figures of information flow: what an answer loses without attention between groups of tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from modalnet.plotting.style import NETWORKS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from modalnet.patching.flow_result import InformationFlow

TEXT, SMALL = 8, 7
INK, GREY = "#444444", "#888888"
#: Random edges of each kind.
DASHES = {"number": ":", "attention": "--"}
#: Points of a band, and its largest width as a share of the distance between two groups.
POINTS, WIDEST = 40, 0.5


def drop_over_depth(flow: InformationFlow, *, ax: Axes | None = None) -> Axes:
    """Draw what the metric loses without each set of edges over depth, and without random edges.

    Parameters
    ----------
    flow
        The result of :func:`modalnet.information_flow`.
    ax
        Axes; a new figure is made if None.
    """
    ax = _axes(ax, (4.4, 2.8))
    table = flow.table()
    middles = [(first + stop - 1) / 2 for first, stop in flow.windows]
    for name, colour in zip(flow.names, _colours(flow), strict=True):
        own = table[table["edges"] == name]
        ax.plot(middles, own["drop"], "o-", color=colour, markersize=3, linewidth=1.4, label=name)
        ax.fill_between(middles, own["low"], own["high"], color=colour, alpha=0.18, linewidth=0)
        for kind in flow.controls:
            ax.plot(middles, own[f"drop_{kind}"], DASHES[kind], color=colour, linewidth=1)
    for kind in flow.controls:
        ax.plot([], [], DASHES[kind], color=GREY, linewidth=1, label=f"random edges of equal {kind}")
    ax.axhline(0, color=INK, linewidth=0.7)
    length = flow.windows[0][1] - flow.windows[0][0]
    ax.set_xlabel(f"{flow.tower} layer (middle of {length} layers without these edges)", fontsize=TEXT)
    ax.set_ylabel(f"loss of {flow.metric}{' (nats)' if flow.metric == 'log-probability' else ''}", fontsize=TEXT)
    ax.tick_params(labelsize=SMALL)
    ax.legend(fontsize=SMALL, frameon=False)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    return ax


def flow_between_groups(flow: InformationFlow, *, ax: Axes | None = None) -> Axes:
    """Draw a flow from source to target groups over depth: bands as wide as the loss without the edges is large.

    Bands of sets whose verdict is not *needed* are pale. What costs nothing has no band.

    Parameters
    ----------
    flow
        The result of :func:`modalnet.information_flow`. Names of its sets have the form ``"source to target"``.
    ax
        Axes; a new figure is made if None.
    """
    ends = [_ends(name) for name in flow.names]
    groups = list(dict.fromkeys([*(source for source, _ in ends), *(target for _, target in ends)]))
    heights = {group: len(groups) - 1 - place for place, group in enumerate(groups)}
    ax = _axes(ax, (5.2, 0.7 + 0.75 * len(groups)))
    for height in heights.values():
        ax.axhline(height, color=GREY, linewidth=0.8, alpha=0.6, zorder=0)
    verdicts = flow.verdicts()
    drops = {name: drop.mean(1) for name, drop in flow.drop.items()}
    largest = max(*(float(drop.max()) for drop in drops.values()), 1e-12)
    for (source, target), colour, name in zip(ends, _colours(flow), flow.names, strict=True):
        (row,) = verdicts[verdicts["edges"] == name].to_dict("records")
        for at, ((first, stop), drop) in enumerate(zip(flow.windows, drops[name], strict=True)):
            if drop > 0:
                ends_at = (first - 0.5, stop - 0.5), (heights[source], heights[target])
                _band(ax, *ends_at, WIDEST * drop / largest, colour=colour, needed=at in row["windows"])
    ax.set_yticks(list(heights.values()), list(heights), fontsize=TEXT)
    ax.set_xlim(flow.windows[0][0] - 0.6, flow.windows[-1][1] - 0.4)
    ax.set_ylim(-0.6, len(groups) - 0.4)
    ax.set_xlabel(f"{flow.tower} layer", fontsize=TEXT)
    ax.tick_params(labelsize=SMALL, length=0)
    unit = " nats" if flow.metric == "log-probability" else ""
    ax.set_title(f"widest: {largest:.2g}{unit} of {flow.metric}; pale: not more than random edges", fontsize=SMALL)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    return ax


def _band(
    ax: Axes, across: tuple[float, float], heights: tuple[float, float], width: float, *, colour: str, needed: bool
) -> None:
    """A band that leaves its source at the first layer of a window and reaches its target at the last."""
    share = np.linspace(0, 1, POINTS)
    x = across[0] + (across[1] - across[0]) * share
    middle = heights[0] + (heights[1] - heights[0]) * (3 * share**2 - 2 * share**3)
    ax.fill_between(
        x, middle - width / 2, middle + width / 2, color=colour, alpha=0.55 if needed else 0.12, linewidth=0
    )


def _ends(name: str) -> tuple[str, str]:
    source, _, target = name.partition(" to ")
    return source, target or "target"


def _colours(flow: InformationFlow) -> list[str]:
    return [NETWORKS[place % len(NETWORKS)] for place in range(len(flow.names))]


def _axes(ax: Any, size: tuple[float, float]) -> Any:
    if ax is not None:
        return ax
    from matplotlib import pyplot

    return pyplot.figure(figsize=size, layout="constrained").subplots()

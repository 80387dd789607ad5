"""Distributions over all units: histogram of t beside the null distribution, and volcano plot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from modalnet.plotting.layers import CHANCE, NETWORK, SMALL, axes_for, label_towers
from modalnet.plotting.threshold import largest
from modalnet.units import as_units_within

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from modalnet.localization.result import Localization
    from modalnet.units import Units

BINS = 80
LEAST_Q = 1e-300  # smaller values are drawn here
INK = "#222222"
ALPHA = 0.05  # line in a volcano plot


def t_histogram(
    localization: Localization,
    units: Units | None = None,
    *,
    fraction: float = 0.01,
    ax: Axes | Sequence[Axes] | np.ndarray | None = None,
    color: str = NETWORK,
) -> Axes | np.ndarray:
    """Draw the histogram of t over the units of each space, and of those in a network.

    Parameters
    ----------
    localization
        The localization.
    units
        The network; by default the top ``fraction`` of all localized units.
    fraction
        Fraction of the units, as for ``Localization.top``; at least one unit is drawn.
    ax
        One axes, or one per space. A new figure is made if None.
    color
        Colour of the network.

    Returns
    -------
    Axes or array of Axes
        One for a single space, otherwise [space]. The y axis is the number of units (logarithmic).

    Raises
    ------
    InputError
        If the units have other shapes than the localization, or ``ax`` does not have one axes per space.

    Notes
    -----
    The dashed line is the standard normal distribution, which t follows (for more than a few dozen stimuli) if no unit
    differs between the sides.
    """
    network = _network(localization, units, fraction)
    axes = axes_for(localization, ax)
    values = [np.concatenate([t[np.isfinite(t)] for t in localization.t.values()])]
    edges = np.linspace(min(values[0].min(initial=-4), -4), max(values[0].max(initial=4), 4), BINS + 1)
    highest = 1.0
    middles = (edges[1:] + edges[:-1]) / 2
    for panel, tower in zip(axes, localization.spaces, strict=True):
        t = localization.t[tower]
        finite = np.isfinite(t)
        counts = np.histogram(t[finite], edges)[0]
        own = np.histogram(t[network.mask[tower] & finite], edges)[0]
        panel.stairs(counts, edges, fill=True, color=CHANCE, alpha=0.55, label=f"{finite.sum():,} units")
        panel.stairs(
            own, edges, fill=True, color=color, label=f"network, {own.sum():,} unit{'' if own.sum() == 1 else 's'}"
        )
        normal = counts.sum() * np.diff(edges) * np.exp(-(middles**2) / 2) / np.sqrt(2 * np.pi)
        panel.plot(middles, normal, linestyle=(0, (4, 2)), color=INK, linewidth=0.9, label="null distribution")
        panel.set_yscale("log")
        highest = max(highest, counts.max(initial=1), normal.max(initial=1))
        panel.set_ylim(0.7, 12 * highest)  # the panels share it; the legend stands on top
        panel.set_xlim(edges[0], edges[-1])
        _finish(panel)
    label_towers(axes, localization, "t (positive vs. negative conditions)", "number of units")
    return axes if len(axes) > 1 else axes[0]


def volcano(
    localization: Localization,
    units: Units | None = None,
    *,
    fraction: float = 0.01,
    ax: Axes | Sequence[Axes] | np.ndarray | None = None,
    color: str = NETWORK,
) -> Axes | np.ndarray:
    """Draw the volcano plot of all units: effect size (Hedges' g) against FDR-adjusted p.

    Parameters
    ----------
    localization, units, fraction, ax, color
        As for :func:`t_histogram`.

    Returns
    -------
    Axes or array of Axes
        One for a single space, otherwise [space]. Above the dashed line q < 0.05.

    Raises
    ------
    InputError
        As for :func:`t_histogram`.
    """
    network = _network(localization, units, fraction)
    axes = axes_for(localization, ax)
    for panel, tower in zip(axes, localization.spaces, strict=True):
        g, q = localization.effect_size[tower], localization.q[tower]
        known = np.isfinite(g) & np.isfinite(q)
        height = -np.log10(np.maximum(q, LEAST_Q))
        for mask, colour, size in (
            (known & ~network.mask[tower], CHANCE, 2.0),
            (known & network.mask[tower], color, 4.0),
        ):
            name = f"network, {mask.sum():,} units" if colour == color else f"{mask.sum():,} other units"
            look: dict[str, Any] = {"alpha": 0.6, "linewidths": 0, "rasterized": True}
            panel.scatter(g[mask], height[mask], s=size, color=colour, label=name, **look)
        line = -np.log10(ALPHA)
        panel.axhline(line, linestyle=(0, (4, 2)), color=INK, linewidth=0.9, label=f"q = {ALPHA}")
        panel.set_ylim(0, 1.35 * max(height[known].max(initial=line), 2 * line))
        _finish(panel)
    label_towers(axes, localization, "effect size (Hedges' g)", "-log10 q")
    return axes if len(axes) > 1 else axes[0]


def _network(localization: Localization, units: Units | None, fraction: float) -> Units:
    if units is None:
        network = largest(localization, fraction)
    else:
        network = as_units_within(units, localization.shapes, "the localization")
    return network


def _finish(panel: Axes) -> None:
    panel.tick_params(labelsize=SMALL)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(loc="upper left", fontsize=SMALL, frameon=False, handlelength=1.4, borderaxespad=0.2)

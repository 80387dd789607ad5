"""The glass view: a model in three dimensions, with its networks highlighted.

The patches of the sheet (see :mod:`modalnet.plotting.sheet`) stand one behind the other as panes, in the order of the
forward pass. Units that pass the threshold glow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from modalnet._deprecation import renamed_arguments
from modalnet.models.towers import modality_of, tower_of
from modalnet.plotting.arrangement import ARBITRARY, Arrangement, arrange
from modalnet.plotting.combined import Localizations, as_mapping, space_label, towers_of
from modalnet.plotting.layers import SMALL, TEXT
from modalnet.plotting.saving import new_figure
from modalnet.plotting.sheet_layout import outline_of
from modalnet.plotting.style import (
    INK,
    MAX_NETWORKS,
    NETWORKS,
    PAGE,
    Theme,
    check_theme,
    map_title,
    network_handles,
)
from modalnet.plotting.threshold import Threshold, selected

if TYPE_CHECKING:
    from jaxtyping import Float
    from mpl_toolkits.mplot3d import Axes3D

    from modalnet.units import Units

SIZE = (7.2, 3.7)  # inches
LENGTH = 3.4  # of a space, in widths of its patches
BETWEEN = 0.55  # length of the connector, in the same unit
GLOW = ((42.0, 0.08), (14.0, 0.2), (3.5, 0.95))  # area and opacity of a unit's halos, outermost first
CROWD = 150  # number of units from which on they are drawn smaller
FILLS = (0.9, 0.66)  # fraction of the figure that the model takes, in width and height
VIEW = {"elev": 16, "azim": -62}


@renamed_arguments(networks="units")
def glass(
    localizations: Localizations,
    units: Mapping[str, Units] | Sequence[Units] | Units | None = None,
    *,
    t: float | None = None,
    q: float | None = None,
    top: float | None = None,
    arrangement: Arrangement | None = None,
    theme: Theme = "dark",
    ax: Axes3D | None = None,
) -> Axes3D:
    """Draw a model in three dimensions, with its networks highlighted.

    Parameters
    ----------
    localizations, units, t, q, top, arrangement
        As for :func:`modalnet.plotting.sheet`; by default ``top=0.01``.
    theme
        ``"dark"`` or ``"light"``.
    ax
        Axes with ``projection="3d"``; a new figure is made if None.

    Returns
    -------
    Axes3D
        x is depth, y and z are the plane of the patches; rotate with ``ax.view_init``.

    Raises
    ------
    InputError
        As for :func:`modalnet.plotting.sheet`.
    """
    found = as_mapping(localizations)
    rule = Threshold.of(t=t, q=q, top=top, default="top")
    check_theme(theme)
    chosen = selected(found, rule, units, most=MAX_NETWORKS)
    shapes = towers_of(found)
    placed = arrange(found) if arrangement is None else arrangement
    placed.check(shapes)
    own = ax is None
    ax = _new_axes(theme) if ax is None else ax
    ink = INK[theme]
    ax.set_facecolor(PAGE[theme])
    depths = _depths(shapes, placed)
    for tower, x in depths.items():
        rim = _in_plane(outline_of(placed.sizes[tower]))
        _panes(ax, rim, x, ink)
        below = rim[:, 1].min() * 1.35
        ax.text(x.mean(), 0, below, space_label(tower), fontsize=TEXT, color=ink, ha="center", va="top", weight="bold")
        for block, ha in ((0, "right"), (len(x) - 1, "left")):
            ax.text(x[block], 0, rim[:, 1].max() * 1.12, str(block), fontsize=SMALL - 1, color=ink, ha=ha, alpha=0.8)
    for first, second in pairwise(depths):
        # Between a tower of another modality and the text tower that reads it.
        if modality_of(first) != "text" and modality_of(second) == "text":
            _connector(ax, placed, (first, second), depths, ink)
    _networks(ax, chosen, placed, depths, ink)
    _finish(ax, placed, depths)
    shown = "units as given" if units is not None else str(rule)
    whole = ax.figure.transFigure if own else ax.transAxes
    ax.text2D(
        0.015,
        0.97,
        map_title(found, shown),
        transform=whole,
        fontsize=TEXT,
        color=ink,
        va="top",
    )
    note = ARBITRARY
    if any(tower == tower_of(tower) for tower in depths):
        note += "\nLines join consecutive blocks that have the same dimension of the residual stream in a network."
    ax.text2D(0.015, 0.02, note, transform=whole, fontsize=SMALL - 1, color=ink, alpha=0.75, linespacing=1.3)
    ax.legend(
        handles=network_handles(chosen, overlap=ink),
        loc="upper right",
        bbox_to_anchor=(0.99, 0.99),
        bbox_transform=whole,
        fontsize=SMALL,
        frameon=False,
        labelcolor=ink,
        handlelength=1.2,
        ncols=2,
    )
    return ax


def _new_axes(theme: Theme) -> Axes3D:
    figure = new_figure(figsize=SIZE, facecolor=PAGE[theme])
    return figure.add_axes((0, 0, 1, 1), projection="3d")


def _depths(shapes: Mapping[str, tuple[int, int]], placed: Arrangement) -> dict[str, np.ndarray]:
    """Return x of each block of each space, one space behind the other."""
    widest = max(size[1] for size in placed.sizes.values())
    most = max(layers for layers, _ in shapes.values())
    step = LENGTH * widest / max(most - 1, 1)
    depths, x = {}, 0.0
    for tower, (n_layers, _) in shapes.items():
        depths[tower] = x + step * np.arange(n_layers)
        x = depths[tower][-1] + BETWEEN * widest
    return depths


def _in_plane(points: np.ndarray) -> np.ndarray:
    """Turn (x, y) with y downwards into (y, z) with z upwards."""
    return points * (1, -1)


def _panes(ax: Axes3D, rim: np.ndarray, depths: np.ndarray, ink: str) -> None:
    from mpl_toolkits.mplot3d.art3d import Poly3DCollection

    panes = [np.column_stack([np.full(len(rim), x), rim]) for x in depths]
    # Many panes are drawn more lightly.
    alpha = 0.9 / (2 + len(depths)) ** 0.5
    face, edge = (*_rgb(ink), 0.12 * alpha), (*_rgb(ink), alpha)
    ax.add_collection3d(Poly3DCollection(panes, facecolors=face, edgecolors=edge, linewidths=0.5, clip_on=False))


def _connector(
    ax: Axes3D, placed: Arrangement, towers: tuple[str, str], depths: Mapping[str, np.ndarray], ink: str
) -> None:
    from mpl_toolkits.mplot3d.art3d import Poly3DCollection

    ends = []
    for tower, x in ((towers[0], depths[towers[0]][-1]), (towers[1], depths[towers[1]][0])):
        rim = _in_plane(outline_of(placed.sizes[tower]))[::4]
        ends.append(np.column_stack([np.full(len(rim), x), rim]))
    faces = [np.array([ends[0][i], ends[0][i + 1], ends[1][i + 1], ends[1][i]]) for i in range(len(ends[0]) - 1)]
    face, edge = (*_rgb(ink), 0.05), (*_rgb(ink), 0.10)
    ax.add_collection3d(Poly3DCollection(faces, facecolors=face, edgecolors=edge, linewidths=0.3, clip_on=False))
    middle = np.concatenate(ends).mean(axis=0)
    top = max(end[:, 2].max() for end in ends)
    ax.text(middle[0], 0, 1.3 * top, "connector", fontsize=SMALL, color=ink, ha="center", alpha=0.8)


def _networks(
    ax: Axes3D, chosen: Mapping[str, Units], placed: Arrangement, depths: Mapping[str, np.ndarray], overlap: str
) -> None:
    size = min(1.0, CROWD / max(1, *(units.count for units in chosen.values()))) ** 0.5
    for tower, x in depths.items():
        masks = {name: units.mask[tower] for name, units in chosen.items() if tower in units.mask}
        times = np.sum(list(masks.values()), axis=0)
        places = _places(placed, tower, x)
        colours = dict(zip(chosen, NETWORKS, strict=False))
        for name, mask in masks.items():
            if tower == tower_of(tower):
                _streams(ax, mask, places, colours[name])
            _glow(ax, places[mask & (times == 1)], colours[name], size)
        _glow(ax, places[times > 1], overlap, size)


def _places(placed: Arrangement, tower: str, x: np.ndarray) -> Float[np.ndarray, "layer dim 3"]:
    """Return (x, y, z) of each unit."""
    height, width = placed.sizes[tower]
    panes = []
    for block, depth in enumerate(x):
        rows, columns = placed.cells(tower, block)
        flat = _in_plane(np.column_stack([columns + 0.5 - width / 2, rows + 0.5 - height / 2]))
        panes.append(np.column_stack([np.full(len(flat), depth), flat]))
    return np.stack(panes)


def _glow(ax: Axes3D, points: Float[np.ndarray, "unit 3"], colour: str, size: float) -> None:
    look: dict[str, Any] = {"color": colour, "linewidths": 0, "depthshade": False, "clip_on": False}
    for area, opacity in GLOW if len(points) else ():
        ax.scatter(*points.T, s=area * size, alpha=opacity, **look)


def _streams(ax: Axes3D, mask: np.ndarray, places: Float[np.ndarray, "layer dim 3"], colour: str) -> None:
    """Draw a line wherever a dimension of the residual stream is selected in two consecutive blocks."""
    from mpl_toolkits.mplot3d.art3d import Line3DCollection

    both = mask[:-1] & mask[1:]
    lines = np.stack([places[:-1][both], places[1:][both]], axis=1)
    if len(lines):
        ax.add_collection3d(Line3DCollection(lines, colors=colour, alpha=0.45, linewidths=0.7, clip_on=False))


def _finish(ax: Axes3D, placed: Arrangement, depths: Mapping[str, np.ndarray]) -> None:
    from mpl_toolkits.mplot3d.proj3d import proj_transform

    high = max(size[0] for size in placed.sizes.values()) / 2
    wide = max(size[1] for size in placed.sizes.values()) / 2
    low, far = (min(x[0] for x in depths.values()), max(x[-1] for x in depths.values()))
    far = max(far, low + 1)
    ax.set_xlim(low, far)
    ax.set_ylim(-wide, wide)
    ax.set_zlim(-high, high)
    ax.view_init(**VIEW)
    ax.set_axis_off()
    aspect = (far - low, 2 * wide, 2 * high)
    ax.set_box_aspect(aspect)
    ax.apply_aspect()  # makes the axes square, as drawing will
    corners = np.array([(x, y, z) for x in (low, far) for y in (-wide, wide) for z in (-high, high)]).T
    seen = np.array(ax.transData.transform(np.column_stack(proj_transform(*corners, ax.get_proj())[:2])))
    figure = np.array(ax.figure.bbox.size)
    ax.set_box_aspect(aspect, zoom=float((FILLS * figure / np.ptp(seen, axis=0)).min()))


def _rgb(colour: str) -> tuple[float, float, float]:
    from matplotlib.colors import to_rgb

    return to_rgb(colour)

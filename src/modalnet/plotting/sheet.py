"""The sheet: a model as a flat map, one patch per block from input to output, with t as a thresholded statistical map.

As on a flattened cortex, the background is grey (here the rank of a unit's mean absolute activation in its block, where
a flat map of the brain shows curvature), and only units that pass a threshold are coloured. Depth is real; the position
within a patch is arbitrary, and the figure says so: see :mod:`modalnet.plotting.arrangement`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from modalnet._deprecation import renamed_arguments
from modalnet.plotting.arrangement import ARBITRARY, Arrangement, arrange
from modalnet.plotting.combined import Localizations, as_mapping, owner_of, space_label, towers_of
from modalnet.plotting.layers import SMALL, TEXT
from modalnet.plotting.saving import new_figure
from modalnet.plotting.sheet_layout import WIDTH, Layout, lay_out, outline_of
from modalnet.plotting.style import (
    COLD,
    INK,
    MAX_NETWORKS,
    NETWORKS,
    OVERLAP,
    PAGE,
    WARM,
    Theme,
    check_theme,
    colour_map,
    map_title,
    network_handles,
)
from modalnet.plotting.threshold import Threshold, selected

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from matplotlib.axes import Axes

    from modalnet.localization.result import Localization
    from modalnet.units import Units

BACKGROUND = (0.34, 0.46)  # grey of the units with the smallest and the largest mean absolute activation of a block
BASE = "#3B3B3B"  # a patch beneath its units
UNDEFINED = (0.12, 0.12, 0.12)
FINEST = 1000  # cells side by side that a page of pixels still shows one by one
ABOVE, BELOW = 2, 5.8  # lines of the title, and of the note and legend below the patches


@renamed_arguments(networks="units")
def sheet(
    localizations: Localizations,
    units: Mapping[str, Units] | Sequence[Units] | Units | None = None,
    *,
    t: float | None = None,
    q: float | None = None,
    top: float | None = None,
    both_signs: bool = True,
    arrangement: Arrangement | None = None,
    theme: Theme = "light",
    ax: Axes | None = None,
) -> Axes:
    """Draw a model as a flat map.

    One localization is drawn as t-values that pass the threshold, warm above 0 and cold below. Several are drawn as
    networks, one colour each, white where they overlap.

    Parameters
    ----------
    localizations
        Localizations of one model: one, a list, or a mapping by name (up to 6).
    units
        Units to draw instead of those that pass the threshold, one set per localization. With one localization the set
        is outlined on its map of t.
    t, q, top
        The threshold, at most one of: \\|t\\| of at least ``t``; FDR-adjusted p below ``q``; fraction ``top`` of all
        units with the largest t. By default ``q=0.05`` for one localization, ``top=0.01`` for several.
    both_signs
        With one localization, also draw units in favour of the negative side.
    arrangement
        Position of each dimension; pass the same to several figures to compare them. By default made from the
        localizations.
    theme
        ``"light"`` or ``"dark"``.
    ax
        Axes to draw on. A new figure is made if None.

    Returns
    -------
    Axes
        In cells: a unit is 1 x 1.

    Raises
    ------
    InputError
        For localizations of different models, more than 6 of them, several thresholds, or networks of another shape.

    Examples
    --------
    >>> sheet({"language": language, "vision": vision}, top=0.01).figure.savefig("sheet.pdf")  # doctest: +SKIP
    """
    found = as_mapping(localizations)
    rule = Threshold.of(t=t, q=q, top=top, default="q" if len(found) == 1 else "top")
    check_theme(theme)
    chosen = selected(found, rule, units, most=MAX_NETWORKS)
    shapes = towers_of(found)
    placed = arrange(found) if arrangement is None else arrangement
    placed.check(shapes)
    layout = lay_out(shapes, placed.sizes)
    ax = _new_axes(layout, theme) if ax is None else ax
    single = next(iter(found.values())) if len(found) == 1 else None
    limit = t_limit(single) if single else 1.0
    passed = rule.passes(single, both_signs=both_signs) if single else {}
    canvas = np.zeros((layout.height, layout.width, 4))
    for (tower, block), (left, upper) in layout.corners.items():
        rows, columns = placed.cells(tower, block)
        owner = owner_of(found, tower)
        colours = _background(owner, tower, block)
        if single:
            _colour_t(colours, single.t[tower][block], passed[tower][block], limit)
        else:
            _colour_networks(
                colours, [one.mask[tower][block] if tower in one.mask else None for one in chosen.values()]
            )
        canvas[upper + rows, left + columns, :3] = colours
        canvas[upper + rows, left + columns, 3] = 1
    _patches(ax, layout, placed)
    # Colours of units smaller than a pixel mix, so that none is lost and none looks larger than it is.
    interpolation = "nearest" if layout.width <= FINEST else "auto"
    ax.imshow(canvas, extent=(0, layout.width, layout.height, 0), interpolation=interpolation, zorder=2)
    _words(ax, layout, placed, shapes, theme)
    shown = "units as given" if units is not None and not single else str(rule)
    ax.text(0, -layout.line, map_title(found, shown), fontsize=TEXT, color=INK[theme], va="center")
    if single:
        if units is not None:
            _outline(ax, layout, placed, next(iter(chosen.values())))
        least = rule.least_t(single, both_signs=both_signs)
        _scale(ax, layout, least=least, limit=limit, both_signs=both_signs, theme=theme)
    else:
        _legend(ax, layout, chosen, theme)
    return ax


def background_of(mean_abs: Float[np.ndarray, " dim"]) -> Float[np.ndarray, " dim"]:
    """Return the rank of each unit's mean absolute activation in its block, scaled to 0 to 1."""
    order = np.argsort(np.argsort(np.nan_to_num(mean_abs), kind="stable"), kind="stable")
    return order / max(len(mean_abs) - 1, 1)


def _background(localization: Localization, tower: str, block: int) -> Float[np.ndarray, "dim 3"]:
    low, high = BACKGROUND
    grey = low + (high - low) * background_of(localization.mean_abs[tower][block])
    colours = np.repeat(grey[:, None], 3, axis=1)
    colours[np.isnan(localization.t[tower][block])] = UNDEFINED
    return colours


def _colour_t(colours: np.ndarray, t: np.ndarray, passed: Bool[np.ndarray, " dim"], limit: float) -> None:
    for sign, ramp in ((1, WARM), (-1, COLD)):
        there = passed & (sign * np.nan_to_num(t) > 0)
        colours[there] = colour_map(ramp)(np.clip(np.abs(t[there]) / limit, 0, 1))[:, :3]


def _colour_networks(colours: np.ndarray, masks: Sequence[Bool[np.ndarray, " dim"] | None]) -> None:
    from matplotlib.colors import to_rgb

    times = np.zeros(len(colours), dtype=int)
    for mask, colour in zip(masks, NETWORKS, strict=False):
        if mask is not None:
            colours[mask] = to_rgb(colour)
            times += mask
    colours[times > 1] = to_rgb(OVERLAP)


def t_limit(localization: Localization) -> float:
    """Return the \\|t\\| of the last colour, the 99.9th percentile."""
    t = np.concatenate([np.abs(values[np.isfinite(values)]) for values in localization.t.values()])
    return float(np.percentile(t, 99.9)) if t.size and t.max() > 0 else 1.0


def _patches(ax: Axes, layout: Layout, placed: Arrangement) -> None:
    from matplotlib.collections import PolyCollection

    rims = []
    for (tower, _), (left, upper) in layout.corners.items():
        height, width = placed.sizes[tower]
        rims.append(outline_of((height, width)) + np.array([left + width / 2, upper + height / 2]))
    ax.add_collection(PolyCollection(rims, facecolors=BASE, edgecolors="none", zorder=1))


def _outline(ax: Axes, layout: Layout, placed: Arrangement, units: Units) -> None:
    """Outline the cells of a network in white."""
    from matplotlib.collections import LineCollection

    lines = []
    for (tower, block), (left, upper) in layout.corners.items():
        rows, columns = placed.cells(tower, block)
        grid = np.zeros(np.add(placed.sizes[tower], 2), dtype=bool)
        grid[rows + 1, columns + 1] = units.mask[tower][block]
        for y, x in np.argwhere(grid[1:] != grid[:-1]):
            lines.append([(left + x - 1, upper + y), (left + x, upper + y)])
        for y, x in np.argwhere(grid[:, 1:] != grid[:, :-1]):
            lines.append([(left + x, upper + y - 1), (left + x, upper + y)])
    ax.add_collection(LineCollection(lines, colors="white", linewidths=0.5, zorder=3))


def _new_axes(layout: Layout, theme: Theme) -> Axes:
    height = layout.height + (ABOVE + BELOW) * layout.line
    figure = new_figure(figsize=(WIDTH, WIDTH * height / layout.width), facecolor=PAGE[theme])
    return figure.add_axes((0.015, 0, 0.97, 1))


def _words(ax: Axes, layout: Layout, placed: Arrangement, shapes: Mapping[str, tuple[int, int]], theme: Theme) -> None:
    ink, line = INK[theme], layout.line
    for tower, (n_layers, width) in shapes.items():
        ax.text(
            0,
            layout.titles[tower] + 0.8 * line,
            space_label(tower),
            fontsize=TEXT,
            color=ink,
            va="center",
            weight="bold",
        )
        about = f"{n_layers} blocks of {width:,} units, input to output →"
        ax.text(
            layout.width, layout.titles[tower] + 0.8 * line, about, fontsize=SMALL, color=ink, va="center", ha="right"
        )
    for (tower, block), (left, upper) in layout.corners.items():
        height, width = placed.sizes[tower]
        # Below the outline, whose margin in patches of a few cells is less than a cell.
        at = (left + width / 2, upper + height + min(1.0, 0.5 + 0.02 * width) + line / 2)
        ax.text(*at, str(block), fontsize=SMALL - 1, color=ink, ha="center", va="center", alpha=0.8)
    ax.set_xlim(-1.5, layout.width + 1.5)
    ax.set_ylim(layout.height + BELOW * line, -ABOVE * line)
    ax.set_aspect("equal", anchor="N")
    ax.set_axis_off()
    note = f"{ARBITRARY}\nBackground: rank of the mean absolute activation in the block, lighter is larger."
    at = (0, layout.height + (BELOW - 0.4) * line)
    ax.text(*at, note, fontsize=SMALL - 1, color=ink, alpha=0.75, va="bottom", linespacing=1.3)


def _scale(ax: Axes, layout: Layout, *, least: float, limit: float, both_signs: bool, theme: Theme) -> None:
    """Draw a colour bar that is grey below the threshold."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    steps = np.linspace(-limit if both_signs else 0, limit, 256)
    colours = np.where(steps[:, None] > 0, colour_map(WARM)(steps / limit), colour_map(COLD)(-steps / limit))
    colours[np.abs(steps) < least] = (*[np.mean(BACKGROUND)] * 3, 1)
    mapped = ScalarMappable(Normalize(steps[0], limit), ListedColormap(colours))
    place = (0.64 * layout.width, layout.height + 1.5 * layout.line, 0.36 * layout.width, -0.7 * layout.line)
    x, y, width, height = place
    inset = ax.inset_axes((x, y, width, -height), transform=ax.transData)
    bar = ax.figure.colorbar(mapped, cax=inset, orientation="horizontal")
    bar.set_label("t (positive vs. negative conditions)", fontsize=SMALL, color=INK[theme])
    bar.ax.tick_params(labelsize=SMALL, colors=INK[theme])
    bar.outline.set_visible(False)


def _legend(ax: Axes, layout: Layout, chosen: Mapping[str, Units], theme: Theme) -> None:
    handles = network_handles(chosen)
    ax.legend(
        handles=handles,
        loc="upper right",
        bbox_to_anchor=(layout.width, layout.height + 0.2 * layout.line),
        bbox_transform=ax.transData,
        fontsize=SMALL,
        frameon=False,
        labelcolor=INK[theme],
        ncols=1 if len(handles) < 4 else 2 if len(handles) < 6 else 3,
        borderaxespad=0,
        handlelength=1.2,
    )

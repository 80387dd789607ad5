"""The sheet: a model as a flat map, one patch per block from input to output, with t as a thresholded statistical map.

As on a flattened cortex, a neutral grey ground carries what is known of every place (here the mean |activation| of a
unit in its block, where a flat map of a brain has curvature), and only what passes a threshold is coloured. Depth is
real; the place within a patch is arbitrary, and the figure says so: see :mod:`modalnet.plotting.arrangement`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from modalnet.errors import InputError
from modalnet.plotting.arrangement import ARBITRARY, ROUND, Arrangement, arrange
from modalnet.plotting.combined import Localizations, as_mapping, owner_of, towers_of
from modalnet.plotting.layers import SMALL, TEXT
from modalnet.plotting.saving import new_figure
from modalnet.plotting.threshold import Threshold, selected

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from matplotlib.axes import Axes

    from modalnet.localization.result import Localization
    from modalnet.units import Units

Theme = Literal["light", "dark"]

PAGE = {"light": "#FFFFFF", "dark": "#101317"}
INK = {"light": "#222222", "dark": "#E6E6E6"}
GROUND = (0.34, 0.46)  # grey of the units with the smallest and the largest mean |activation| of a block
BASE = "#3B3B3B"  # a patch beneath its units
UNDEFINED = (0.12, 0.12, 0.12)
# Warm and cold are told apart under every common kind of colour blindness, and both grow lighter with |t|.
WARM = ("#8E1616", "#D9401C", "#F99A2B", "#FFF2A6")
COLD = ("#1D3E99", "#2C7FCC", "#69C3EE", "#DDF7FF")
# Okabe & Ito (2008), the light ones first: they stand on grey.
NETWORKS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#D55E00", "#0072B2")
OVERLAP = "#FFFFFF"
GAP = 0.14  # between patches, as a share of their width
WIDTH = 7.2  # inches: a page
SHAPE = 1.75  # width over height that the patches are wrapped to
MOST = len(NETWORKS)
FINEST = 1000  # cells side by side that a page of pixels still shows one by one
LINE = 0.16  # inches: a line of text
ABOVE, BELOW = 2, 5.8  # lines of the title, and of what stands below the patches


@dataclass(frozen=True)
class Layout:
    """Where each block's patch stands: its upper left corner in cells, for (tower, block)."""

    corners: dict[tuple[str, int], tuple[int, int]]
    titles: dict[str, int]
    width: int
    height: int
    line: int  # height of a line of text


def sheet(
    localizations: Localizations,
    networks: Mapping[str, Units] | Sequence[Units] | Units | None = None,
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

    One localization is drawn as its t-values where they pass the threshold, warm above 0 and cold below. Several are
    drawn as networks, each in a colour, and white where networks overlap.

    Parameters
    ----------
    localizations
        Of one model: one, a list, or a mapping that names them (up to 6).
    networks
        Units to draw in place of those that pass the threshold: one set per localization. With one localization the
        set is outlined on its map of t.
    t, q, top
        The threshold, at most one of them: \\|t\\| at least ``t``; FDR-adjusted p below ``q``; the share ``top`` of all
        units with the largest t. By default ``q=0.05`` for one localization, ``top=0.01`` for several.
    both_signs
        With one localization, draw also the units that prefer the negative side.
    arrangement
        Where dimensions stand; pass the same to several figures to compare them. Made of the localizations if None.
    theme
        ``"light"`` or ``"dark"`` page; the map is the same.
    ax
        Where to draw; a new figure is made if None.

    Returns
    -------
    Axes
        In cells: one unit takes 1 x 1.

    Raises
    ------
    InputError
        For localizations of different models, more than 6 of them, several thresholds, or networks that
        do not fit.

    Examples
    --------
    >>> sheet({"language": language, "vision": vision}, top=0.01).figure.savefig("sheet.pdf")  # doctest: +SKIP
    """
    found = as_mapping(localizations)
    rule = Threshold.of(t=t, q=q, top=top, default="q" if len(found) == 1 else "top")
    check_theme(theme)
    chosen = selected(found, rule, networks, most=MOST)
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
        colours = _ground(owner, tower, block)
        if single:
            _colour_t(colours, single.t[tower][block], passed[tower][block], limit)
        else:
            _colour_networks(
                colours, [one.mask[tower][block] if tower in one.mask else None for one in chosen.values()]
            )
        canvas[upper + rows, left + columns, :3] = colours
        canvas[upper + rows, left + columns, 3] = 1
    _patches(ax, layout, placed)
    # Where units are smaller than a pixel their colours mix, so that none is lost and none looks larger than it is.
    interpolation = "nearest" if layout.width <= FINEST else "auto"
    ax.imshow(canvas, extent=(0, layout.width, layout.height, 0), interpolation=interpolation, zorder=2)
    _words(ax, layout, placed, shapes, theme)
    shown = "units as given" if networks is not None and not single else str(rule)
    write_title(ax, found, shown, theme, at=(0, -layout.line))
    if single:
        if networks is not None:
            _outline(ax, layout, placed, next(iter(chosen.values())))
        least = rule.least_t(single, both_signs=both_signs)
        _scale(ax, layout, least=least, limit=limit, both_signs=both_signs, theme=theme)
    else:
        _legend(ax, layout, chosen, theme)
    return ax


def check_theme(theme: str) -> None:
    """Raise an InputError for a theme that there is none of."""
    if theme not in PAGE:
        raise InputError(f'theme= is "light" or "dark"; got {theme!r}.')


def lay_out(
    shapes: Mapping[str, tuple[int, int]], sizes: Mapping[str, tuple[int, int]], shape: float = SHAPE
) -> Layout:
    """Wrap the patches of each tower into rows so that the whole is about ``shape`` times as wide as high."""
    widest = {tower: size[1] + max(2, round(GAP * size[1])) for tower, size in sizes.items()}
    candidates = sorted({n * widest[tower] for tower, (layers, _) in shapes.items() for n in range(1, layers + 1)})
    wraps = [_wrap(shapes, sizes, widest, limit) for limit in candidates if limit >= max(widest.values())]
    return min(wraps, key=lambda one: abs(np.log(one.width / one.height / shape)))


def _wrap(
    shapes: Mapping[str, tuple[int, int]], sizes: Mapping[str, tuple[int, int]], steps: Mapping[str, int], limit: int
) -> Layout:
    per_row = {}
    for tower, (n_layers, _) in shapes.items():
        n_rows = -(-n_layers // max(1, limit // steps[tower]))
        per_row[tower] = -(-n_layers // n_rows)
    whole = max((n - 1) * steps[tower] + sizes[tower][1] for tower, n in per_row.items())
    line = max(1, round(LINE * whole / WIDTH))
    corners, titles, y = {}, {}, 0
    for tower, (n_layers, _) in shapes.items():
        titles[tower] = y
        y += 2 * line
        step = sizes[tower][0] + 2 * line
        for block in range(n_layers):
            row, column = divmod(block, per_row[tower])
            corners[tower, block] = (column * steps[tower], y + row * step)
        y += -(-n_layers // per_row[tower]) * step
    return Layout(corners, titles, whole, y, line)


def ground_of(mean_abs: Float[np.ndarray, " dim"]) -> Float[np.ndarray, " dim"]:
    """From 0 to 1, the rank of each unit's mean \\|activation\\| in its block."""
    order = np.argsort(np.argsort(np.nan_to_num(mean_abs), kind="stable"), kind="stable")
    return order / max(len(mean_abs) - 1, 1)


def _ground(localization: Localization, tower: str, block: int) -> Float[np.ndarray, "dim 3"]:
    low, high = GROUND
    grey = low + (high - low) * ground_of(localization.mean_abs[tower][block])
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


def colour_map(ramp: Sequence[str]) -> Any:
    """A colour map through the colours of a ramp."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("ramp", ramp)


def t_limit(localization: Localization) -> float:
    """The \\|t\\| that takes the last colour: all but one in a thousand units lie below."""
    t = np.concatenate([np.abs(values[np.isfinite(values)]) for values in localization.t.values()])
    return float(np.percentile(t, 99.9)) if t.size and t.max() > 0 else 1.0


def outline_of(size: tuple[int, int]) -> Float[np.ndarray, "point 2"]:
    """The rim of a patch as (x, y) around its middle, in cells."""
    margin = 0.4 + 0.02 * size[1]
    angle = np.linspace(0, 2 * np.pi, 121)
    cosine, sine = np.cos(angle), np.sin(angle)
    x = np.sign(cosine) * np.abs(cosine) ** (2 / ROUND) * (size[1] / 2 + margin)
    y = np.sign(sine) * np.abs(sine) ** (2 / ROUND) * (size[0] / 2 + margin)
    return np.stack([x, y], axis=1)


def _patches(ax: Axes, layout: Layout, placed: Arrangement) -> None:
    from matplotlib.collections import PolyCollection

    rims = []
    for (tower, _), (left, upper) in layout.corners.items():
        height, width = placed.sizes[tower]
        rims.append(outline_of((height, width)) + np.array([left + width / 2, upper + height / 2]))
    ax.add_collection(PolyCollection(rims, facecolors=BASE, edgecolors="none", zorder=1))


def _outline(ax: Axes, layout: Layout, placed: Arrangement, units: Units) -> None:
    """White lines around the cells of a network."""
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
            0, layout.titles[tower] + 0.8 * line, f"{tower} tower", fontsize=TEXT, color=ink, va="center", weight="bold"
        )
        about = f"{n_layers} blocks of {width:,} units, input to output →"
        ax.text(
            layout.width, layout.titles[tower] + 0.8 * line, about, fontsize=SMALL, color=ink, va="center", ha="right"
        )
    for (tower, block), (left, upper) in layout.corners.items():
        height, width = placed.sizes[tower]
        at = (left + width / 2, upper + height + 1 + line / 2)
        ax.text(*at, str(block), fontsize=SMALL - 1, color=ink, ha="center", va="center", alpha=0.8)
    ax.set_xlim(-1.5, layout.width + 1.5)
    ax.set_ylim(layout.height + BELOW * line, -ABOVE * line)
    ax.set_aspect("equal", anchor="N")
    ax.set_axis_off()
    note = f"{ARBITRARY}\nGround: rank of mean |activation| in its block, larger is lighter."
    at = (0, layout.height + (BELOW - 0.4) * line)
    ax.text(*at, note, fontsize=SMALL - 1, color=ink, alpha=0.75, va="bottom", linespacing=1.3)


def write_title(ax: Any, found: Mapping[str, Localization], shown: str, theme: Theme, at: tuple[float, float]) -> None:
    """The model, the contrasts and the threshold, in one line."""
    model = str(first_of(found).meta.get("source") or "model").rstrip("/").rsplit("/", 1)[-1]
    what = shorten(next(iter(found)), 80) if len(found) == 1 else f"{len(found)} networks"
    ax.text(*at, f"{shorten(model, 40)}: {what}, {shown}", fontsize=TEXT, color=INK[theme], va="center")


def _scale(ax: Axes, layout: Layout, *, least: float, limit: float, both_signs: bool, theme: Theme) -> None:
    """A colour bar that is grey where t does not reach the threshold in any unit."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    steps = np.linspace(-limit if both_signs else 0, limit, 256)
    colours = np.where(steps[:, None] > 0, colour_map(WARM)(steps / limit), colour_map(COLD)(-steps / limit))
    colours[np.abs(steps) < least] = (*[np.mean(GROUND)] * 3, 1)
    mapped = ScalarMappable(Normalize(steps[0], limit), ListedColormap(colours))
    place = (0.64 * layout.width, layout.height + 1.5 * layout.line, 0.36 * layout.width, -0.7 * layout.line)
    x, y, width, height = place
    inset = ax.inset_axes((x, y, width, -height), transform=ax.transData)
    bar = ax.figure.colorbar(mapped, cax=inset, orientation="horizontal")
    bar.set_label("t, positive against negative side", fontsize=SMALL, color=INK[theme])
    bar.ax.tick_params(labelsize=SMALL, colors=INK[theme])
    bar.outline.set_visible(False)  # type: ignore[operator]  # a spine


def _legend(ax: Axes, layout: Layout, chosen: Mapping[str, Units], theme: Theme) -> None:
    handles = legend_of(chosen)
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


def legend_of(chosen: Mapping[str, Units], *, overlap: str = OVERLAP) -> list[Any]:
    """A patch of colour for each network, and one for units of several."""
    from matplotlib.patches import Patch

    counts = [(name, units.count, colour) for (name, units), colour in zip(chosen.items(), NETWORKS, strict=False)]
    handles = [Patch(color=colour, label=f"{shorten(name)}: {count:,} units") for name, count, colour in counts]
    if len(handles) > 1:
        times: dict[str, Any] = {}
        for units in chosen.values():
            for tower, mask in units.mask.items():
                times[tower] = times.get(tower, 0) + mask.astype(int)
        several = sum(int((count > 1).sum()) for count in times.values())
        handles.append(Patch(facecolor=overlap, edgecolor="#888888", label=f"in more than one: {several:,} units"))
    return handles


def shorten(name: str, width: int = 36) -> str:
    """A name that fits into a legend."""
    return textwrap.shorten(name.replace(",", ", "), width, placeholder=" …")


def first_of(mapping: Mapping[str, Any]) -> Any:
    """The first value."""
    return next(iter(mapping.values()))

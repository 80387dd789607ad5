"""Layer x unit heatmaps, for spaces with few units per layer: the heads of an attention, the experts of a mixture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from modalnet.errors import InputError
from modalnet.plotting.layers import SMALL, TEXT
from modalnet.plotting.patching import COLOURS
from modalnet.plotting.threshold import largest
from modalnet.units import as_units_within

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

    from modalnet.localization.result import Localization
    from modalnet.patching.result import Patching
    from modalnet.units import Units

CELL, WIDEST = (0.3, 0.17), 7.2  # inches
ABSENT = "#DDDDDD"
#: Units by the last part of the name of their space.
NAMES = {"heads": "head", "neurons": "neuron", "experts": "expert"}
MOST_OUTLINED = 128


def unit_effects(
    result: Patching, *, tower: str | None = None, limit: float | None = None, ax: Axes | Sequence[Axes] | None = None
) -> np.ndarray:
    """Draw the effect of each unit of a patching result, layer x unit.

    Parameters
    ----------
    result
        The result of patching with ``per_unit=True``, or of attribution patching.
    tower
        The space to draw; by default all.
    limit
        Effect of the last colour; by default the largest.
    ax
        Axes, one per space. A new figure is made if None.

    Returns
    -------
    array of Axes
        One per space. Layers run upwards from the input; white is no effect, grey a unit that a layer does not have. Of
        path patching, units that were run exactly are outlined; the others are estimates.

    Raises
    ------
    InputError
        For a space that the result does not have, or another number of axes.
    """
    chosen = _chosen(result.unit_effect, tower)
    axes = _axes([values.shape for values in chosen.values()], ax)
    what = f"{'estimated effect' if result.estimated else 'effect'} on {result.metric}"
    for one, (name, values) in zip(axes, chosen.items(), strict=True):
        _bar(one, _draw(one, values, result.layers[name], name, limit), what)
        title = f"{name}, one by one" if not result.receiver else f"{name} to {result.receiver}"
        if name in result.unit_estimates and not result.unit_exact[name].all():
            _outline(one, result.unit_exact[name])
            title += ", exact outlined"
        one.set_title(title, fontsize=TEXT, loc="left")
    return axes


def unit_t(
    localization: Localization,
    units: Units | None = None,
    *,
    fraction: float = 0.01,
    limit: float | None = None,
    ax: Axes | Sequence[Axes] | None = None,
) -> np.ndarray:
    """Draw the t of each unit of a localization, layer x unit, with the units of a network outlined.

    Parameters
    ----------
    localization
        The localization.
    units
        The network; by default the top ``fraction`` of all localized units.
    fraction
        Fraction of the units, as for ``Localization.top``; at least one unit.
    limit
        t of the last colour; by default the largest of each space.
    ax
        Axes, one per space. A new figure is made if None.

    Returns
    -------
    array of Axes
        One per space. Layers run upwards from the input; white is t = 0, grey a unit without a defined t. In layers of
        more than 128 units the network is not outlined, as its units are narrower than a line.

    Raises
    ------
    InputError
        If the units have other shapes than the localization, or for another number of axes.
    """
    if units is None:
        units = largest(localization, fraction)
    masks = as_units_within(units, localization.shapes, "the localization").mask
    axes = _axes([values.shape for values in localization.t.values()], ax)
    for one, (name, values) in zip(axes, localization.t.items(), strict=True):
        _bar(one, _draw(one, values, range(len(values)), name, limit), "t (positive vs. negative conditions)")
        _outline(one, masks[name])
        count = int(masks[name].sum())
        one.set_title(f"{name}, {count} outlined" if _outlined(masks[name]) else name, fontsize=TEXT, loc="left")
    return axes


def _chosen(values: Mapping[str, np.ndarray], tower: str | None) -> dict[str, np.ndarray]:
    if tower is None:
        return dict(values)
    if tower not in values:
        raise InputError(f"`tower` must be one of {', '.join(values)}, got {tower!r}.")
    return {tower: values[tower]}


def _axes(shapes: Sequence[tuple[int, ...]], ax: Any) -> np.ndarray:
    if ax is not None:
        axes = np.atleast_1d(np.array(ax, dtype=object)).ravel()
        if len(axes) != len(shapes):
            raise InputError(f"`ax` must be {len(shapes)} axes, one per space, got {len(axes)}.")
        return axes
    from matplotlib import pyplot

    widths = [min(max(shape[1] * CELL[0], 1.6), WIDEST) for shape in shapes]
    heights = [min(max(shape[0] * CELL[1], 1.2), 6.0) for shape in shapes]
    figure = pyplot.figure(figsize=(max(widths) + 1.8, sum(heights) + 0.9 * len(shapes)), layout="constrained")
    return figure.subplots(len(shapes), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]


def _draw(
    ax: Axes, values: Float[np.ndarray, "layer unit"], layers: Sequence[int], name: str, limit: float | None
) -> AxesImage:
    finite = np.abs(values[np.isfinite(values)])
    top = float(finite.max(initial=0.0)) or 1.0
    drawn = ax.imshow(
        values,
        origin="lower",
        aspect="auto",
        cmap=COLOURS,
        vmin=-(limit or top),
        vmax=limit or top,
        interpolation="nearest" if values.shape[1] <= MOST_OUTLINED else "auto",
    )
    ax.set_facecolor(ABSENT)
    for axis, count, labels in ((ax.yaxis, len(layers), list(layers)), (ax.xaxis, values.shape[1], None)):
        step = next(step * 10**power for power in range(9) for step in (1, 2, 5) if count <= 12 * step * 10**power)
        at = list(range(0, count, step))
        axis.set_ticks(at, [str(labels[place]) if labels else str(place) for place in at], fontsize=SMALL)
    ax.set_ylabel("layer", fontsize=TEXT)
    ax.set_xlabel(NAMES.get(name.rpartition(".")[2], "unit"), fontsize=TEXT)
    return drawn


def _bar(ax: Axes, drawn: AxesImage, label: str) -> None:
    bar = ax.figure.colorbar(drawn, ax=ax, fraction=0.05, pad=0.02)
    bar.ax.tick_params(labelsize=SMALL)
    bar.set_label(label, fontsize=SMALL)


def _outlined(mask: Bool[np.ndarray, "layer unit"]) -> bool:
    return mask.shape[1] <= MOST_OUTLINED


def _outline(ax: Axes, mask: Bool[np.ndarray, "layer unit"]) -> None:
    from matplotlib.patches import Rectangle

    for layer, unit in np.argwhere(mask) if _outlined(mask) else ():
        ax.add_patch(Rectangle((unit - 0.5, layer - 0.5), 1, 1, fill=False, edgecolor="#111111", linewidth=1.2))

"""The distribution of a network over layers, from the input to the output.

The profile is compared with chance: the band holds profiles of random networks with as many units in the same space,
none of them the network's.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from modalnet._deprecation import renamed_arguments
from modalnet._validation import check_shared
from modalnet.errors import InputError
from modalnet.models.towers import tower_of
from modalnet.plotting.combined import space_label
from modalnet.plotting.saving import write_figure
from modalnet.plotting.threshold import largest
from modalnet.units import as_units, as_units_within

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from modalnet.localization.result import Localization
    from modalnet.units import Units

# Okabe & Ito (2008): distinguishable under every common kind of colour blindness, and in grey.
NETWORK, CHANCE = "#0072B2", "#999999"
SIZE = (3.5, 2.6)  # inches per panel: one column of a journal page
BAND = (2.5, 97.5)  # percentiles
TEXT, SMALL = 8, 7  # points
TITLE_WIDTH = 52  # characters that fit above one panel
HEADROOM = 1.35  # upper end of the y axis, relative to the highest value


@renamed_arguments(n_random="n_controls")
def layer_profile(
    localization: Localization,
    units: Units | None = None,
    *,
    fraction: float = 0.01,
    ax: Axes | Sequence[Axes] | np.ndarray | None = None,
    n_controls: int = 200,
    seed: int = 0,
    color: str = NETWORK,
) -> Axes | np.ndarray:
    """Draw the percentage of units of each layer that a network selects, one panel per space.

    Parameters
    ----------
    localization
        The localization; it names the contrast and the model.
    units
        The network; by default the top ``fraction`` of all localized units.
    fraction
        Fraction of the units, as for ``Localization.top``; at least one unit is drawn.
    ax
        Axes to draw on: one, or one per space. A new figure is made if None.
    n_controls
        Number of random networks for the band. They have as many units in every space as the network
        (``Units.random(match="tower")``); the band is the 2.5th to 97.5th percentile in each layer.
    seed
        Seed of the random networks.
    color
        Colour of the network.

    Returns
    -------
    Axes or array of Axes
        One for a single space, otherwise [space]. The x axis is the layer from the input (0) to the output, the y axis
        the percentage of selected units in a layer.

    Raises
    ------
    InputError
        If the units have other shapes than the localization, or ``ax`` does not have one axes per space.

    Notes
    -----
    If the network has so many units in a space that no disjoint random network exists, there is no band, and the legend
    says so.

    Examples
    --------
    >>> layer_profile(language, language.top(fraction=0.01)).figure.savefig("language.pdf")  # doctest: +SKIP
    """
    if units is None:
        network = largest(localization, fraction)
    else:
        network = as_units_within(units, localization.shapes, "the localization")
    check_shared(n_controls=n_controls, seed=seed)
    axes = axes_for(localization, ax)
    _draw_all(axes, network, n_controls, seed, color)
    label_towers(axes, localization, "layer (input to output)", "selected units (% of layer)")
    return axes if len(axes) > 1 else axes[0]


@renamed_arguments(n_random="n_controls")
def units_profile(
    units: Units,
    *,
    ax: Axes | Sequence[Axes] | np.ndarray | None = None,
    n_controls: int = 200,
    seed: int = 0,
    color: str = NETWORK,
) -> Axes | np.ndarray:
    """Draw the percentage of units of each layer in a set of units: :func:`layer_profile` without a localization.

    Parameters
    ----------
    units
        The units.
    ax, n_controls, seed, color
        As for :func:`layer_profile`.

    Returns
    -------
    Axes or array of Axes
        As for :func:`layer_profile`.

    Raises
    ------
    InputError
        If ``ax`` does not have one axes per space.
    """
    units = as_units(units)
    check_shared(n_controls=n_controls, seed=seed)
    axes = axes_for(units, ax)
    _draw_all(axes, units, n_controls, seed, color)
    label_towers(axes, units, "layer (input to output)", "selected units (% of layer)")
    return axes if len(axes) > 1 else axes[0]


def _draw_all(axes: np.ndarray, network: Units, n_controls: int, seed: int, color: str) -> None:
    # One set per space, so that a space with too few free units does not cost the others their band.
    alone = [_only(network, space) for space in network.mask]
    chances = [_chance(part, n_controls, seed) for part in alone]
    # One scale for all panels; the legend stands in the headroom.
    highest = max(float(array.max()) for array in [*map(_share, alone), *chances] if array is not None)
    for panel, part, chance in zip(axes, alone, chances, strict=True):
        _draw(panel, part, chance, color)
        panel.set_ylim(0, HEADROOM * highest or 1.0)


def save_layer_profile(
    localization: Localization, path: str | os.PathLike[str], units: Units | None = None, **options: Any
) -> None:
    """Save the figure of :func:`layer_profile` atomically, without a window.

    Parameters
    ----------
    localization, units, **options
        As for :func:`layer_profile`.
    path
        The file; its suffix is the format: ``.png``, ``.pdf``, ``.svg``.

    Raises
    ------
    InputError
        For a format that matplotlib does not support.
    StoreError
        If the file cannot be written.
    """
    from matplotlib.figure import Figure

    axes = _axes_of(Figure, len(localization.spaces))
    layer_profile(localization, units, ax=axes, **options)
    write_figure(axes[0].figure, path)


def axes_for(drawn: Localization | Units, ax: Axes | Sequence[Axes] | np.ndarray | None) -> np.ndarray:
    """Return the given axes, or new ones: one for each space.

    Raises
    ------
    InputError
        For another number of axes.
    """
    towers = list(drawn.shapes)
    if ax is None:
        from matplotlib import pyplot

        return _axes_of(pyplot.figure, len(towers))
    axes = np.atleast_1d(np.array(ax, dtype=object)).ravel()
    if len(axes) != len(towers):
        raise InputError(f"`ax` must be {len(towers)} axes, one per space ({', '.join(towers)}), got {len(axes)}.")
    return axes


def _axes_of(make_figure: Callable[..., Figure], n_towers: int) -> np.ndarray:
    figure = make_figure(figsize=(SIZE[0] * n_towers, SIZE[1]), layout="constrained")
    return figure.subplots(1, n_towers, squeeze=False, sharey=True)[0]


def _chance(network: Units, n: int, seed: int) -> Float[np.ndarray, "2 layer"] | None:
    """Return the lower and upper percentage of each layer in random networks; None if there are none."""
    if not 0 < network.count <= (~network).count:
        return None
    return np.percentile([_share(control) for control in network.random(n, seed=seed, match="tower")], BAND, axis=0)


def _only(network: Units, space: str) -> Units:
    widths = {name: each for name, each in network.widths.items() if name == space}
    return type(network)({space: network.mask[space]}, widths=widths)


def _share(units: Units) -> Float[np.ndarray, " layer"]:
    """Return the percentage of units of each layer of a single space that are in the set."""
    (mask,), (there,) = units.mask.values(), units.exists.values()
    return 100 * mask.sum(axis=1) / np.maximum(there.sum(axis=1), 1)


def _draw(ax: Axes, network: Units, chance: Float[np.ndarray, "2 layer"] | None, color: str) -> None:
    from matplotlib.ticker import MaxNLocator

    share = _share(network)
    layers = np.arange(len(share))
    # In front of the axis, so that markers at zero are not clipped.
    plural = "" if network.count == 1 else "s"
    label = f"network, {network.count:,} unit{plural}"
    ax.plot(layers, share, "o-", color=color, markersize=3.2, linewidth=1.2, label=label, clip_on=False, zorder=3)
    if chance is not None:
        # Steps, as layers are discrete.
        low, high = (np.append(side, side[-1]) for side in chance)
        edges = np.append(layers, len(layers)) - 0.5
        label = f"{network.count:,} random unit{plural}, 95% range"
        ax.fill_between(edges, low, high, step="post", color=CHANCE, alpha=0.45, linewidth=0, label=label)
    elif network.count:
        ax.plot([], [], " ", label="no random range: network too large")
    ax.set_xlim(-0.5, len(layers) - 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=9))
    ax.tick_params(labelsize=SMALL)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(loc="upper left", fontsize=SMALL, frameon=False, handlelength=1.6, borderaxespad=0.2)


def label_towers(axes: np.ndarray, drawn: Localization | Units, x: str, y: str) -> None:
    """Title the first panel with the contrast and the model, and, if there are several, each with its space."""
    width = TITLE_WIDTH * len(axes)
    lines = _heading(drawn, width)
    for i, (panel, tower) in enumerate(zip(axes, drawn.shapes, strict=True)):
        # All titles have as many lines, so that panels stay aligned without constrained layout, too.
        title = [space_label(tower)] if len(axes) > 1 or not lines or tower != tower_of(tower) else []
        above = lines if i == 0 else [""] * len(lines)
        panel.set_title("\n".join(above + title), fontsize=TEXT, loc="left")
        panel.set_xlabel(x, fontsize=TEXT)
        if i == 0 or not panel.get_shared_y_axes().joined(panel, axes[0]):
            panel.set_ylabel(y, fontsize=TEXT)


def _heading(drawn: Localization | Units, width: int) -> list[str]:
    meta = getattr(drawn, "meta", None)
    if meta is None:  # units do not know where they come from
        return []
    contrast = meta.get("contrast") or {}
    name = str(contrast.get("name") or "contrast").replace(",", ", ")
    lines = textwrap.wrap(name, width, max_lines=2, placeholder=" …")
    lines.append(textwrap.shorten(str(meta.get("source") or "model"), width, placeholder=" …"))
    return lines

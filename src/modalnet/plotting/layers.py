"""Where a network sits: which share of every layer it takes, from the input of a tower to its output.

A network has to sit somewhere, so a profile is read against chance: the band is where profiles of random networks lie
that have as many units in the tower and none of the network's own.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from modalnet._deprecation import renamed_arguments
from modalnet.errors import InputError
from modalnet.plotting.saving import write_figure

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.axes import Axes

    from modalnet.localization.result import Localization
    from modalnet.units import Units

# Okabe & Ito (2008): told apart under every common kind of colour blindness, and in grey.
NETWORK, CHANCE = "#0072B2", "#999999"
SIZE = (3.5, 2.6)  # inches per tower: one column of a journal page
BAND = (2.5, 97.5)  # percentiles
TEXT, SMALL = 8, 7  # points
TITLE_WIDTH = 52  # characters that fit above one panel
HEADROOM = 1.35  # the y axis goes this much beyond the highest value


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
    """Draw which share of the units of each layer a network takes, one panel per tower.

    Parameters
    ----------
    localization
        What was localized; it names the contrast, the model and the towers.
    units
        The network; the top ``fraction`` of all localized units, if None.
    fraction
        Share of the units, as for ``Localization.top``.
    ax
        Where to draw: one axes, or one per tower. A new figure is made if None.
    n_controls
        How many random networks the band is drawn from. They have as many units in every tower as the network
        (``Units.random(match="tower")``); the band runs from the 2.5th to the 97.5th percentile in each layer.
    seed
        Seed of the random networks.
    color
        Colour of the network.

    Returns
    -------
    Axes or array of Axes
        One for a single tower, otherwise [tower]. The x axis counts layers from the input (0) to the output, the y
        axis is in percent of the units of a layer.

    Raises
    ------
    InputError
        If the units have other towers or shapes than the localization, or ``ax`` does not have one axes per tower.

    Notes
    -----
    Where the network takes so much of a tower that no random network fits beside it, the band is left out, and the
    legend says so.

    Examples
    --------
    >>> layer_profile(language, language.top(fraction=0.01)).figure.savefig("language.pdf")  # doctest: +SKIP
    """
    network = localization.top(fraction=fraction) if units is None else units
    if network.shapes != localization.shapes:
        raise InputError(f"The units have towers {network.shapes}; the localization has {localization.shapes}.")
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
    """Draw which share of the units of each layer a set of units takes: :func:`layer_profile` without a localization.

    Parameters
    ----------
    units
        The set.
    ax, n_controls, seed, color
        As for :func:`layer_profile`.

    Returns
    -------
    Axes or array of Axes
        As for :func:`layer_profile`.

    Raises
    ------
    InputError
        If ``ax`` does not have one axes per tower.
    """
    axes = axes_for(units, ax)
    _draw_all(axes, units, n_controls, seed, color)
    label_towers(axes, units, "layer (input to output)", "selected units (% of layer)")
    return axes if len(axes) > 1 else axes[0]


def _draw_all(axes: np.ndarray, network: Units, n_controls: int, seed: int, color: str) -> None:
    # One set per tower, so that a tower with too few free units does not take the band from the others.
    alone = [type(network)({tower: mask}) for tower, mask in network.mask.items()]
    chances = [_chance(part, n_controls, seed) for part in alone]
    # One scale for all towers, so that they compare; the legend stands in the room on top.
    highest = max(float(array.max()) for array in [*map(_share, alone), *chances] if array is not None)
    for panel, part, chance in zip(axes, alone, chances, strict=True):
        _draw(panel, part, chance, color)
        panel.set_ylim(0, HEADROOM * highest or 1.0)


def save_layer_profile(
    localization: Localization, path: str | os.PathLike[str], units: Units | None = None, **options: Any
) -> None:
    """Write the picture of :func:`layer_profile` to a file, whole or not at all; no window and no backend is used.

    Parameters
    ----------
    localization, units, **options
        As for :func:`layer_profile`.
    path
        The file; its suffix says which kind: ``.png``, ``.pdf``, ``.svg``.

    Raises
    ------
    InputError
        For a suffix that matplotlib does not write.
    StoreError
        If the file cannot be written.
    """
    from matplotlib.figure import Figure

    axes = _axes_of(Figure, len(localization.spaces))
    layer_profile(localization, units, ax=axes, **options)
    write_figure(axes[0].figure, path)


def axes_for(drawn: Localization | Units, ax: Axes | Sequence[Axes] | np.ndarray | None) -> np.ndarray:
    """The given axes, else new ones: one for each tower.

    Raises
    ------
    InputError
        If the given ones are more or fewer.
    """
    towers = list(drawn.shapes)
    if ax is None:
        from matplotlib import pyplot

        return _axes_of(pyplot.figure, len(towers))
    axes = np.atleast_1d(np.array(ax, dtype=object)).ravel()
    if len(axes) != len(towers):
        raise InputError(f"There are {len(towers)} towers ({', '.join(towers)}) to draw, on {len(axes)} axes.")
    return axes


def _axes_of(make_figure: Any, n_towers: int) -> np.ndarray:
    figure = make_figure(figsize=(SIZE[0] * n_towers, SIZE[1]), layout="constrained")
    return figure.subplots(1, n_towers, squeeze=False, sharey=True)[0]


def _chance(network: Units, n: int, seed: int) -> Float[np.ndarray, "2 layer"] | None:
    """Low and high percent of each layer in random networks; None where none can be drawn."""
    if not 0 < network.count <= (~network).count:
        return None
    return np.percentile([_share(control) for control in network.random(n, seed=seed, match="tower")], BAND, axis=0)


def _share(units: Units) -> Float[np.ndarray, " layer"]:
    """Percent of the units of each layer of a single tower that are in the set."""
    (mask,) = units.mask.values()
    return 100 * mask.mean(axis=1)


def _draw(ax: Axes, network: Units, chance: Float[np.ndarray, "2 layer"] | None, color: str) -> None:
    from matplotlib.ticker import MaxNLocator

    share = _share(network)
    layers = np.arange(len(share))
    # In front of the axis, so that a marker at zero is whole.
    label = f"network, {network.count:,} units"
    ax.plot(layers, share, "o-", color=color, markersize=3.2, linewidth=1.2, label=label, clip_on=False, zorder=3)
    if chance is not None:
        # One level per layer, from edge to edge: layers are counted, there is nothing between two of them.
        low, high = (np.append(side, side[-1]) for side in chance)
        edges = np.append(layers, len(layers)) - 0.5
        label = f"{network.count:,} random units of the tower, 95% range"
        ax.fill_between(edges, low, high, step="post", color=CHANCE, alpha=0.45, linewidth=0, label=label)
    elif network.count:
        ax.plot([], [], " ", label="no random range: the network is too large")
    ax.set_xlim(-0.5, len(layers) - 0.5)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=9))
    ax.tick_params(labelsize=SMALL)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(loc="upper left", fontsize=SMALL, frameon=False, handlelength=1.6, borderaxespad=0.2)


def label_towers(axes: np.ndarray, drawn: Localization | Units, x: str, y: str) -> None:
    """Name the contrast and the model above the first panel, the towers above each where there are several."""
    width = TITLE_WIDTH * len(axes)
    lines = _heading(drawn, width)
    for i, (panel, tower) in enumerate(zip(axes, drawn.shapes, strict=True)):
        # Every title has as many lines, so that constrained layout and loose axes look alike.
        title = [f"{tower} tower"] if len(axes) > 1 or not lines else []
        above = lines if i == 0 else [""] * len(lines)
        panel.set_title("\n".join(above + title), fontsize=TEXT, loc="left")
        panel.set_xlabel(x, fontsize=TEXT)
        if i == 0 or not panel.get_shared_y_axes().joined(panel, axes[0]):
            panel.set_ylabel(y, fontsize=TEXT)


def _heading(drawn: Localization | Units, width: int) -> list[str]:
    meta = getattr(drawn, "meta", None)
    if meta is None:  # a set of units does not say where it comes from
        return []
    contrast = meta.get("contrast") or {}
    name = str(contrast.get("name") or "contrast").replace(",", ", ")
    lines = textwrap.wrap(name, width, max_lines=2, placeholder=" …")
    lines.append(textwrap.shorten(str(meta.get("source") or "model"), width, placeholder=" …"))
    return lines

"""Figures of patching: layer x position heatmaps, effects overlaid on the image, and modality profiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from modalnet.errors import InputError
from modalnet.plotting.layers import SMALL, TEXT
from modalnet.plotting.patches import draw_patches

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from modalnet.patching.modality import ModalityProfile
    from modalnet.patching.result import Patching
    from modalnet.patching.token_alignment import Column

# Blue, white, red: distinguishable with red-green colour blindness; white is no effect.
COLOURS = "RdBu_r"
CELL = 0.24  # inches
WIDEST = 7.2
MOST_LABELS = 60
GROUPS = {"image": "#0072B2", "text": "#D55E00", "last": "#444444"}


def heatmap(
    result: Patching,
    *,
    tower: str | None = None,
    network: str | None = None,
    limit: float | None = None,
    ax: Axes | Sequence[Axes] | None = None,
) -> np.ndarray:
    """Draw patching effects as one layer x position heatmap per space.

    Parameters
    ----------
    result
        The result of patching.
    tower
        The space to draw; by default all.
    network
        Draw patches of this network's units instead of whole sites.
    limit
        Effect of the last colour; by default 1, or the largest effect if that is larger.
    ax
        Axes, one per space. A new figure is made if None.

    Returns
    -------
    array of Axes
        One per space. Layers run upwards from the input. White is no effect; red sites carry the difference between the
        runs: at 1, patching restores the clean run (``direction="denoise"``) or destroys it (``"noise"``).

    Raises
    ------
    InputError
        For a space or network that the result does not have, or another number of axes.
    """
    effects = result.effect if network is None else result.network_effect(network)
    if tower is not None and tower not in effects:
        raise InputError(f"`tower` must be one of {', '.join(effects)}, got {tower!r}.")
    chosen = [tower] if tower is not None else list(effects)
    if ax is None:
        axes = _figure([effects[name].shape for name in chosen])
    else:
        axes = np.atleast_1d(np.array(ax, dtype=object)).ravel()
        if len(axes) != len(chosen):
            raise InputError(f"`ax` must be {len(chosen)} axes, one per space, got {len(axes)}.")
    top = max((float(np.nanmax(np.abs(effects[name]))) for name in chosen), default=1.0)
    limit = max(1.0, top) if limit is None else limit
    for one, name in zip(axes, chosen, strict=True):
        drawn = one.imshow(
            effects[name], origin="lower", aspect="auto", cmap=COLOURS, vmin=-limit, vmax=limit, interpolation="nearest"
        )
        one.set_facecolor("#DDDDDD")  # positions that no pair has
        _label(one, result, name)
        part = f", units of {network}" if network else ""
        part += f" to {result.receiver}" if result.receiver else ""
        one.set_title(f"{name}{part}", fontsize=TEXT, loc="left")
        bar = one.figure.colorbar(drawn, ax=one, fraction=0.05, pad=0.02)
        bar.ax.tick_params(labelsize=SMALL)
        what = "estimated effect" if result.estimated else "effect"
        bar.set_label(f"{what} on {result.metric}\n{_scale(result)}", fontsize=SMALL)
    return axes


def picture_overlay(
    result: Patching,
    *,
    tower: str | None = None,
    layers: Sequence[int] | None = None,
    picture: Any = None,
    ax: Axes | Sequence[Axes] | None = None,
) -> np.ndarray:
    """Overlay the effects of image tokens on the image, at the patches that the tokens cover.

    Parameters
    ----------
    result
        The result of patching with ``tokens="each"`` or ``Grid(rows, columns)``.
    tower
        The space whose image tokens are drawn; by default the decoder if it has any, else the first that has.
    layers
        Layers to draw, one panel each; by default up to six, evenly spaced.
    picture
        The image; by default the clean image of the first pair.
    ax
        Axes, one per layer. A new figure is made if None.

    Raises
    ------
    InputError
        If no image token has a known position: they were patched as one group, or each covers the whole image.
    """
    placed = {name: [i for i, one in enumerate(columns) if one.box] for name, columns in result.columns.items()}
    names = [name for name in ("decoder", *placed) if placed.get(name)]
    tower = tower or (names[0] if names else next(iter(placed)))
    if not placed.get(tower):
        raise InputError(
            f'No image token of {tower} has a known position in the image. Patch with tokens="each" or '
            "tokens=Grid(rows, columns); in some models every image token covers the whole image."
        )
    image = result.picture if picture is None else np.asarray(picture)
    if image is None:
        raise InputError("The result has no image: pass `picture`.")
    depth = result.layers[tower]
    chosen = (
        list(layers)
        if layers is not None
        else [depth[i] for i in np.unique(np.linspace(0, len(depth) - 1, 6).round().astype(int))]
    )
    for layer in chosen:
        if layer not in depth:
            raise InputError(f"`layers` must be patched layers of {tower}, {list(depth)}, got {layer!r}.")
    axes = _row(len(chosen)) if ax is None else np.atleast_1d(np.array(ax, dtype=object)).ravel()
    if len(axes) != len(chosen):
        raise InputError(f"`ax` must be {len(chosen)} axes, one per layer, got {len(axes)}.")
    effect = result.effect[tower]
    limit = max(float(np.nanmax(np.abs(effect[:, placed[tower]]))), 1e-9)
    colours = _colours(limit)
    boxes = [box for place in placed[tower] if (box := result.columns[tower][place].box)]
    for one, layer in zip(axes, chosen, strict=True):
        draw_patches(one, image, boxes, effect[depth.index(layer), placed[tower]], colours)
        one.set_title(f"{tower} layer {layer}", fontsize=SMALL)
    bar = axes[0].figure.colorbar(colours, ax=list(axes), fraction=0.02, pad=0.01)
    bar.ax.tick_params(labelsize=SMALL)
    bar.set_label(f"effect {_scale(result)}", fontsize=SMALL)
    return axes


def modality_profile(profile: ModalityProfile, *, ax: Axes | None = None) -> Axes:
    """Draw the loss of the answer's score when image or text tokens are knocked out, by layer.

    Parameters
    ----------
    profile
        The result of :func:`modalnet.profile_modality`.
    ax
        Axes; a new figure is made if None.
    """
    if ax is None:
        from matplotlib import pyplot

        ax = pyplot.figure(figsize=(3.4, 2.4), layout="constrained").subplots()
    table = profile.table()
    for group in profile.groups:
        own = table[table["tokens"] == group]
        colour = GROUPS.get(group, "#009E73")
        ax.plot(
            own["layer"],
            own["loss"],
            "o-",
            color=colour,
            markersize=3,
            linewidth=1.3,
            label="last token" if group == "last" else f"{group} tokens",
        )
        if own["low"].notna().all():
            ax.fill_between(own["layer"], own["low"], own["high"], color=colour, alpha=0.2, linewidth=0)
    ax.axhline(0, color="#444444", linewidth=0.7)
    ax.set_xlabel("decoder layer", fontsize=TEXT)
    ax.set_ylabel(f"loss of {profile.metric} (nats)", fontsize=TEXT)
    ax.tick_params(labelsize=SMALL)
    ax.legend(fontsize=SMALL, frameon=False)
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    return ax


def _scale(result: Patching) -> str:
    """Return what the ends of the scale of effects are."""
    return "(0 corrupted, 1 clean)" if result.direction == "denoise" else "(0 clean, 1 corrupted)"


def _colours(limit: float) -> Any:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    return ScalarMappable(Normalize(-limit, limit), COLOURS)


def _figure(shapes: Sequence[tuple[int, int]]) -> np.ndarray:
    from matplotlib import pyplot

    widths = [min(max(shape[1] * CELL, 1.6), WIDEST) for shape in shapes]
    heights = [min(max(shape[0] * 0.16, 1.2), 5) for shape in shapes]
    figure = pyplot.figure(figsize=(max(widths) + 1.8, sum(heights) + 1.1 * len(shapes)), layout="constrained")
    return figure.subplots(len(shapes), 1, squeeze=False, gridspec_kw={"height_ratios": heights})[:, 0]


def _row(count: int) -> np.ndarray:
    from matplotlib import pyplot

    return pyplot.figure(figsize=(1.5 * count + 0.6, 1.8), layout="constrained").subplots(1, count, squeeze=False)[0]


def _label(ax: Axes, result: Patching, tower: str) -> None:
    layers, columns = result.layers[tower], result.columns[tower]
    step = max(1, -(-len(layers) // 12))
    ax.set_yticks(range(0, len(layers), step), [str(layer) for layer in layers[::step]], fontsize=SMALL)
    ax.set_ylabel("layer", fontsize=TEXT)
    places = _labelled(columns)
    names = [_shown(columns[place].name) for place in places]
    # Dollar signs would begin a formula.
    ax.set_xticks(places, names, rotation=90, fontsize=SMALL, parse_math=False)


def _labelled(columns: Sequence[Column]) -> list[int]:
    """Return the positions that are labelled: all, or an even selection of image tokens and of others."""
    if len(columns) <= MOST_LABELS:
        return list(range(len(columns)))
    images = [place for place, one in enumerate(columns) if one.kind == "image"]
    others = [place for place, one in enumerate(columns) if one.kind != "image"]
    kept = [own[:: max(1, -(-len(own) // most))] for own, most in ((images, 12), (others, MOST_LABELS - 12))]
    return sorted(kept[0] + kept[1])


def _shown(name: str) -> str:
    written = name.replace("\n", "\\n")
    return f"·{written[1:]}" if written.startswith(" ") and len(written) > 1 else written or "''"

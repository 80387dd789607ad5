"""Figures of attention: how much each part of a picture is attended to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from modalnet.errors import InputError
from modalnet.plotting.layers import SMALL
from modalnet.plotting.patches import PANEL, draw_patches

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from modalnet.features.attention_result import AttentionMaps

COLOURS = "plasma"
MOST_PANELS = 24
COLUMNS = 6


def attention_picture(
    result: AttentionMaps,
    *,
    stimulus: int = 0,
    layer: int | Literal["grid"] | None = None,
    head: int | None = None,
    ax: Axes | Sequence[Axes] | np.ndarray | None = None,
) -> np.ndarray:
    """Draw how much attention each patch of a picture gets, mean over the tokens that attend.

    Parameters
    ----------
    result
        The result of :func:`modalnet.features.attention_maps` with image tokens as its source.
    stimulus
        Index of the stimulus.
    layer
        A layer; None for the mean over layers; ``"grid"`` for one panel per layer, up to 24, evenly spaced.
    head
        One of the heads that were read; None for their mean.
    ax
        Axes, one per panel. A new figure is made if None.

    Returns
    -------
    array of Axes
        One per panel. Colours are on one scale from 0 to the largest weight; a title says what share of the attention
        goes to all sources together.

    Raises
    ------
    InputError
        For a stimulus, layer or head that the result does not have; where no source has a known position in a picture;
        for another number of axes.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    if isinstance(layer, str) and layer != "grid":
        raise InputError(f"`layer` must be a layer that was read, None for their mean, or 'grid', got {layer!r:.50}.")
    shown: list[int | None] = [layer]  # type: ignore[list-item]
    if layer == "grid":
        some = np.unique(np.linspace(0, len(result.layers) - 1, min(len(result.layers), MOST_PANELS)).round())
        shown = [result.layers[int(place)] for place in some]
    maps = [result.map(stimulus, each, head) for each in shown]
    boxes = result.boxes.get(stimulus)
    known = np.flatnonzero(np.isfinite(boxes).all(1)) if boxes is not None else np.zeros(0, dtype=np.int64)
    if boxes is None or not len(known):
        raise InputError(
            f"No source of stimulus {result.labels[stimulus]} ({result.source}) has a known position in a picture, so "
            'nothing can be drawn over one. Use source="image" with stimuli of one picture each; .table() and '
            ".to_frame() have the weights. In some models every image token covers the whole picture."
        )
    axes = _panels(len(maps)) if ax is None else np.atleast_1d(np.array(ax, dtype=object)).ravel()
    if len(axes) != len(maps):
        raise InputError(f"`ax` must be {len(maps)} axes, one per panel, got {len(axes)}.")
    top = max(float(np.stack(maps)[:, known].max()), 1e-9)
    scale = ScalarMappable(Normalize(0, top), COLOURS)
    for one, values, each in zip(axes, maps, shown, strict=True):
        draw_patches(one, result.pictures[stimulus], boxes[known], values[known], scale)
        where = "mean over layers" if each is None else f"layer {each}"
        one.set_title(f"{where}: {values.sum():.0%} to {result.source}", fontsize=SMALL)
    which = f", head {head}" if head is not None else ", mean over heads"
    bar = axes[0].figure.colorbar(scale, ax=list(axes), fraction=0.03, pad=0.01)
    bar.ax.tick_params(labelsize=SMALL)
    bar.set_label(f"attention from {result.target}{which}", fontsize=SMALL)
    return axes


def _panels(count: int) -> np.ndarray:
    from matplotlib import pyplot

    rows = -(-count // COLUMNS)
    columns = -(-count // rows)
    width, height = PANEL if count == 1 else (1.7, 1.95)
    figure = pyplot.figure(figsize=(width * columns + 0.8, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for unused in axes[count:]:
        unused.remove()
    return axes[:count]

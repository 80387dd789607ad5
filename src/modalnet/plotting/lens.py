"""Figures of a lens: the grid of layers and tokens with the likeliest next token in each cell, and over an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from modalnet.errors import InputError
from modalnet.plotting.layers import SMALL, TEXT
from modalnet.plotting.patches import draw_patches, in_pixels

if TYPE_CHECKING:
    from jaxtyping import Int
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

    from modalnet.lenses.result import Lens

COLOURS = "Blues"
COLUMN, ROW = 0.62, 0.24  # inches
MOST_COLUMNS = 16
LETTERS, BELOW = 9, 11
PATCH_LETTERS, PATCH_SIZE = 6, 4.5
MOST_PANELS = 6
MOST_WRITTEN = 100  # patches that a token is written on


def token_grid(
    result: Lens,
    *,
    stimulus: int = 0,
    positions: Sequence[int] | None = None,
    word: str | None = None,
    lens: str | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw layers x tokens of one stimulus, with the likeliest next token in each cell, coloured by its probability.

    Parameters
    ----------
    result
        The result of :func:`modalnet.lens`.
    stimulus
        Index of the stimulus.
    positions
        Positions among its tokens, of those that were read; by default up to 16, evenly spaced.
    word
        Colour cells by the probability of this word, and write its rank beside the token.
    lens
        ``"plain"`` or ``"tuned"``; None for the tuned lens where there is one.
    ax
        Axes; a new figure is made if None.

    Returns
    -------
    Axes
        Layers run upwards; below each column stands the token that is there.

    Raises
    ------
    InputError
        For a stimulus, position, word or lens that the result does not have.
    """
    number = result.index(lens)
    places = _places(result, stimulus, positions)
    values = (result.probabilities[number, ..., 0] if word is None else result.probability(word, lens=lens))[:, places]
    written = result.top_tokens[number, :, places, 0].T
    ranks = None if word is None else result._of(word, number)[1][:, places]
    n_layers = len(result.layers)
    if ax is None:
        from matplotlib import pyplot

        size = COLUMN * len(places) + 1.6, ROW * n_layers + 1.2
        ax = pyplot.figure(figsize=size, layout="constrained").subplots()
    top = 1.0 if word is None else max(float(values.max()), 1e-9)
    drawn = ax.imshow(values, origin="lower", aspect="auto", cmap=COLOURS, vmin=0, vmax=top, interpolation="nearest")
    for layer, column in np.ndindex(*values.shape):
        text = _short(str(written[layer, column])) + ("" if ranks is None else f" {ranks[layer, column]}")
        ink = "white" if values[layer, column] > 0.6 * top else "#222222"
        ax.text(column, layer, text, ha="center", va="center", fontsize=SMALL - 1, color=ink, parse_math=False)
    ax.set_yticks(range(n_layers), [str(layer) for layer in result.layers], fontsize=SMALL)
    ax.set_ylabel(f"{result.tower} layer", fontsize=TEXT)
    below = [f"{_short(result.at[place], BELOW)}\n{result.position[place]}" for place in places]
    ax.set_xticks(range(len(places)), below, fontsize=SMALL - 1, parse_math=False)
    ax.set_title(_title(result, number, stimulus), fontsize=TEXT, loc="left")
    _bar(drawn, [ax], "probability of the likeliest token" if word is None else f"probability of {word!r} (and rank)")
    return ax


def lens_picture(
    result: Lens,
    *,
    stimulus: int = 0,
    word: str | None = None,
    layers: int | Sequence[int] | None = None,
    lens: str | None = None,
    ax: Axes | Sequence[Axes] | None = None,
) -> np.ndarray:
    """Draw what image tokens predict over the image, at the patches that they cover, one panel per layer.

    Parameters
    ----------
    result
        The result of :func:`modalnet.lens` at image tokens.
    stimulus
        Index of the stimulus.
    word
        The word whose probability is drawn; None for the likeliest token at each patch, which is written there where
        there are at most 100 patches.
    layers
        Layers; by default up to six, evenly spaced.
    lens
        ``"plain"`` or ``"tuned"``; None for the tuned lens where there is one.
    ax
        Axes, one per layer. A new figure is made if None.

    Returns
    -------
    array of Axes

    Raises
    ------
    InputError
        For a stimulus, word, layer or lens that the result does not have; where no image token has a known position.
    """
    number = result.index(lens)
    places = result.places(stimulus)
    known = [] if result.boxes is None else [place for place in places if np.isfinite(result.boxes[place]).all()]
    if result.boxes is None or not known or stimulus not in result.pictures:
        raise InputError(
            f"No token of stimulus {result.labels[stimulus]} that was read has a known position in an image. Read "
            'tokens="image" of a stimulus with one image; in some models every image token covers the whole image.'
        )
    chosen = _layers(result, layers)
    values = result.probabilities[number, ..., 0] if word is None else result.probability(word, lens=lens)
    top = max(float(values[np.ix_([result.layers.index(layer) for layer in chosen], known)].max()), 1e-9)
    axes = _row(len(chosen)) if ax is None else np.atleast_1d(np.array(ax, dtype=object)).ravel()
    if len(axes) != len(chosen):
        raise InputError(f"`ax` must be {len(chosen)} axes, one per layer, got {len(axes)}.")
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    scale = ScalarMappable(Normalize(0, top), COLOURS)
    for one, layer in zip(axes, chosen, strict=True):
        place = result.layers.index(layer)
        draw_patches(one, result.pictures[stimulus], result.boxes[known], values[place][known], scale)
        if word is None and len(known) <= MOST_WRITTEN:
            _write_patches(one, result, known, result.ids[number, place, :, 0])
        one.set_title(f"layer {layer}", fontsize=SMALL)
    what = "probability of the likeliest token" if word is None else f"probability of {word!r}"
    _bar(scale, list(axes), f"{what}, {result.lenses[number]} lens")
    return axes


def _write_patches(ax: Axes, result: Lens, known: Sequence[int], ids: Int[np.ndarray, " place"]) -> None:
    """The likeliest tokens of one layer over the image."""
    from matplotlib.patheffects import withStroke

    assert result.boxes is not None
    boxes, picture = result.boxes, result.pictures[int(result.stimulus[known[0]])]
    for place in known:
        left, top, right, bottom = in_pixels(boxes[place], picture)
        text = _short(result.names[int(ids[place])], PATCH_LETTERS)
        ax.text(
            (left + right) / 2,
            (top + bottom) / 2,
            text,
            ha="center",
            va="center",
            fontsize=PATCH_SIZE,
            parse_math=False,
            path_effects=[withStroke(linewidth=1.2, foreground="white")],
        )


def _places(result: Lens, stimulus: int, positions: Sequence[int] | None) -> list[int]:
    own = result.places(stimulus)
    if positions is None:
        some = np.unique(np.linspace(0, len(own) - 1, min(len(own), MOST_COLUMNS)).round().astype(int))
        return [int(place) for place in own[some]]
    by_position = {int(result.position[place]): int(place) for place in own}
    for position in positions:
        if position not in by_position:
            raise InputError(
                f"`positions` must be among those that were read of stimulus {result.labels[stimulus]} "
                f"({min(by_position)} to {max(by_position)}, {len(by_position)} in all), got {position!r:.50}."
            )
    if not len(positions):
        raise InputError("`positions` must name at least one position, got none.")
    return [by_position[position] for position in positions]


def _layers(result: Lens, layers: int | Sequence[int] | None) -> list[int]:
    if layers is None:
        some = np.unique(np.linspace(0, len(result.layers) - 1, min(len(result.layers), MOST_PANELS)).round())
        return [result.layers[int(place)] for place in some]
    chosen = [layers] if isinstance(layers, int) else list(layers)
    for layer in chosen:
        if layer not in result.layers:
            raise InputError(f"`layers` must be among those that were read, {list(result.layers)}, got {layer!r:.50}.")
    if not chosen:
        raise InputError("`layers` must name at least one layer, got none.")
    return chosen


def _title(result: Lens, lens: int, stimulus: int) -> str:
    label = result.labels[stimulus]
    return f"{result.model}: {result.lenses[lens]} lens, {label if len(label) < 40 else label[:39] + '…'}"


def _short(name: str, letters: int = LETTERS) -> str:
    written = name.replace("\n", "\\n").replace("\t", "\\t")
    written = f"·{written[1:]}" if written.startswith(" ") and len(written) > 1 else written
    return written if len(written) <= letters else written[: letters - 1] + "…"


def _bar(drawn: AxesImage | Any, axes: list[Axes], label: str) -> None:
    bar = axes[0].figure.colorbar(drawn, ax=axes, fraction=0.03, pad=0.01)
    bar.ax.tick_params(labelsize=SMALL)
    bar.set_label(label, fontsize=SMALL)


def _row(count: int) -> np.ndarray:
    from matplotlib import pyplot

    return pyplot.figure(figsize=(2.6 * count + 0.8, 2.9), layout="constrained").subplots(1, count, squeeze=False)[0]

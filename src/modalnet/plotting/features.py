"""Figures of maximally activating stimuli and of optimized images."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from modalnet._deprecation import renamed_arguments
from modalnet.errors import InputError
from modalnet.plotting.highlight import Opacity, draw_image, draw_texts
from modalnet.plotting.layers import SMALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from modalnet.features.optimized import Optimized
    from modalnet.features.result import TopStimuli

MAX_ROWS, MAX_COLUMNS = 5, 9
CELL = 0.95  # inches
LINE = 0.17  # inches
LABEL_WIDTH = 12  # characters


@renamed_arguments(shade="highlight")
def top_stimuli(
    result: TopStimuli,
    *,
    rows: Sequence[int] | None = None,
    n: int | None = None,
    highlight: bool = True,
    ax: Axes | Sequence[Axes] | np.ndarray | None = None,
) -> np.ndarray:
    """Draw the maximally activating stimuli, one row per unit.

    Parameters
    ----------
    result
        The result of :func:`modalnet.features.top_stimuli` or :func:`modalnet.features.top_tokens`.
    rows
        Positions of units in ``result.units``, and -1 for the network; by default the network (of two units or more)
        and the first units, five in all.
    n
        Number of stimuli per unit; by default up to nine.
    highlight
        Highlight image patches or words by the activation at their token: opacity increases from the median over all
        tokens of the row to its maximum.
    ax
        Axes: an array ``[row, stimulus]`` for images, ``[row]`` for texts. A new figure is made if None.

    Returns
    -------
    array of Axes

    Raises
    ------
    InputError
        For a row that the result does not have, or another number of axes.
    """
    if rows is None:
        rows = ([-1] if len(result.units) > 1 else []) + list(range(len(result.units)))
        rows = rows[:MAX_ROWS]
    chosen = [(row, *result.row(row)) for row in rows]
    n = min(result.n, MAX_COLUMNS) if n is None else min(n, result.n)
    if not chosen or n < 1:
        raise InputError("There is nothing to draw: give at least one row, and `n` of at least 1.")
    images = all(stimulus.n_images for stimulus in result.stimuli.values())
    if images:
        axes = _grid(len(chosen), n) if ax is None else _given(ax, (len(chosen), n))
    else:
        axes = _column(len(chosen), n) if ax is None else _given(ax, (len(chosen),))
    for panels, (row, index, activation) in zip(axes, chosen, strict=True):
        opacity = Opacity.of(result, row) if highlight else None
        ranks = [rank for rank in range(n) if index[rank] >= 0]
        if not images:
            draw_texts(panels, result, row, ranks, opacity)
            panels.set_ylim(n, 0)
            continue
        for panel in panels[:n]:
            panel.set_axis_off()
        for rank in ranks:
            draw_image(panels[rank], result, row, rank, opacity)
            panels[rank].set_title(f"{activation[rank]:.3g}", fontsize=SMALL, pad=2)
        name = "\n".join(textwrap.wrap(result.name(row), LABEL_WIDTH))
        first = panels[0]
        first.text(-0.06, 0.5, name, ha="right", va="center", fontsize=SMALL, transform=first.transAxes)
    return axes


def optimized(result: Optimized, *, ax: Sequence[Axes] | np.ndarray | None = None) -> np.ndarray:
    """Draw the optimized image of the network and of each control, above the best natural image of each, if any.

    Parameters
    ----------
    result
        The result of :func:`modalnet.features.optimize`.
    ax
        Axes, an array ``[1 or 2, set]``. A new figure is made if None.

    Returns
    -------
    array of Axes
        ``[1 or 2, set]``; the title of an image is the response of its own set.

    Raises
    ------
    InputError
        For another number of axes.
    """
    count, natural = len(result.pictures), result.natural
    shape = (1 if natural is None else 2), count
    if ax is None:
        from matplotlib import pyplot

        figure = pyplot.figure(figsize=(1.7 * count + 0.5, 1.95 * shape[0]), layout="constrained")
        axes = figure.subplots(*shape, squeeze=False)
    else:
        axes = _given(ax, shape)
    for index in range(count):
        above = axes[0, index]
        above.imshow(result.pictures[index])
        above.set_title(f"{result.name(index)}\noptimized: {result.response[index, index]:.3g}", fontsize=SMALL)
        if natural is not None:
            below = axes[1, index]
            below.imshow(natural.pictures[index])
            below.set_title(f"best natural: {natural.response[index].max():.3g}", fontsize=SMALL)
    for panel in axes.ravel():
        panel.set_xticks([])
        panel.set_yticks([])
    return axes


def _given(ax: Axes | Sequence[Axes] | np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    axes = np.atleast_1d(np.array(ax, dtype=object))
    if axes.size != np.prod(shape):
        raise InputError(f"`ax` must be {'x'.join(map(str, shape))} axes, got {axes.size}.")
    return axes.reshape(shape)


def _grid(rows: int, columns: int) -> np.ndarray:
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=(CELL * columns + 0.9, (CELL + 0.2) * rows), layout="constrained")
    return figure.subplots(rows, columns, squeeze=False)


def _column(rows: int, n: int) -> np.ndarray:
    from matplotlib import pyplot

    height = LINE * n + 0.3
    figure = pyplot.figure(figsize=(7.2, height * rows))
    axes = figure.subplots(rows, 1, squeeze=False)[:, 0]
    figure.subplots_adjust(left=0.01, right=0.99, top=1 - 0.25 / (height * rows), bottom=0.01, hspace=0.3 / height)
    return axes

"""What units like, as pictures: their stimuli shaded by activation, and what was painted for them."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from modalnet.errors import InputError
from modalnet.models.towers import modality_of
from modalnet.plotting.layers import SMALL, TEXT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from modalnet.features.optimized import Optimized
    from modalnet.features.result import TopStimuli

# A warm wash over the picture or behind the words: how strong is how much.
WASH = (0.902, 0.624, 0.0)
STRONGEST = 0.8
MOST_ROWS, MOST_COLUMNS = 5, 9
CELL = 0.95  # inches
LINE, WIDTH = 0.17, 96  # inches, letters
GAP = 0.4  # between tokens, in letters
LETTER = 0.602  # width of a monospaced letter of the font that comes with matplotlib, in font sizes


def top_stimuli(
    result: TopStimuli,
    *,
    rows: Sequence[int] | None = None,
    n: int | None = None,
    shade: bool = True,
    ax: Any = None,
) -> np.ndarray:
    """Draw the stimuli that drive units most, one row per unit.

    Parameters
    ----------
    result
        What was found.
    rows
        Places of units in ``result.units``, and -1 for the network; None for the network (of two units or more) and the
        first units, five in all.
    n
        How many stimuli per unit; None for up to nine.
    shade
        Lay the activation at each image token over the picture, or behind each word: the more orange, the farther above
        the median over all tokens of the row.
    ax
        Axes: an array ``[row, stimulus]`` for pictures, ``[row]`` for texts. A new figure is made if None.

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
        rows = rows[:MOST_ROWS]
    chosen = [(row, *result.row(row)) for row in rows]
    n = min(result.n, MOST_COLUMNS) if n is None else min(n, result.n)
    if not chosen or n < 1:
        raise InputError("There is nothing to draw: give at least one row, and n from 1.")
    pictured = all(one.n_images for one in result.stimuli.values())
    if pictured:
        axes = _grid(len(chosen), n) if ax is None else _given(ax, (len(chosen), n))
    else:
        axes = _column(len(chosen), n) if ax is None else _given(ax, (len(chosen),))
    for own, (row, index, activation) in zip(axes, chosen, strict=True):
        limits = _limits(result, row) if shade else None
        found = [rank for rank in range(n) if index[rank] >= 0]
        if pictured:
            for rank in range(n):
                own[rank].set_axis_off()
            for rank in found:
                _picture(own[rank], result, (row, rank), limits)
                own[rank].set_title(f"{activation[rank]:.3g}", fontsize=SMALL, pad=2)
            side: dict[str, Any] = {"ha": "right", "va": "center", "fontsize": SMALL, "transform": own[0].transAxes}
            own[0].text(-0.06, 0.5, _wrapped(result.name(row)), **side)
        else:
            _texts(own, result, row, found, limits)
            own.set_ylim(n, 0)
    return axes


def optimized(result: Optimized, *, ax: Any = None) -> np.ndarray:
    """Draw the picture of the network and of each control, above the best natural picture of each where there is one.

    Parameters
    ----------
    result
        What was painted.
    ax
        Axes, an array ``[1 or 2, set]``. A new figure is made if None.

    Returns
    -------
    array of Axes
        ``[1 or 2, set]``; over each picture stands the response to it of the set that it belongs to.

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
    for place in range(count):
        top = axes[0, place]
        top.imshow(result.pictures[place])
        top.set_title(f"{result.name(place)}\noptimized: {result.response[place, place]:.3g}", fontsize=SMALL)
        if natural is not None:
            below = axes[1, place]
            below.imshow(natural.pictures[place])
            below.set_title(f"best natural: {natural.response[place].max():.3g}", fontsize=SMALL)
    for one in axes.ravel():
        one.set_xticks([])
        one.set_yticks([])
    return axes


def _picture(ax: Axes, result: TopStimuli, cell: tuple[int, int], limits: tuple[float, float] | None) -> None:
    row, rank = cell
    index = int(result.row(row)[0][rank])
    image = np.asarray(result.stimuli[index].images()[0])
    ax.imshow(image)
    if limits is None:
        return
    height, width = image.shape[:2]
    for (tower, stimulus), boxes in result.shown.boxes.items():
        values = result.shown.shades.get((tower, row, rank))
        if stimulus != index or values is None:
            continue
        wash = np.zeros((height, width, 4))
        for box, value in zip(boxes, values, strict=True):
            if np.isfinite(box).all():
                left, top, right, bottom = np.round(box * [width, height, width, height]).astype(int)
                wash[top:bottom, left:right] = _colour(value, limits)
        ax.imshow(wash)


def _texts(ax: Axes, result: TopStimuli, row: int, found: Sequence[int], limits: tuple[float, float] | None) -> None:
    """Texts under each other, each word on its shade."""
    from matplotlib.patches import Rectangle

    ax.set_axis_off()
    ax.set_title(result.name(row), fontsize=TEXT, loc="left")
    letter = LETTER * SMALL / ax.get_window_extent().width * ax.figure.dpi / 72  # in widths of the axes
    ax.set_xlim(0, 1)
    for rank in found:
        index, activation = (values[rank] for values in result.row(row))
        index = int(index)
        ax.text(0, rank + 0.5, f"{activation:8.3g}", family="monospace", fontsize=SMALL, va="center", color="#555555")
        tower = next(
            (t for t, r, k in result.shown.shades if (r, k) == (row, rank) and modality_of(t) != "image"), None
        )
        if tower is None or limits is None:
            written = [(_shown(result.stimuli[index].text or ""), 0.0)]
        else:
            names, values = result.shown.tokens[tower, index], result.shown.shades[tower, row, rank]
            written = _around([(_shown(name), float(v)) for name, v in zip(names, values, strict=True)], WIDTH)
        x = 10 * letter
        for word, value in written:
            size = len(word) * letter
            if limits is not None and tower is not None:
                ax.add_patch(
                    Rectangle((x, rank + 0.08), size, 0.84, facecolor=_colour(value, limits), linewidth=0, clip_on=True)
                )
            # A word that holds dollar signs is no formula.
            ax.text(
                x, rank + 0.5, word, family="monospace", fontsize=SMALL, va="center", parse_math=False, clip_on=True
            )
            x += size + GAP * letter


def _around(words: list[tuple[str, float]], width: int) -> list[tuple[str, float]]:
    """The stretch of words that fits a line and holds the strongest of them."""
    if sum(len(word) + GAP for word, _ in words) <= width:
        return words
    first = last = 1 + int(np.argmax([value for _, value in words[1:]])) if len(words) > 1 else 0
    size = len(words[first][0])
    while True:
        before = len(words[first - 1][0]) if first else width
        after = len(words[last + 1][0]) if last + 1 < len(words) else width
        if size + min(before, after) > width:
            return words[first : last + 1]
        # Both sides grow in turn, so that the strongest stays in the middle.
        if before <= width - size and (len(words) - last <= first or size + after > width):
            first, size = first - 1, size + before
        else:
            last, size = last + 1, size + after


def _limits(result: TopStimuli, row: int) -> tuple[float, float]:
    """Where the wash begins, at the median over all tokens, and how far above that it is strongest.

    The first token of a text is an attention sink in most decoders, and counts for neither.
    """
    parts = [v if modality_of(t) == "image" else v[1:] for (t, r, _), v in result.shown.shades.items() if r == row]
    values = np.concatenate([part for part in parts if len(part)] or [np.zeros(1)])
    middle = float(np.median(values))
    return middle, max(float(values.max()) - middle, 1e-12)


def _colour(value: float, limits: tuple[float, float]) -> tuple[float, float, float, float]:
    return (*WASH, STRONGEST * min(max((float(value) - limits[0]) / limits[1], 0.0), 1.0))


def _given(ax: Any, shape: tuple[int, ...]) -> np.ndarray:
    axes = np.atleast_1d(np.array(ax, dtype=object))
    if axes.size != np.prod(shape):
        raise InputError(f"This needs {'x'.join(map(str, shape))} axes; {axes.size} were given.")
    return axes.reshape(shape)


def _shown(word: str) -> str:
    return word.replace("\n", "\\n").replace("\t", "\\t")


def _wrapped(name: str) -> str:
    return "\n".join(textwrap.wrap(name, 12))


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

"""The layout of the sheet: one patch per block, wrapped into rows space by space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from modalnet.plotting.arrangement import ROUND

if TYPE_CHECKING:
    from jaxtyping import Float

GAP = 0.14  # between patches, as a fraction of their width
WIDTH = 7.2  # inches: a page
ASPECT = 1.75  # width over height that the patches are wrapped to
LINE = 0.16  # inches: a line of text


@dataclass(frozen=True)
class Layout:
    """The positions of all patches, in cells.

    Attributes
    ----------
    corners
        Upper left corner (x, y) of each patch, by (space, block).
    titles
        y of each space's title.
    width, height
        Size of the whole.
    line
        Height of a line of text.
    """

    corners: dict[tuple[str, int], tuple[int, int]]
    titles: dict[str, int]
    width: int
    height: int
    line: int


def lay_out(
    shapes: Mapping[str, tuple[int, int]], sizes: Mapping[str, tuple[int, int]], aspect: float = ASPECT
) -> Layout:
    """Wrap the patches of each space into rows so that the aspect ratio of the whole is about ``aspect``."""
    widest = {space: size[1] + max(2, round(GAP * size[1])) for space, size in sizes.items()}
    candidates = sorted({n * widest[space] for space, (layers, _) in shapes.items() for n in range(1, layers + 1)})
    wraps = [_wrap(shapes, sizes, widest, limit) for limit in candidates if limit >= max(widest.values())]
    return min(wraps, key=lambda layout: abs(np.log(layout.width / layout.height / aspect)))


def _wrap(
    shapes: Mapping[str, tuple[int, int]], sizes: Mapping[str, tuple[int, int]], steps: Mapping[str, int], limit: int
) -> Layout:
    per_row = {}
    for space, (n_layers, _) in shapes.items():
        n_rows = -(-n_layers // max(1, limit // steps[space]))
        per_row[space] = -(-n_layers // n_rows)
    whole = max((n - 1) * steps[space] + sizes[space][1] for space, n in per_row.items())
    line = int(np.ceil(LINE * whole / WIDTH))
    corners, titles, y = {}, {}, 0
    for space, (n_layers, _) in shapes.items():
        titles[space] = y
        y += 2 * line
        step = sizes[space][0] + 2 * line
        for block in range(n_layers):
            row, column = divmod(block, per_row[space])
            corners[space, block] = (column * steps[space], y + row * step)
        y += -(-n_layers // per_row[space]) * step
    return Layout(corners, titles, whole, y, line)


def outline_of(size: tuple[int, int]) -> Float[np.ndarray, "point 2"]:
    """Return the outline of a patch as (x, y) around its centre, in cells."""
    margin = 0.4 + 0.02 * size[1]
    angle = np.linspace(0, 2 * np.pi, 121)
    cosine, sine = np.cos(angle), np.sin(angle)
    x = np.sign(cosine) * np.abs(cosine) ** (2 / ROUND) * (size[1] / 2 + margin)
    y = np.sign(sine) * np.abs(sine) ** (2 / ROUND) * (size[0] / 2 + margin)
    return np.stack([x, y], axis=1)

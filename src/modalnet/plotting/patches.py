"""Values of image tokens over a picture, at the patches that they cover."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.axes import Axes

MAX_OPACITY = 0.9
PANEL = 2.6, 2.9  # inches


def draw_patches(
    ax: Axes,
    picture: np.ndarray,
    boxes: Iterable[Sequence[float] | Float[np.ndarray, "4"]],
    values: Iterable[float],
    scale: Any,
) -> None:
    """Draw a picture and values over it.

    Parameters
    ----------
    ax
        Axes, whose ticks are removed.
    picture
        ``[height, width]`` or ``[height, width, 3]``.
    boxes
        Left, top, right and bottom of each patch, as shares of the picture.
    values
        Of each patch; nothing is drawn for those that are not finite.
    scale
        A ScalarMappable from values to colours; opacity grows with the size of the value up to its ``vmax``, so that
        the picture shows where there is nothing.
    """
    from matplotlib.patches import Rectangle

    ax.imshow(picture, cmap="gray")
    height, width = picture.shape[:2]
    for box, value in zip(boxes, values, strict=True):
        if not np.isfinite(value):
            continue
        left, top, right, bottom = in_pixels(box, picture)
        colour = (*scale.to_rgba(value)[:3], MAX_OPACITY * min(abs(float(value)) / scale.norm.vmax, 1.0))
        ax.add_patch(Rectangle((left, top), right - left, bottom - top, facecolor=colour, linewidth=0))
    ax.set_xlim(-0.5, width - 0.5)
    ax.set_ylim(height - 0.5, -0.5)
    ax.set_xticks([])
    ax.set_yticks([])


def in_pixels(box: Sequence[float] | Float[np.ndarray, "4"], picture: np.ndarray) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a patch in pixels of a picture."""
    height, width = picture.shape[:2]
    left, top, right, bottom = map(float, box)
    return left * width, top * height, right * width, bottom * height

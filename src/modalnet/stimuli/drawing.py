"""The primitives of drawn pictures: filled polygons, lines and arcs in a unit square.

Coordinates are fractions of the picture, so the same drawing serves a model that reads 64 pixels and one that reads
448.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 38, 42),
    "green": (40, 150, 60),
    "blue": (40, 80, 215),
    "yellow": (245, 220, 50),
    "orange": (245, 140, 25),
    "purple": (140, 50, 165),
    "black": (15, 15, 18),
    "white": (246, 246, 246),
}

# Pictures are drawn at this multiple of their size and averaged down, which smooths their edges.
OVERSAMPLING = 2
_COLOUR_JITTER = 14


class Drawing:
    """A square picture in progress.

    Coordinates are fractions of the side, x to the right and y down; a colour is (red, green, blue) from 0 to 255.
    """

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        from PIL import Image as pil, ImageDraw

        self.size = size
        self.side = size * OVERSAMPLING
        self.rng = rng
        ground = rng.integers(105, 175) + rng.integers(-12, 13, size=3)
        self.image = pil.new("RGB", (self.side, self.side), tuple(int(value) for value in ground))
        self.draw = ImageDraw.Draw(self.image)

    def colour(self, name: str) -> tuple[int, ...]:
        """The named colour with random jitter."""
        jitter = self.rng.integers(-_COLOUR_JITTER, _COLOUR_JITTER + 1, size=3)
        return tuple(int(value) for value in np.clip(np.array(COLOURS[name]) + jitter, 0, 255))

    def polygon(self, points: Sequence[tuple[float, float]], fill: tuple[int, ...]) -> None:
        """Fill a polygon."""
        self.draw.polygon([(x * self.side, y * self.side) for x, y in points], fill=fill)

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: tuple[int, ...]) -> None:
        """Fill a rectangle."""
        self.draw.rectangle([value * self.side for value in (x0, y0, x1, y1)], fill=fill)

    def ellipse(self, x0: float, y0: float, x1: float, y1: float, fill: tuple[int, ...]) -> None:
        """Fill an ellipse, given by its bounding box."""
        self.draw.ellipse([value * self.side for value in (x0, y0, x1, y1)], fill=fill)

    def arc(
        self, box: tuple[float, float, float, float], start: float, end: float, fill: tuple[int, ...], width: float
    ) -> None:
        """Draw an arc between two angles, in degrees clockwise from the right."""
        self.draw.arc([value * self.side for value in box], start, end, fill, max(1, round(width * self.side)))

    def line(self, points: Sequence[tuple[float, float]], fill: tuple[int, ...], width: float) -> None:
        """Draw a line through points."""
        thick = max(1, round(width * self.side))
        self.draw.line([(x * self.side, y * self.side) for x, y in points], fill=fill, width=thick, joint="curve")

    def finish(self) -> Image:
        """Return the picture at its final size, with grain."""
        from PIL import Image as pil

        pixels = np.asarray(self.image.reduce(OVERSAMPLING), dtype=np.int16)
        grain = self.rng.integers(-6, 7, size=(self.size, self.size, 1), dtype=np.int16)
        return pil.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8))


class Frame:
    """A rectangle inside the picture that maps unit coordinates to the picture, possibly mirrored."""

    def __init__(self, x: float, y: float, width: float, height: float, flip: bool) -> None:
        self.x, self.y, self.width, self.height, self.flip = x, y, width, height, flip

    def __call__(self, *points: tuple[float, float]) -> list[tuple[float, float]]:
        """Map points of the frame to the picture."""
        return [(self.x + (1 - u if self.flip else u) * self.width, self.y + v * self.height) for u, v in points]

    def box(self, u0: float, v0: float, u1: float, v1: float) -> tuple[float, float, float, float]:
        """Map a rectangle of the frame to the picture: left, top, right, bottom."""
        (x0, y0), (x1, y1) = self((u0, v0), (u1, v1))
        return min(x0, x1), y0, max(x0, x1), y1


def random_frame(rng: np.random.Generator) -> Frame:
    """Draw a frame of random size and place inside the picture."""
    width, height = rng.uniform(0.62, 0.88, size=2)
    return Frame(rng.uniform(0, 1 - width), rng.uniform(0, 1 - height), width, height, bool(rng.integers(2)))


def other_colour(rng: np.random.Generator, colour: str) -> str:
    """Draw the name of another colour."""
    names = [name for name in COLOURS if name != colour]
    return names[rng.integers(len(names))]

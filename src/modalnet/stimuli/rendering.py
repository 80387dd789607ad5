"""Rendering of drawn pictures: coloured shapes, faces, houses, everyday objects and printed words.

What is drawn is described by plain data (:class:`Shape`, :class:`Picture`), so that the ground truth of every picture
is known. Each kind varies in colour, size, place and parts. The kinds share backgrounds and colours, so that none can
be identified by its background or its palette alone.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from modalnet.stimuli.drawing import COLOURS, OVERSAMPLING, Drawing, random_frame
from modalnet.stimuli.drawn_things import OBJECT_DRAWINGS, draw_face, draw_house

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

__all__ = [
    "CATEGORIES",
    "COLOURS",
    "OBJECTS",
    "SHAPES",
    "Picture",
    "Shape",
    "draw_picture",
    "draw_scene",
    "draw_shape",
    "letter_font",
    "word_box",
    "word_letters",
]

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
OBJECTS = ("car", "cup", "chair", "lamp", "boat", "bottle", "umbrella", "hammer")
CATEGORIES = ("face", "house", "object", "word")


@dataclass(frozen=True)
class Shape:
    """A coloured shape of a scene; ``x`` (to the right), ``y`` (down) and ``radius`` are fractions of the picture."""

    kind: str
    colour: str
    x: float
    y: float
    radius: float

    def __str__(self) -> str:
        return f"{self.colour} {self.kind}"


@dataclass(frozen=True)
class Picture:
    """Description of a picture of a face, a house, an object or a printed word.

    Attributes
    ----------
    category
        One of ``CATEGORIES``.
    name
        ``"face"``, ``"house"``, the name of the object, or the printed word.
    colour
        Colour of the hair, the walls, the object or the letters; a key of ``COLOURS``.
    mood
        ``"happy"`` or ``"sad"`` for a face, else None.
    variant
        Seed of everything else: size, place, second colour, parts.
    """

    category: str
    name: str
    colour: str
    mood: str | None = None
    variant: int = 0


def draw_scene(shapes: Sequence[Shape], size: int, seed: int | Sequence[int] = 0) -> Image:
    """Draw coloured shapes on a plain background.

    Parameters
    ----------
    shapes
        The shapes, later ones in front.
    size
        Pixels per side.
    seed
        Seed (or sequence of integers) of the background, the colour jitter and the grain.

    Returns
    -------
    PIL.Image.Image
        RGB.
    """
    drawing = Drawing(size, np.random.default_rng(seed))
    for shape in shapes:
        draw_shape(drawing, shape)
    return drawing.finish()


def draw_picture(picture: Picture, size: int, seed: int | Sequence[int] = 0) -> Image:
    """Draw a face, a house, an object or a printed word.

    Parameters
    ----------
    picture
        The picture; ``picture.variant`` determines its parts and position.
    size, seed
        As for :func:`draw_scene`.

    Returns
    -------
    PIL.Image.Image
        RGB.
    """
    drawing = Drawing(size, np.random.default_rng(seed))
    parts = np.random.default_rng(picture.variant)
    if picture.category == "word":
        _draw_word(drawing, picture, parts)
    elif picture.category == "face":
        draw_face(drawing, picture, parts, random_frame(parts))
    elif picture.category == "house":
        draw_house(drawing, picture, parts, random_frame(parts))
    else:
        OBJECT_DRAWINGS[picture.name](drawing, picture, parts, random_frame(parts))
    return drawing.finish()


def draw_shape(drawing: Drawing, shape: Shape) -> None:
    """Draw a shape into a picture in progress."""
    fill = drawing.colour(shape.colour)
    x, y, r = shape.x, shape.y, shape.radius
    if shape.kind == "circle":
        drawing.ellipse(x - r, y - r, x + r, y + r, fill)
    elif shape.kind == "ring":
        drawing.arc((x - r, y - r, x + r, y + r), 0, 360, fill, 0.4 * r)
    elif shape.kind == "square":
        side = 0.86 * r
        drawing.box(x - side, y - side, x + side, y + side, fill)
    elif shape.kind == "triangle":
        drawing.polygon([(x, y - r), (x + r, y + 0.8 * r), (x - r, y + 0.8 * r)], fill)
    elif shape.kind == "cross":
        arm = 0.3 * r
        drawing.box(x - r, y - arm, x + r, y + arm, fill)
        drawing.box(x - arm, y - r, x + arm, y + r, fill)
    else:
        points = []
        for corner in range(10):
            length = 1.1 * r if corner % 2 == 0 else 0.45 * r
            angle = math.pi * (corner / 5 - 0.5)
            points.append((x + length * math.cos(angle), y + length * math.sin(angle)))
        drawing.polygon(points, fill)


@functools.cache
def _font(pixels: int) -> FreeTypeFont:
    from PIL import ImageFont

    # Pillow ships this font, so that a word looks the same on every machine.
    font = ImageFont.load_default(size=pixels)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


def word_letters(picture: Picture, size: int) -> list[tuple[str, float, float]]:
    """(letter, x, y) of each letter of a printed word; the coordinates of its centre are fractions of the picture."""
    pixels, left, top = _word_place(picture, np.random.default_rng(picture.variant), size * OVERSAMPLING)
    font, side = _font(pixels), size * OVERSAMPLING
    middle = (top + _text_height(font) / 2) / side
    edges = [left + font.getlength(picture.name[:count]) for count in range(len(picture.name) + 1)]
    return [
        (letter, (before + after) / 2 / side, middle)
        for letter, before, after in zip(picture.name, edges, edges[1:], strict=False)
    ]


def word_box(picture: Picture, size: int) -> tuple[int, int, int, int]:
    """Pixels that a printed word takes up, from its ascenders to its descenders: left, top, right, bottom."""
    pixels, left, top = _word_place(picture, np.random.default_rng(picture.variant), size * OVERSAMPLING)
    font = _font(pixels)
    ends = (left, top, left + font.getlength(picture.name), top + _text_height(font))
    first, last = (np.array(ends[:2]) / OVERSAMPLING, np.array(ends[2:]) / OVERSAMPLING)
    low, high = np.maximum(np.floor(first), 0).astype(int), np.minimum(np.ceil(last), size).astype(int)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def letter_font(pixels: int) -> FreeTypeFont:
    """The font of printed words, with letters of this size."""
    return _font(pixels)


def _text_height(font: FreeTypeFont) -> float:
    top, bottom = font.getbbox("lx")[1], font.getbbox("xp")[3]
    return float(top + bottom)


def _word_place(picture: Picture, rng: np.random.Generator, side: int) -> tuple[int, float, float]:
    """Font size in pixels, and left and top edge of the text, such that the whole word is inside the picture."""
    widest = _font(100).getlength(picture.name) / 100
    # The word's width at a font size of one pixel limits the size: neither too wide for the picture nor too tall.
    largest = min(0.34, 0.94 / widest)
    pixels = max(6, int(side * rng.uniform(max(0.6 * largest, 0.17), largest)))
    font = _font(pixels)
    left = rng.uniform(0.02, max(0.021, 0.98 - font.getlength(picture.name) / side)) * side
    top = rng.uniform(0.02, max(0.021, 0.98 - _text_height(font) / side)) * side
    return pixels, left, top


def _draw_word(drawing: Drawing, picture: Picture, rng: np.random.Generator) -> None:
    pixels, left, top = _word_place(picture, rng, drawing.side)
    drawing.draw.text((left, top), picture.name, font=_font(pixels), fill=drawing.colour(picture.colour))

"""Drawn pictures: coloured shapes, faces, houses, everyday objects and printed words.

Every picture is made of polygons in a unit square, so one drawing serves a 64-pixel and a 448-pixel model. What is
drawn is a plain description (:class:`Shape`, :class:`Picture`), so whoever needs the ground truth of a picture has it.
Each kind varies in colour, size, place and parts; the kinds share their backgrounds and their colours, so that no
kind can be told by its ground or its palette alone.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

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
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
OBJECTS = ("car", "cup", "chair", "lamp", "boat", "bottle", "umbrella", "hammer")
CATEGORIES = ("face", "house", "object", "word")

# Pictures are drawn larger and averaged down, which is what smooths their edges.
_OVERSAMPLING = 2
_COLOUR_JITTER = 14


@dataclass(frozen=True)
class Shape:
    """One coloured shape of a scene; ``x`` (to the right), ``y`` (down) and ``radius`` are fractions of the picture."""

    kind: str
    colour: str
    x: float
    y: float
    radius: float

    def __str__(self) -> str:
        return f"{self.colour} {self.kind}"


@dataclass(frozen=True)
class Picture:
    """A face, house, object or printed word, by what can be asked about it.

    Attributes
    ----------
    category
        One of ``CATEGORIES``.
    name
        What it is: ``"face"``, ``"house"``, the object's name, or the written word.
    colour
        Colour of the hair, the walls, the object or the letters.
    mood
        ``"happy"`` or ``"sad"`` for a face, else None.
    variant
        The seed of everything else: size, place, the second colour, parts.
    """

    category: str
    name: str
    colour: str
    mood: str | None = None
    variant: int = 0


class Canvas:
    """A square picture in progress. Coordinates are fractions of its side; a colour is (red, green, blue) of 0-255."""

    def __init__(self, size: int, rng: np.random.Generator) -> None:
        from PIL import Image, ImageDraw

        self.size = size
        self.side = size * _OVERSAMPLING
        self.rng = rng
        ground = rng.integers(105, 175) + rng.integers(-12, 13, size=3)
        self.image = Image.new("RGB", (self.side, self.side), tuple(int(value) for value in ground))
        self.draw = ImageDraw.Draw(self.image)

    def colour(self, name: str) -> tuple[int, ...]:
        """The named colour, a little different each time."""
        jitter = self.rng.integers(-_COLOUR_JITTER, _COLOUR_JITTER + 1, size=3)
        return tuple(int(value) for value in np.clip(np.array(COLOURS[name]) + jitter, 0, 255))

    def polygon(self, points: Sequence[tuple[float, float]], fill: tuple[int, ...]) -> None:
        self.draw.polygon([(x * self.side, y * self.side) for x, y in points], fill=fill)

    def box(self, x0: float, y0: float, x1: float, y1: float, fill: tuple[int, ...]) -> None:
        self.draw.rectangle([value * self.side for value in (x0, y0, x1, y1)], fill=fill)

    def ellipse(self, x0: float, y0: float, x1: float, y1: float, fill: tuple[int, ...]) -> None:
        self.draw.ellipse([value * self.side for value in (x0, y0, x1, y1)], fill=fill)

    def arc(
        self, box: tuple[float, float, float, float], start: float, end: float, fill: tuple[int, ...], width: float
    ) -> None:
        self.draw.arc([value * self.side for value in box], start, end, fill, max(1, round(width * self.side)))

    def line(self, points: Sequence[tuple[float, float]], fill: tuple[int, ...], width: float) -> None:
        thick = max(1, round(width * self.side))
        self.draw.line([(x * self.side, y * self.side) for x, y in points], fill=fill, width=thick, joint="curve")

    def finish(self) -> Image.Image:
        """The picture at its final size, with a little grain."""
        from PIL import Image

        pixels = np.asarray(self.image.reduce(_OVERSAMPLING), dtype=np.int16)
        grain = self.rng.integers(-6, 7, size=(self.size, self.size, 1), dtype=np.int16)
        return Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8))


def draw_scene(shapes: Sequence[Shape], size: int, seed: Any = 0) -> Image.Image:
    """Draw coloured shapes on a plain ground; returns an RGB image of ``size`` x ``size`` pixels."""
    canvas = Canvas(size, np.random.default_rng(seed))
    for shape in shapes:
        _draw_shape(canvas, shape)
    return canvas.finish()


def draw_picture(picture: Picture, size: int, seed: Any = 0) -> Image.Image:
    """Draw a face, a house, an object or a word; returns an RGB image of ``size`` x ``size`` pixels.

    ``picture.variant`` settles its parts and its place; ``seed`` only the ground and the grain.
    """
    canvas = Canvas(size, np.random.default_rng(seed))
    parts = np.random.default_rng(picture.variant)
    if picture.category == "word":
        _draw_word(canvas, picture, parts)
    elif picture.category == "face":
        _draw_face(canvas, picture, parts, _frame(parts))
    elif picture.category == "house":
        _draw_house(canvas, picture, parts, _frame(parts))
    else:
        _OBJECT_DRAWINGS[picture.name](canvas, picture, parts, _frame(parts))
    return canvas.finish()


def _draw_shape(canvas: Canvas, shape: Shape) -> None:
    fill = canvas.colour(shape.colour)
    x, y, r = shape.x, shape.y, shape.radius
    if shape.kind == "circle":
        canvas.ellipse(x - r, y - r, x + r, y + r, fill)
    elif shape.kind == "ring":
        canvas.arc((x - r, y - r, x + r, y + r), 0, 360, fill, 0.4 * r)
    elif shape.kind == "square":
        side = 0.86 * r
        canvas.box(x - side, y - side, x + side, y + side, fill)
    elif shape.kind == "triangle":
        canvas.polygon([(x, y - r), (x + r, y + 0.8 * r), (x - r, y + 0.8 * r)], fill)
    elif shape.kind == "cross":
        arm = 0.3 * r
        canvas.box(x - r, y - arm, x + r, y + arm, fill)
        canvas.box(x - arm, y - r, x + arm, y + r, fill)
    else:
        points = []
        for corner in range(10):
            length = 1.1 * r if corner % 2 == 0 else 0.45 * r
            angle = math.pi * (corner / 5 - 0.5)
            points.append((x + length * math.cos(angle), y + length * math.sin(angle)))
        canvas.polygon(points, fill)


class _Frame:
    """A box inside the picture, in whose own coordinates (0-1) a thing is drawn."""

    def __init__(self, x: float, y: float, width: float, height: float, flip: bool) -> None:
        self.x, self.y, self.width, self.height, self.flip = x, y, width, height, flip

    def __call__(self, *points: tuple[float, float]) -> list[tuple[float, float]]:
        return [(self.x + (1 - u if self.flip else u) * self.width, self.y + v * self.height) for u, v in points]

    def box(self, u0: float, v0: float, u1: float, v1: float) -> tuple[float, float, float, float]:
        (x0, y0), (x1, y1) = self((u0, v0), (u1, v1))
        return min(x0, x1), y0, max(x0, x1), y1


def _frame(rng: np.random.Generator) -> _Frame:
    width, height = rng.uniform(0.62, 0.88, size=2)
    return _Frame(rng.uniform(0, 1 - width), rng.uniform(0, 1 - height), width, height, bool(rng.integers(2)))


def _other(rng: np.random.Generator, colour: str) -> str:
    names = [name for name in COLOURS if name != colour]
    return names[rng.integers(len(names))]


_SKINS = ((255, 224, 196), (240, 200, 160), (224, 172, 125), (190, 135, 90), (140, 95, 60), (95, 62, 42))


def _draw_face(canvas: Canvas, picture: Picture, rng: np.random.Generator, frame: _Frame) -> None:
    hair = canvas.colour(picture.colour)
    skin = _SKINS[rng.integers(len(_SKINS))]
    dark = (30, 24, 22)
    long = rng.random() < 0.5
    canvas.ellipse(*frame.box(0.06, 0.0, 0.94, 0.8), hair)
    if long:
        canvas.box(*frame.box(0.06, 0.4, 0.94, rng.uniform(0.75, 1.0)), hair)
    canvas.ellipse(*frame.box(0.14, 0.12, 0.86, 1.0), skin)
    if rng.random() < 0.5:
        canvas.polygon(frame((0.16, 0.42), (0.2, 0.16), (0.5, 0.08), (0.8, 0.16), (0.84, 0.42), (0.5, 0.26)), hair)
    gap, high, eye = rng.uniform(0.15, 0.2), rng.uniform(0.44, 0.5), rng.uniform(0.06, 0.085)
    for side in (-1, 1):
        centre = 0.5 + side * gap
        canvas.ellipse(*frame.box(centre - 1.3 * eye, high - eye, centre + 1.3 * eye, high + eye), (250, 250, 250))
        canvas.ellipse(*frame.box(centre - 0.7 * eye, high - 0.8 * eye, centre + 0.7 * eye, high + 0.8 * eye), dark)
        slant = 0.03 if picture.mood == "sad" else -0.01
        brow = frame((centre - side * 0.08, high - 0.11 - slant), (centre + side * 0.09, high - 0.11 + slant))
        canvas.line(brow, dark, 0.02)
    nose = rng.uniform(0.6, 0.66)
    canvas.line(frame((0.5, high + 0.03), (0.46, nose), (0.52, nose)), tuple(int(0.7 * value) for value in skin), 0.02)
    wide = rng.uniform(0.13, 0.18)
    lips = (170, 40, 50)
    if picture.mood == "sad":
        canvas.arc(frame.box(0.5 - wide, 0.78, 0.5 + wide, 0.98), 190, 350, lips, 0.035)
    else:
        canvas.arc(frame.box(0.5 - wide, 0.62, 0.5 + wide, 0.86), 10, 170, lips, 0.035)


def _draw_house(canvas: Canvas, picture: Picture, rng: np.random.Generator, frame: _Frame) -> None:
    wall = canvas.colour(picture.colour)
    second = canvas.colour(_other(rng, picture.colour))
    third = canvas.colour(_other(rng, picture.colour))
    eaves = rng.uniform(0.32, 0.48)
    if rng.random() < 0.6:
        left = rng.uniform(0.15, 0.7)
        canvas.box(*frame.box(left, 0.02, left + 0.12, eaves), third)
    canvas.box(*frame.box(0.08, eaves, 0.92, 1.0), wall)
    if rng.random() < 0.6:
        canvas.polygon(frame((0.0, eaves), (0.5, 0.0), (1.0, eaves)), second)
    else:
        canvas.polygon(frame((0.0, eaves), (0.2, 0.08), (0.8, 0.08), (1.0, eaves)), second)
    door = rng.choice([0.16, 0.42, 0.66])
    canvas.box(*frame.box(door, 0.72, door + 0.17, 1.0), third)
    glass = (200, 228, 245) if rng.random() < 0.6 else (70, 80, 95)
    for column in (0.16, 0.42, 0.68):
        canvas.box(*frame.box(column, eaves + 0.06, column + 0.15, eaves + 0.2), glass)
        if abs(column - door) > 0.1 and rng.random() < 0.7:
            canvas.box(*frame.box(column, 0.74, column + 0.15, 0.88), glass)


def _draw_car(canvas: Canvas, picture: Picture, rng: np.random.Generator, frame: _Frame) -> None:
    body = canvas.colour(picture.colour)
    canvas.polygon(frame((0.2, 0.5), (0.3, 0.25), (0.68, 0.25), (0.82, 0.5)), body)
    canvas.box(*frame.box(0.0, 0.48, 1.0, 0.74), body)
    glass = (205, 228, 240) if rng.random() < 0.6 else (60, 70, 85)
    canvas.polygon(frame((0.28, 0.48), (0.34, 0.3), (0.48, 0.3), (0.48, 0.48)), glass)
    canvas.polygon(frame((0.53, 0.48), (0.53, 0.3), (0.65, 0.3), (0.74, 0.48)), glass)
    for centre in (0.23, 0.77):
        canvas.ellipse(*frame.box(centre - 0.12, 0.62, centre + 0.12, 0.86), (25, 25, 28))
        canvas.ellipse(*frame.box(centre - 0.05, 0.69, centre + 0.05, 0.79), (190, 190, 190))


def _draw_cup(canvas: Canvas, picture: Picture, rng: np.random.Generator, frame: _Frame) -> None:
    body = canvas.colour(picture.colour)
    canvas.arc(frame.box(0.55, 0.3, 1.0, 0.75), 0, 360, body, 0.06)
    canvas.polygon(frame((0.05, 0.12), (0.78, 0.12), (0.7, 0.95), (0.13, 0.95)), body)
    canvas.ellipse(*frame.box(0.05, 0.04, 0.78, 0.2), canvas.colour(_other(rng, picture.colour)))


def _draw_chair(canvas: Canvas, picture: Picture, rng: np.random.Generator, frame: _Frame) -> None:
    body = canvas.colour(picture.colour)
    thick = rng.uniform(0.08, 0.12)
    canvas.box(*frame.box(0.1, 0.0, 0.1 + thick, 1.0), body)
    canvas.box(*frame.box(0.1, 0.5, 0.9, 0.5 + 1.2 * thick), body)
    canvas.box(*frame.box(0.9 - thick, 0.5, 0.9, 1.0), body)
    if rng.random() < 0.5:
        canvas.box(*frame.box(0.1, 0.75, 0.9, 0.75 + 0.5 * thick), body)


def _draw_lamp(canvas: Canvas, picture: Picture, rng: np.random.Generator, frame: _Frame) -> None:
    shade = canvas.colour(picture.colour)
    stand = canvas.colour(_other(rng, picture.colour))
    canvas.box(*frame.box(0.46, 0.4, 0.54, 0.92), stand)
    canvas.ellipse(*frame.box(0.24, 0.86, 0.76, 1.0), stand)
    top = rng.uniform(0.12, 0.2)
    canvas.polygon(frame((0.5 - top, 0.0), (0.5 + top, 0.0), (0.92, 0.46), (0.08, 0.46)), shade)


def _draw_boat(canvas: Canvas, picture: Picture, rng: np.random.Generator, frame: _Frame) -> None:
    hull = canvas.colour(picture.colour)
    sail = canvas.colour(_other(rng, picture.colour))
    canvas.box(*frame.box(0.47, 0.0, 0.52, 0.72), (70, 50, 35))
    canvas.polygon(frame((0.52, 0.04), (0.52, 0.62), (rng.uniform(0.84, 0.98), 0.62)), sail)
    canvas.polygon(frame((0.0, 0.7), (1.0, 0.7), (0.82, 1.0), (0.18, 1.0)), hull)


def _draw_bottle(canvas: Canvas, picture: Picture, rng: np.random.Generator, frame: _Frame) -> None:
    body = canvas.colour(picture.colour)
    other = canvas.colour(_other(rng, picture.colour))
    shoulder = rng.uniform(0.3, 0.42)
    canvas.box(*frame.box(0.42, 0.05, 0.58, shoulder), body)
    canvas.polygon(
        frame((0.42, shoulder - 0.06), (0.58, shoulder - 0.06), (0.72, shoulder + 0.1), (0.28, shoulder + 0.1)), body
    )
    canvas.box(*frame.box(0.28, shoulder + 0.08, 0.72, 1.0), body)
    canvas.box(*frame.box(0.4, 0.0, 0.6, 0.07), other)
    canvas.box(*frame.box(0.28, 0.6, 0.72, 0.82), other)


def _draw_umbrella(canvas: Canvas, picture: Picture, rng: np.random.Generator, frame: _Frame) -> None:
    cloth = canvas.colour(picture.colour)
    stick = (60, 45, 35)
    canvas.box(*frame.box(0.48, 0.0, 0.52, 0.88), stick)
    canvas.arc(frame.box(0.5, 0.78, 0.7, 1.0), 0, 180, stick, 0.035)
    x0, y0, x1, y1 = frame.box(0.0, 0.06, 1.0, 1.02)
    canvas.draw.pieslice([value * canvas.side for value in (x0, y0, x1, y1)], 180, 360, fill=cloth)
    ribs = 2 + int(rng.integers(2))
    for rib in range(ribs):
        at = (rib + 1) / (ribs + 1)
        canvas.line(frame((0.5, 0.06), (at, 0.54)), tuple(int(0.6 * value) for value in cloth), 0.015)


def _draw_hammer(canvas: Canvas, picture: Picture, rng: np.random.Generator, frame: _Frame) -> None:
    head = canvas.colour(picture.colour)
    handle = (150, 100, 55) if rng.random() < 0.6 else (80, 55, 35)
    canvas.polygon(frame((0.44, 0.2), (0.56, 0.2), (0.6, 1.0), (0.4, 1.0)), handle)
    canvas.box(*frame.box(0.25, 0.02, 0.85, 0.26), head)
    canvas.polygon(frame((0.26, 0.04), (0.26, 0.24), (0.0, rng.uniform(0.2, 0.34)), (0.1, 0.08)), head)


_OBJECT_DRAWINGS = {
    "car": _draw_car,
    "cup": _draw_cup,
    "chair": _draw_chair,
    "lamp": _draw_lamp,
    "boat": _draw_boat,
    "bottle": _draw_bottle,
    "umbrella": _draw_umbrella,
    "hammer": _draw_hammer,
}


@functools.cache
def _font(pixels: int) -> Any:
    from PIL import ImageFont

    # Pillow brings this one font inside its own package, so that a word looks the same on every machine.
    return ImageFont.load_default(size=pixels)


def word_letters(picture: Picture, size: int) -> list[tuple[str, float, float]]:
    """Where the letters of a printed word stand: (letter, x, y) of each one's centre, as fractions of the picture."""
    pixels, left, top = _word_place(picture, np.random.default_rng(picture.variant), size * _OVERSAMPLING)
    font, side = _font(pixels), size * _OVERSAMPLING
    middle = (top + _text_height(font) / 2) / side
    edges = [left + font.getlength(picture.name[:count]) for count in range(len(picture.name) + 1)]
    return [
        (letter, (before + after) / 2 / side, middle)
        for letter, before, after in zip(picture.name, edges, edges[1:], strict=False)
    ]


def _text_height(font: Any) -> float:
    top, bottom = font.getbbox("lx")[1], font.getbbox("xp")[3]
    return float(top + bottom)


def _word_place(picture: Picture, rng: np.random.Generator, side: int) -> tuple[int, float, float]:
    """Font size in pixels, and the left and top edge of the text, so that the whole word is inside the picture."""
    widest = _font(100).getlength(picture.name) / 100
    # The size follows from the word's length at one unit of font size: neither too wide for the picture nor too tall.
    largest = min(0.34, 0.94 / widest)
    pixels = max(6, int(side * rng.uniform(max(0.6 * largest, 0.17), largest)))
    font = _font(pixels)
    left = rng.uniform(0.02, max(0.021, 0.98 - font.getlength(picture.name) / side)) * side
    top = rng.uniform(0.02, max(0.021, 0.98 - _text_height(font) / side)) * side
    return pixels, left, top


def _draw_word(canvas: Canvas, picture: Picture, rng: np.random.Generator) -> None:
    pixels, left, top = _word_place(picture, rng, canvas.side)
    canvas.draw.text((left, top), picture.name, font=_font(pixels), fill=canvas.colour(picture.colour))

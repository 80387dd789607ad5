"""A sentence and two scenes in one picture, of which the sentence describes one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from modalnet.stimuli.drawing import Drawing
from modalnet.stimuli.rendering import SHAPES, Shape, draw_shape, letter_font
from modalnet.stimuli.scenes import RELATIONS, describe_relation, relation, scene

if TYPE_CHECKING:
    from PIL.Image import Image

LETTERS = ("A", "B")
# Centres and half the side of the two panels, and the height of their letters, as fractions of the picture.
CENTRES, MIDDLE, HALF = (0.26, 0.74), 0.6, 0.22
LETTER_SIZE, LETTER_AT = 0.18, 0.22
FRAME = 0.008
_SERIES = 6


class ScenePair(NamedTuple):
    """A sentence, the scene that it describes, and one that it does not.

    Attributes
    ----------
    kind
        How the other scene differs: ``"order"`` (the two shapes have changed places), ``"colour"`` (they have exchanged
        colours) or ``"shape"`` (one of them is of another kind).
    sentence
        Such as ``"the red circle is left of the blue square."``
    target, other
        The scenes.
    """

    kind: str
    sentence: str
    target: list[Shape]
    other: list[Shape]


def scene_pair(number: int, seed: int) -> ScenePair:
    """Pair ``number``, from 0: the kinds of difference alternate, and within a kind the relations."""
    kinds = list(_OTHER)
    turn, kind = divmod(number, len(kinds))
    rng = np.random.default_rng([_SERIES, seed, number])
    shown = [str(shape) for shape in rng.permutation(SHAPES)[:2]]
    colour = int(rng.integers(100))
    while relation(*(target := scene(rng, shown, colour))) != RELATIONS[turn % len(RELATIONS)]:
        pass
    other = _OTHER[kinds[kind]](target, rng)
    return ScenePair(kinds[kind], describe_relation(*target), target, other)


def draw_scene_pair(first: list[Shape], second: list[Shape], size: int, seed: int | list[int] = 0) -> Image:
    """Draw two scenes beside each other, in frames with the letters A and B above them.

    Parameters
    ----------
    first, second
        The scenes in frame A and in frame B.
    size
        Pixels per side of the picture; each frame takes 0.44 of it.
    seed
        Seed of the ground, the colour jitter and the grain.
    """
    drawing = Drawing(size, np.random.default_rng(seed))
    black = drawing.colour("black")
    font = letter_font(max(6, round(LETTER_SIZE * drawing.side)))
    for shapes, centre, letter in zip((first, second), CENTRES, LETTERS, strict=True):
        left, right, top, bottom = centre - HALF, centre + HALF, MIDDLE - HALF, MIDDLE + HALF
        corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
        drawing.line(corners, black, FRAME)
        place = (centre * drawing.side, LETTER_AT * drawing.side)
        drawing.draw.text(place, letter, font=font, fill=black, anchor="mm")
        for shape in shapes:
            x, y = left + 2 * HALF * shape.x, top + 2 * HALF * shape.y
            draw_shape(drawing, replace(shape, x=x, y=y, radius=2 * HALF * shape.radius))
    return drawing.finish()


def _places_exchanged(shapes: list[Shape], rng: np.random.Generator) -> list[Shape]:
    first, second = shapes
    return [
        replace(first, x=second.x, y=second.y, radius=second.radius),
        replace(second, x=first.x, y=first.y, radius=first.radius),
    ]


def _colours_exchanged(shapes: list[Shape], rng: np.random.Generator) -> list[Shape]:
    first, second = shapes
    return [replace(first, colour=second.colour), replace(second, colour=first.colour)]


def _another_kind(shapes: list[Shape], rng: np.random.Generator) -> list[Shape]:
    changed = int(rng.integers(2))
    others = [kind for kind in SHAPES if kind not in {shape.kind for shape in shapes}]
    new = list(shapes)
    new[changed] = replace(shapes[changed], kind=others[rng.integers(len(others))])
    return new


_OTHER: dict[str, Callable[[list[Shape], np.random.Generator], list[Shape]]] = {
    "order": _places_exchanged,
    "colour": _colours_exchanged,
    "shape": _another_kind,
}

"""Scenes of several coloured shapes that do not touch, and their descriptions in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from modalnet._validation import check_int
from modalnet.errors import InputError
from modalnet.stimuli.rendering import COLOURS, Shape

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

MOST_SHAPES = 5
RELATIONS = ("left", "right", "above", "below")
RADII = (0.09, 0.16)
# Extent of a shape along either axis in radii; the points of a star reach furthest.
REACH = 1.1
GAP = 0.02
# A relation is clear where the distance along one axis is this many times that along the other.
CLEARLY = 1.7
_TRIES = 50


class Placement(NamedTuple):
    """Centre and radius of a shape, as fractions of the picture."""

    x: float
    y: float
    radius: float


def place_shapes(rng: np.random.Generator, count: int) -> list[Placement]:
    """Draw random positions and sizes of shapes that touch neither each other nor the edge.

    Parameters
    ----------
    rng
        Source of randomness.
    count
        Number of shapes, 1 to 5.

    Returns
    -------
    list of Placement
        Radii are drawn uniformly from 0.09 to 0.16 and rejected where the shape does not fit, so five shapes are on
        average a little smaller than one. The bounding boxes of two shapes are at least 0.02 of the picture apart along
        one axis, and as far from the edge.

    Raises
    ------
    InputError
        ``count`` is out of range.
    """
    check_int("count", count, minimum=1, maximum=MOST_SHAPES)
    while True:
        places: list[Placement] = []
        for _ in range(_TRIES):
            radius = rng.uniform(*RADII)
            edge = REACH * radius + GAP
            x, y = rng.uniform(edge, 1 - edge, size=2)
            new = Placement(float(x), float(y), float(radius))
            if all(_apart(new, other) for other in places):
                places.append(new)
            if len(places) == count:
                return places


def _apart(first: Placement, second: Placement) -> bool:
    distance = max(abs(first.x - second.x), abs(first.y - second.y))
    return distance >= REACH * (first.radius + second.radius) + GAP


def scene(rng: np.random.Generator, kinds: Sequence[str], colour: int) -> list[Shape]:
    """Draw shapes of given kinds in different colours, which do not touch.

    Parameters
    ----------
    rng
        Source of randomness.
    kinds
        Kinds of the 1 to 5 shapes.
    colour
        Index of the first shape's colour, modulo the number of ``COLOURS``. The other colours follow at one random odd
        step, so that over scenes with all first colours each colour occurs equally often.
    """
    names, step = list(COLOURS), int(rng.choice([1, 3, 5, 7]))
    places = place_shapes(rng, len(kinds))
    return [
        Shape(kind, names[(colour + step * index) % len(names)], *place)
        for index, (kind, place) in enumerate(zip(kinds, places, strict=True))
    ]


def describe(shapes: Sequence[Shape]) -> str:
    """Describe a scene from left to right: ``"there is a red circle and a blue square."``"""
    named = [with_article(str(shape)) for shape in sorted(shapes, key=lambda shape: shape.x)]
    return f"there is {', '.join(named[:-1])}{' and ' if len(named) > 1 else ''}{named[-1]}."


def relation(first: Shape, second: Shape) -> str | None:
    """Position of the first shape relative to the second: left, right, above or below; None where it is ambiguous."""
    right, down = first.x - second.x, first.y - second.y
    if abs(right) > CLEARLY * abs(down):
        return "right" if right > 0 else "left"
    if abs(down) > CLEARLY * abs(right):
        return "below" if down > 0 else "above"
    return None


def describe_relation(first: Shape, second: Shape) -> str:
    """Describe the relation of two shapes: ``"the red circle is left of the blue square."``

    Raises
    ------
    InputError
        The relation is ambiguous: the shapes stand diagonally to each other.
    """
    position = relation(first, second)
    if position is None:
        raise InputError(f"The {first} is neither clearly beside nor clearly above or below the {second}.")
    return f"the {first} is {position}{' of' if position in ('left', 'right') else ''} the {second}."


def with_article(name: str) -> str:
    """Put the indefinite article before a name: ``"a red circle"``, ``"an orange square"``."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def plural(kind: str) -> str:
    """Plural of a kind of shape: ``"circles"``, ``"crosses"``."""
    return kind + ("es" if kind.endswith("s") else "s")

"""Scenes: several coloured shapes in one picture, none touching another, and the same scene in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from modalnet.errors import InputError
from modalnet.stimuli.rendering import COLOURS, Shape

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

MOST_SHAPES = 5
RELATIONS = ("left", "right", "above", "below")
RADII = (0.09, 0.16)
# No drawn shape reaches further than 1.1 radii from its centre along either axis (the point of a star does).
REACH = 1.1
GAP = 0.02
# Beside and not above: the one distance must be this many times the other.
CLEARLY = 1.7
_TRIES = 50


class Place(NamedTuple):
    """Centre and radius of a shape, as fractions of the picture."""

    x: float
    y: float
    radius: float


def place_shapes(rng: np.random.Generator, count: int) -> list[Place]:
    """Random places for shapes that do not touch each other or the edge.

    Parameters
    ----------
    rng
        The source of chance.
    count
        1 to 5 shapes.

    Returns
    -------
    list of Place
        Radii are uniform in 0.09..0.16 before crowding; five shapes together are a little smaller than one alone,
        because small ones fit more often. The boxes that two shapes fill are at least 0.02 of the picture apart along
        one axis, and as far from the edge.

    Raises
    ------
    InputError
        ``count`` is out of range.
    """
    if count not in range(1, MOST_SHAPES + 1):
        raise InputError(f"A scene has 1 to {MOST_SHAPES} shapes; this is {count!r}.")
    while True:
        places: list[Place] = []
        for _ in range(_TRIES):
            radius = rng.uniform(*RADII)
            edge = REACH * radius + GAP
            x, y = rng.uniform(edge, 1 - edge, size=2)
            new = Place(float(x), float(y), float(radius))
            if all(_apart(new, other) for other in places):
                places.append(new)
            if len(places) == count:
                return places


def _apart(one: Place, other: Place) -> bool:
    return max(abs(one.x - other.x), abs(one.y - other.y)) >= REACH * (one.radius + other.radius) + GAP


def scene(rng: np.random.Generator, kinds: Sequence[str], colour: int) -> list[Shape]:
    """Shapes of the given kinds in different colours, which do not touch.

    Parameters
    ----------
    rng
        The source of chance.
    kinds
        1 to 5 kinds of shape.
    colour
        The first shape's, as an index that goes round ``COLOURS``. The others follow at one random odd step, so over
        scenes of all first colours each colour is shown equally often.
    """
    names, step = list(COLOURS), int(rng.choice([1, 3, 5, 7]))
    places = place_shapes(rng, len(kinds))
    return [
        Shape(kind, names[(colour + step * index) % len(names)], *place)
        for index, (kind, place) in enumerate(zip(kinds, places, strict=True))
    ]


def describe(shapes: Sequence[Shape]) -> str:
    """What is there, from left to right: ``"there is a red circle and a blue square."``"""
    named = [with_article(str(shape)) for shape in sorted(shapes, key=lambda shape: shape.x)]
    return f"there is {', '.join(named[:-1])}{' and ' if len(named) > 1 else ''}{named[-1]}."


def relation(first: Shape, second: Shape) -> str | None:
    """Where the first is from the second: left, right, above, below; None where it is beside as much as above."""
    right, down = first.x - second.x, first.y - second.y
    if abs(right) > CLEARLY * abs(down):
        return "right" if right > 0 else "left"
    if abs(down) > CLEARLY * abs(right):
        return "below" if down > 0 else "above"
    return None


def describe_relation(first: Shape, second: Shape) -> str:
    """The relation as a sentence: ``"the red circle is left of the blue square."``

    Raises
    ------
    InputError
        The two stand aslant, so that no one word says it.
    """
    where = relation(first, second)
    if where is None:
        raise InputError(f"The {first} is neither clearly beside nor clearly above or below the {second}.")
    return f"the {first} is {where}{' of' if where in ('left', 'right') else ''} the {second}."


def with_article(name: str) -> str:
    """``"a red circle"``, ``"an orange square"``."""
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def plural(kind: str) -> str:
    """``"circles"``, ``"crosses"``."""
    return kind + ("es" if kind.endswith("s") else "s")

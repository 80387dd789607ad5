"""The same question about a scene twice: once with the picture, once with its description."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from modalnet.stimuli.contrast import Contrast
from modalnet.stimuli.exemplars import check_count, check_size
from modalnet.stimuli.rendering import SHAPES, Shape, draw_scene
from modalnet.stimuli.scenes import (
    MOST_SHAPES,
    RELATIONS,
    describe,
    describe_relation,
    plural,
    relation,
    scene,
    with_article,
)
from modalnet.stimuli.stimulus import Stimulus

NUMBERS = ("one", "two", "three", "four")
_SERIES = 3


class Item(NamedTuple):
    """A scene, the scene in words, and a question that either answers."""

    shapes: list[Shape]
    description: str
    question: str
    answer: str


def vision_vs_text(n: int = 120, *, size: int = 224) -> Contrast:
    """The same question with the picture > with its description: where the answer comes from.

    Scenes of one to five coloured shapes, and five kinds of question in turn: the colour of a shape, how many there are
    of it, where one is from another, which shape has a colour, and whether there is one. The description names what
    is in the picture, and says where things are when the question is about that, so both conditions hold the
    answer: ``"there is a red circle and a blue square. what colour is the circle?"``.

    Question and answer are equal pair by pair, and so is the end of the text; the conditions differ in where the scene
    stands, and hence in the number of tokens. The set is this package's own; asking one question of words and of
    pictures follows Vandenberghe et al. (1996).

    Parameters
    ----------
    n
        Questions per condition; a multiple of 5 gives equally many of each kind. Question *i* does not depend on it.
    size
        Pixels per side of the square pictures, 32 to 2048: give what the model reads.

    Returns
    -------
    Contrast
        Condition ``image`` (ids ``"image-001"``, …; picture and question) against ``text`` (``"text-001"``, …;
        description and question). The model needs to read both pictures and text.

    Raises
    ------
    InputError
        ``n`` or ``size`` is out of range.

    References
    ----------
    Vandenberghe, Price, Wise, Josephs & Frackowiak (1996). Functional anatomy of a common semantic system for words
    and pictures. Nature 383, 254-256.
    """
    check_count(n)
    check_size(size)
    pictured, written = [], []
    for number in range(n):
        asked = item(number)
        image = draw_scene(asked.shapes, size, (_SERIES, number))
        text = f"{asked.description} {asked.question}"
        pictured.append(Stimulus(asked.question, image=image, condition="image", id=f"image-{number + 1:03d}"))
        written.append(Stimulus(text, condition="text", id=f"text-{number + 1:03d}"))
    return Contrast([*pictured, *written], "image", "text")


def item(number: int) -> Item:
    """Question ``number``, from 0. Kinds of question follow each other, and within a kind its answers do."""
    turn, kind = divmod(number, len(_ASKING))
    return _ASKING[kind](np.random.default_rng((_SERIES, number)), turn)


def _colour(rng: np.random.Generator, turn: int) -> Item:
    """Of a shape that is the only one of its kind."""
    shapes = scene(rng, _kinds(rng, 2 + turn % 3), turn)
    return Item(shapes, describe(shapes), f"what colour is the {shapes[0].kind}?", shapes[0].colour)


def _count(rng: np.random.Generator, turn: int) -> Item:
    """Of one kind, beside one shape at least of another."""
    number = 1 + turn % len(NUMBERS)
    kind, other, another = _kinds(rng, 3)
    others = [other, another][: MOST_SHAPES - number]
    shapes = scene(rng, [kind] * number + others, turn)
    return Item(shapes, describe(shapes), f"how many {plural(kind)} are there?", NUMBERS[number - 1])


def _relation(rng: np.random.Generator, turn: int) -> Item:
    """Of two shapes, one clearly beside the other or clearly above it."""
    answer = RELATIONS[turn % len(RELATIONS)]
    kinds = _kinds(rng, 2)
    while relation(*(shapes := scene(rng, kinds, turn))) != answer:
        pass
    description = f"{describe(shapes)} {describe_relation(*shapes)}"
    return Item(shapes, description, f"where is the {shapes[0]} from the {shapes[1]}?", answer)


def _shape(rng: np.random.Generator, turn: int) -> Item:
    """Of the only shape of a colour."""
    asked = SHAPES[turn % len(SHAPES)]
    shapes = scene(rng, [asked, *(str(kind) for kind in rng.choice(SHAPES, size=1 + turn % 3))], turn)
    return Item(shapes, describe(shapes), f"what shape is {shapes[0].colour}?", asked)


def _presence(rng: np.random.Generator, turn: int) -> Item:
    """As often of a shape that is there as of one that is not."""
    first, *rest = _kinds(rng, 3 + turn % 3)
    there = turn % 2 == 0
    shapes = scene(rng, [first, *rest[1:]] if there else rest, turn)
    return Item(shapes, describe(shapes), f"is there {with_article(first)}?", "yes" if there else "no")


_ASKING = (_colour, _count, _relation, _shape, _presence)


def _kinds(rng: np.random.Generator, count: int) -> list[str]:
    """Different kinds of shape."""
    return [str(kind) for kind in rng.permutation(SHAPES)[:count]]

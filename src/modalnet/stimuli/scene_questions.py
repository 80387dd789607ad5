"""Questions about scenes, asked once with the picture and once with its description."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from modalnet._validation import check_bool
from modalnet.stimuli.contrast import Contrast
from modalnet.stimuli.picture_sets import check_count, check_size
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


class SceneQuestion(NamedTuple):
    """A scene, its description, and a question that either of them answers."""

    shapes: list[Shape]
    description: str
    question: str
    answer: str


def vision_vs_text(n: int = 120, *, size: int = 224, items: bool = False) -> Contrast:
    """Questions with the picture > the same questions with its description: the source of the answer.

    Scenes of one to five coloured shapes, and five kinds of question in turn: the colour of a shape, the number of
    shapes of a kind, the position of one shape relative to another, the shape with a given colour, and whether a shape
    is present. The description lists what is in the picture, and states positions when the question is about them, so
    that both conditions contain the answer: ``"there is a red circle and a blue square. what colour is the circle?"``.

    The conditions are matched pair by pair in question and answer, and therefore in the end of the text; they differ in
    where the scene is given, and hence in the number of tokens. The set is this package's own; asking the same question
    of words and pictures follows Vandenberghe et al. (1996).

    Parameters
    ----------
    n
        Questions per condition; a multiple of 5 gives equally many of each kind. Question *i* does not depend on ``n``.
    size
        Pixels per side of the square pictures, 32 to 2048; choose the input size of the model.
    items
        True makes both versions of a question one item, so that :func:`modalnet.localize` tests them as pairs; by
        default the test is Welch's.

    Returns
    -------
    Contrast
        Condition ``image`` (ids ``"image-001"``, …; picture and question) against ``text`` (``"text-001"``, …;
        description and question). The model must read both images and text.

    Raises
    ------
    InputError
        ``n`` or ``size`` is out of range, or ``items`` is not a bool.

    References
    ----------
    Vandenberghe, Price, Wise, Josephs & Frackowiak (1996). Functional anatomy of a common semantic system for words
    and pictures. Nature 383, 254-256.
    """
    check_count(n)
    check_size(size)
    check_bool("items", items)
    with_picture, with_text = [], []
    for number in range(n):
        question, name = scene_question(number), f"{number + 1:03d}"
        item = name if items else None
        image = draw_scene(question.shapes, size, (_SERIES, number))
        text = f"{question.description} {question.question}"
        with_picture.append(Stimulus(question.question, image=image, condition="image", id=f"image-{name}", item=item))
        with_text.append(Stimulus(text, condition="text", id=f"text-{name}", item=item))
    return Contrast([*with_picture, *with_text], "image", "text")


def scene_question(number: int) -> SceneQuestion:
    """Question ``number``, from 0. The kinds of question alternate, and so do the answers within a kind."""
    turn, kind = divmod(number, len(_KINDS_OF_QUESTION))
    return _KINDS_OF_QUESTION[kind](np.random.default_rng((_SERIES, number)), turn)


def _colour(rng: np.random.Generator, turn: int) -> SceneQuestion:
    """The colour of a shape that is the only one of its kind."""
    shapes = scene(rng, _kinds(rng, 2 + turn % 3), turn)
    return SceneQuestion(shapes, describe(shapes), f"what colour is the {shapes[0].kind}?", shapes[0].colour)


def _count(rng: np.random.Generator, turn: int) -> SceneQuestion:
    """The number of shapes of one kind, beside at least one shape of another."""
    number = 1 + turn % len(NUMBERS)
    kind, other, another = _kinds(rng, 3)
    others = [other, another][: MOST_SHAPES - number]
    shapes = scene(rng, [kind] * number + others, turn)
    return SceneQuestion(shapes, describe(shapes), f"how many {plural(kind)} are there?", NUMBERS[number - 1])


def _relation(rng: np.random.Generator, turn: int) -> SceneQuestion:
    """The relative position of two shapes, clearly beside or clearly above one another."""
    answer = RELATIONS[turn % len(RELATIONS)]
    kinds = _kinds(rng, 2)
    while relation(*(shapes := scene(rng, kinds, turn))) != answer:
        pass
    description = f"{describe(shapes)} {describe_relation(*shapes)}"
    return SceneQuestion(shapes, description, f"where is the {shapes[0]} from the {shapes[1]}?", answer)


def _shape(rng: np.random.Generator, turn: int) -> SceneQuestion:
    """The kind of the only shape of a colour."""
    answer = SHAPES[turn % len(SHAPES)]
    shapes = scene(rng, [answer, *(str(kind) for kind in rng.choice(SHAPES, size=1 + turn % 3))], turn)
    return SceneQuestion(shapes, describe(shapes), f"what shape is {shapes[0].colour}?", answer)


def _presence(rng: np.random.Generator, turn: int) -> SceneQuestion:
    """Whether a shape is present, which it is in half of the questions."""
    first, *rest = _kinds(rng, 3 + turn % 3)
    present = turn % 2 == 0
    shapes = scene(rng, [first, *rest[1:]] if present else rest, turn)
    return SceneQuestion(shapes, describe(shapes), f"is there {with_article(first)}?", "yes" if present else "no")


_KINDS_OF_QUESTION = (_colour, _count, _relation, _shape, _presence)


def _kinds(rng: np.random.Generator, count: int) -> list[str]:
    """Draw different kinds of shape."""
    return [str(kind) for kind in rng.permutation(SHAPES)[:count]]
